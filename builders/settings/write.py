"""Configurations as text: the commented file that `grace init` writes, and the whole one that `grace config` prints.

Both have a line for every setting. A section that comes in kinds, such as an engine, shows the kind that is chosen.
"""

import math
import os
from collections.abc import Collection, Iterator
from pathlib import Path

import yaml
from pydantic import BaseModel

from builders.settings.base import Settings, shown_fields
from builders.settings.load import DEFAULT, Configuration, preset_names, sections_in
from scorers.errors import UserError

HEADER = """\
# Configuration of grace. Every line that is commented out shows the value that counts without it: the preset's, or the
# default. Presets: {presets}; `grace config` shows where each value comes from.
# A section that comes in kinds shows one; what another kind has instead or besides stands below it, after a second #.
preset: {preset}
"""


def write_config(path: str, preset: str, settings: Settings) -> Path:
    """Write a file that shows every setting of a pipeline, with the values of a preset.

    Args:
        path: the file to make.
        preset: name of the preset that the file starts from.
        settings: the preset's settings.

    Raises:
        UserError: where the file exists already, or cannot be made.
    """
    target = Path(path)
    if os.path.lexists(target):
        raise UserError(f"{path} exists already; give another name or remove it")
    if not target.parent.is_dir():
        raise UserError(f"{path}: no folder {target.parent}; make it first or give another name")
    text = header(preset) + "\n".join(_commented(settings, 0)) + "\n"
    try:
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}; give another name") from None
    return target


def header(preset: str) -> str:
    """Return the first lines of a file that starts from a preset."""
    return HEADER.format(presets=", ".join(preset_names()), preset=preset)


def describe(found: Configuration) -> Iterator[tuple[str, str, str | None]]:
    """Yield every section and setting of a configuration.

    Yields:
        Its dotted path, its line of YAML, and where its value comes from; None for a section.
    """
    for path, line in _whole(found.settings, ""):
        if line.endswith(":"):
            yield path, line, None
            continue
        origin = found.values.origin(path)
        # A section's seed follows from the root's, unless it sets its own.
        yield path, line, "random_seed" if origin == DEFAULT and path.endswith(".seed") else origin


def _whole(section: BaseModel, path: str) -> Iterator[tuple[str, str]]:
    """Yield the dotted path and the line of each setting of a section; a section's own line ends with a colon."""
    pad = "  " * path.count(".")
    for name in shown_fields(type(section)):
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield f"{path}{name}", f"{pad}{name}:"
            yield from _whole(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", f"{pad}{name}: {_yaml(value)}"


def _commented(section: BaseModel, depth: int, leave_out: Collection[str] = ()) -> Iterator[str]:
    """Yield the commented lines of a section with its values.

    Args:
        section: the section.
        depth: levels of indentation.
        leave_out: names of settings that get no line.
    """
    pad = "  " * depth
    for name, field in shown_fields(type(section)).items():
        if name in leave_out:
            continue
        value = getattr(section, name)
        if not isinstance(value, BaseModel):
            yield f"# {pad}{name}: {_yaml(value)}{_comment(field.description)}"
            continue
        yield f"# {pad}{name}:{_comment(field.description or type(value).__doc__)}"
        yield from _commented(value, depth + 1)
        # Of the section's other kinds, the settings that the shown kind does not have, behind a second #.
        common = shown_fields(type(value)).keys() - {"kind"}
        for other in sections_in(field.annotation):
            if other is not type(value):
                below = f"# {pad}  "
                own = [line.removeprefix(below) for line in _commented(other(), depth + 1, common)]
                yield from (f"{below}# {line}" for line in own if len(own) > 1)


def _yaml(value: object) -> str:
    """Return a value as YAML on one line."""
    plain = _plain(value)
    text = yaml.safe_dump(plain, default_flow_style=True, width=math.inf, allow_unicode=True)
    return text.removesuffix("\n...\n").strip()


def _plain(value: object) -> object:
    """Return a value as YAML has it; of sections in a list or a mapping what differs from the defaults."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_defaults=True)
    if isinstance(value, dict):
        return {key: _plain(below) for key, below in value.items()}
    return [_plain(below) for below in value] if isinstance(value, tuple) else value


def _comment(text: str | None) -> str:
    """Return a description as a trailing comment; empty for none."""
    return f"  # {' '.join(text.split())}" if text else ""
