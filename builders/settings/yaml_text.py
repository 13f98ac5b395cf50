"""YAML as configurations are written in it: PyYAML's safe loader, with 1e-3 a number and no key twice."""

import json
import re
from typing import Any

import yaml

from scorers.errors import UserError


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which also reads 1e-3 as a number, as YAML 1.2 does; YAML 1.1 asks for 1.0e-3."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping and refuse a key that stands in it twice; PyYAML would silently take the last one."""
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        # Here `<<` is not resolved yet, which may bring a key that the mapping has itself.
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode):
                if key.value in lines:
                    first = lines[key.value]
                    raise yaml.YAMLError(
                        f"the key {key.value} stands on line {first} and again on line {line}; keep one"
                    )
                lines[key.value] = line
        return node


# The last argument lists the characters with which such a number can begin.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+"), list("-+0123456789")
)


# A copy of our own: some libraries make texts of dates in PyYAML's own loader once they are imported.
_Loader.add_constructor("tag:yaml.org,2002:timestamp", yaml.SafeLoader.construct_yaml_timestamp)  # type: ignore[type-var]


def read_yaml(text: str) -> Any:
    """Parse YAML.

    Raises:
        yaml.YAMLError: for a text that is not YAML, and for a mapping that has a key twice.
    """
    return yaml.load(text, Loader=_Loader)  # a subclass of SafeLoader


def read_plain(text: str, fault: str) -> Any:
    """Parse YAML into what JSON can hold: mappings with text keys, lists, texts, numbers, truth values and null.

    Dates become texts again.

    Args:
        text: the YAML.
        fault: the beginning of the message where it cannot be read.

    Raises:
        UserError: for a text that is not YAML, a key that stands twice, a value that holds itself.
    """
    try:
        return json.loads(json.dumps(read_yaml(text), default=str))
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise UserError(f"{fault}: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UserError(f"{fault}: it is nested too deeply") from None
