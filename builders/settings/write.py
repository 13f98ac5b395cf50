"""`grace init`: a commented configuration file, made from the settings classes."""

import math
from collections.abc import Iterator
from pathlib import Path

import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from builders.settings.load import sections_in
from scorers.errors import UserError

HEADER = """\
# Configuration of grace. Every line that is commented out shows a default; `preset:` fills in whatever is not set here.
# Presets: tiny (a generated world), qwen2.5-0.5b (one small GPU or a CPU), paper-72b (the paper's settings).
# A section that comes in kinds shows one; what another kind has instead or besides stands below it, after a second #.
preset: tiny
"""


def write_config(path: str, settings: type[BaseModel]) -> Path:
    """Write a file that shows every setting of a pipeline.

    Args:
        path: the file to make.
        settings: the pipeline's settings class.

    Raises:
        UserError: where the file exists already, or its folder does not.
    """
    target = Path(path)
    if target.exists():
        raise UserError(f"{path} exists already; give another name or remove it")
    if not target.parent.is_dir():
        raise UserError(f"{path}: no folder {target.parent}; make it first or give another name")
    target.write_text(HEADER + "\n".join(_lines(settings, 0)) + "\n", encoding="utf-8")
    return target


def _lines(model: type[BaseModel], depth: int, defaults: object = None) -> Iterator[str]:
    """Yield the commented lines of a section.

    Args:
        model: the section's class.
        depth: levels of indentation.
        defaults: a section whose values are shown in place of the class's defaults; None for these.
    """
    pad = "  " * depth
    for name, field in model.model_fields.items():
        default = getattr(defaults, name) if defaults else field.get_default(call_default_factory=True)
        sections = sections_in(field.annotation)
        if sections:
            section = type(default) if type(default) in sections else sections[0]
            yield f"# {pad}{name}:{_comment(field.description or section.__doc__)}"
            # A section may have other defaults than its class, as the two sets of relevance weights do.
            yield from _lines(section, depth + 1, default if isinstance(default, section) else None)
            # Of the section's other kinds, the lines that the shown kind does not have, behind a second #.
            shown = set(_lines(section, depth + 1))
            for other in sections:
                below = f"# {pad}  "
                own = (line for line in _lines(other, depth + 1) if line not in shown)
                yield from (f"{below}# {line.removeprefix(below)}" for line in own)
            continue
        value = "…" if default is PydanticUndefined else _yaml(default)
        yield f"# {pad}{name}: {value}{_comment(field.description)}"


def _yaml(value: object) -> str:
    """Return a value as YAML on one line."""
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True, width=math.inf).removesuffix("\n...\n").strip()


def _comment(text: str | None) -> str:
    """Return a description as a trailing comment; empty for none."""
    return f"  # {' '.join(text.split())}" if text else ""
