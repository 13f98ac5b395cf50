"""Reading a configuration: a preset or a YAML file with `--set` on top, checked by the pipeline's settings class."""

import functools
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from builders.settings.base import PATH, Settings, shown_fields
from builders.settings.yaml_text import read_plain
from scorers.errors import UserError, did_you_mean

DEFAULT_FILE = "grace.yaml"
DEFAULT_PRESET = "tiny"

# Where a value comes from, besides a preset and a file, which are named.
SET = "--set"
STORE = "--store"
DEFAULT = "default"
PRESET = "preset "  # and its name
VARIANT = "variant "  # and its name

# A text that can only be a path: it begins like one, has several folders, or ends as a file does.
_PATH_LIKE = re.compile(r"(~|\.{0,2}/)|[^/:]+/[^/:]+/|.*\.(jsonl?|csv|tsv|parquet|txt|jinja)(\.[a-z0-9]+)?$")


@dataclass
class Values:
    """The values of a configuration as they were read, before they are validated.

    Attributes:
        data: the values, section by section.
        origins: where each value comes from, by dotted path; a later source's replaces an earlier one's.
        where: the file or preset, as messages name it.
        folder: folder that relative paths count from: the file's, for a preset alone the working directory.
    """

    data: dict[str, Any]
    origins: dict[str, str]
    where: str
    folder: Path = Path()

    def origin(self, path: str) -> str:
        """Return where a value comes from: a section from the command line if a part does, one in a list as that."""
        known = [origin for name, origin in self.origins.items() if name == path or name.startswith(f"{path}.")]
        known = known or [origin for name, origin in self.origins.items() if path.startswith(f"{name}.")]
        return known[-1] if known else DEFAULT

    def at(self, path: str) -> dict[str, Any]:
        """Return the section at a dotted path; empty where there is none."""
        section: Any = self.data
        for name in path.split(".") if path else ():
            section = section.get(name)
        return section if isinstance(section, dict) else {}

    def drop(self, path: str) -> None:
        """Leave out the value at a dotted path."""
        section, _, key = path.rpartition(".")
        del self.at(section)[key]
        self.origins = {name: old for name, old in self.origins.items() if not f"{name}.".startswith(f"{path}.")}

    def put(self, path: str, value: Any, origin: str) -> None:
        """Set the value at a dotted path, and replace what stood there."""
        *sections, key = path.split(".")
        data = self.data
        for section in sections:
            child = data.setdefault(section, {})
            if child is None:
                child = data[section] = {}  # `section:` with nothing below it is null in YAML
            if not isinstance(child, dict):
                raise UserError(f"{origin} {path}: {section} is a value, not a section")
            data = child
        data[key] = value
        self.origins = {
            name: old for name, old in self.origins.items() if name != path and not name.startswith(f"{path}.")
        } | dict.fromkeys(_leaves(value, path), origin)


@dataclass(frozen=True)
class Configuration:
    """Validated settings, and where each value comes from.

    Attributes:
        settings: the settings.
        values: the values that were read.
    """

    settings: Settings
    values: Values = field(repr=False)


@functools.cache
def preset_names() -> tuple[str, ...]:
    """Return the names of the presets that come with the package."""
    folder = resources.files("builders.settings") / "presets"
    return tuple(sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")))


def preset_text(name: str) -> str:
    """Return the YAML text of a preset."""
    return (resources.files("builders.settings") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")


def read_configuration(
    source: str | None,
    pipelines: Mapping[str, type[Settings]],
    overrides: Iterable[str] = (),
    store: str | None = None,
    names: Collection[str] = (),
) -> Configuration:
    """Read a preset or a YAML file and apply overrides.

    A setting that may be a path counts from the folder of its file, on the command line from the working directory.

    Args:
        source: a preset's name or a file; None takes `grace.yaml` in the working directory, else the preset `tiny`.
        pipelines: the settings class of each pipeline; the first one counts where a file names no pipeline.
        overrides: `section.key=value`, values as YAML.
        store: folder of the local store, in place of the configuration's.
        names: texts that stand for something else, such as a stage's result, and never for a file of that name.

    Raises:
        UserError: for an unknown preset, an unreadable file, a key that is unknown (with the closest one) or stands
            twice, or a bad value.
    """
    values = _read(source)
    for override in overrides:
        _apply(values, override)
    if store is not None:
        values.put("store", store, STORE)
    settings = _settings_class(values, pipelines)
    _put_variant(values, settings)
    _leave_other_kinds(values, settings)
    _locate(values, settings, names)
    try:
        # Validated as JSON, in which lists stand for tuples.
        return Configuration(settings.model_validate_json(json.dumps(values.data)), values)
    except ValidationError as error:
        raise UserError(_describe(error, settings, values)) from None


def _settings_class(values: Values, pipelines: Mapping[str, type[Settings]]) -> type[Settings]:
    """Return the settings class of the pipeline that a configuration names."""
    name = str(values.data.get("pipeline", next(iter(pipelines))))
    if name not in pipelines:
        raise UserError(
            f"{_place_of(values, 'pipeline')}: pipeline: {name} is unknown{did_you_mean(name, pipelines)}; "
            f"pipelines: {', '.join(pipelines)}"
        )
    return pipelines[name]


def _read(source: str | None) -> Values:
    """Return the values of a preset or a file, the file's on top of its preset's."""
    if source is None:
        source = DEFAULT_FILE if Path(DEFAULT_FILE).is_file() else DEFAULT_PRESET
    if source in preset_names():
        return _preset(source)
    path = Path(source)
    if not path.is_file():
        raise UserError(
            f"--config {source}: neither a file nor a preset{did_you_mean(source, preset_names())}; "
            f"presets: {', '.join(preset_names())}"
        )
    fault = f"{path}: not readable as YAML"
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{fault}: {error}; save it as UTF-8") from None
    data = read_plain(text, fault)
    if not isinstance(data, dict):
        raise UserError(f"{path}: holds {type(data).__name__}, a mapping of sections is needed; see `grace init`")
    base = data.pop("preset", None)
    if base is not None and base not in preset_names():
        close = did_you_mean(str(base), preset_names())
        raise UserError(f"{path}: preset: {base} is unknown{close}; presets: {', '.join(preset_names())}")
    # `preset:` in a file fills in what the file does not set.
    under = Values({}, {}, "") if base is None else _preset(base)
    origins = under.origins | dict.fromkeys(_leaves(data), path.name)
    if isinstance(data.get("store"), str):
        data["store"] = str(path.parent / os.path.expanduser(data["store"]))
    return Values(_merge(under.data, data), origins, str(path), path.parent)


def _preset(name: str) -> Values:
    """Return the values of a preset."""
    data = read_plain(preset_text(name), f"preset {name}")
    return Values(data, dict.fromkeys(_leaves(data), f"{PRESET}{name}"), f"{PRESET}{name}")


def _merge(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `top` in their place, section by section."""
    merged = dict(base)
    for key, value in top.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _leaves(value: Any, path: str = "") -> Iterator[str]:
    """Yield the dotted paths of the values in nested mappings."""
    if not isinstance(value, dict) or not value:
        yield path
        return
    for key, below in value.items():
        yield from _leaves(below, f"{path}.{key}" if path else key)


def _apply(values: Values, override: str) -> None:
    """Set one value, given as `section.key=value`."""
    path, equals, text = override.partition("=")
    if not equals or not all(path.split(".")):
        raise UserError(f"--set {override}: expected section.key=value, such as --set generate.queries=64")
    values.put(path, read_plain(text, f"--set {override}: {text!r} is not a YAML value"), SET)


def _put_variant(values: Values, settings: type[Settings]) -> None:
    """Set what a variant says, on top of the preset, beneath what the user says himself."""
    name = values.data.get("variant")
    chosen = settings.VARIANTS.get(name, {}) if isinstance(name, str) else {}
    own = {path: value for path, value in chosen.items() if _may_be_put(values, path)}
    for path, value in own.items():
        values.put(path, value, f"{VARIANT}{name}")
    # First among the origins, so that a fault of a whole section is laid to what the user has set of it.
    values.origins = dict.fromkeys(own, f"{VARIANT}{name}") | values.origins


def _may_be_put(values: Values, path: str) -> bool:
    """Whether the user has neither set this value nor put something that is no section where its section stands."""
    section: Any = values.data
    for name in path.split(".")[:-1]:
        section = section.get(name, {})
        if not isinstance(section, dict):
            return False
    origin = values.origin(path)
    return origin == DEFAULT or origin.startswith(PRESET)


def _leave_other_kinds(values: Values, settings: type[BaseModel], path: str = "") -> None:
    """Where a user chooses another kind of a section, drop what the preset says that this kind does not have."""
    section = values.at(path)
    for name, info in settings.model_fields.items():
        below = f"{path}.{name}" if path else name
        models = sections_in(info.annotation)
        kinds = {model.model_fields["kind"].default: model for model in models if "kind" in model.model_fields}
        if not isinstance(section.get(name), dict):
            continue
        for model in () if kinds else models:
            _leave_other_kinds(values, model, below)
        chosen = kinds.get(section[name].get("kind"))
        if chosen is not None and not values.origin(f"{below}.kind").startswith(PRESET):
            for key in section[name].keys() - chosen.model_fields.keys():
                if values.origin(f"{below}.{key}").startswith(PRESET):
                    values.drop(f"{below}.{key}")


def _locate(values: Values, settings: type[Settings], names: Collection[str]) -> None:
    """Make the paths among the values absolute, so that they mean the same file wherever a command is started.

    Identities hold only the last part of an absolute path, so a moved folder makes nothing stale.
    """
    for path in _path_settings(settings):
        *above, key = path.split(".")
        for section, whole in _sections_at(values.data, above):
            text = section.get(key)
            folder = Path() if values.origin(whole or path) == SET else values.folder
            if isinstance(text, str) and text not in names:
                section[key] = located(text, folder)
            elif isinstance(text, list):
                section[key] = [
                    located(one, folder) if isinstance(one, str) and one not in names else one for one in text
                ]


def _sections_at(
    section: Any, names: list[str], path: str = "", whole: str = ""
) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the sections below one by a path of names; one in a list with the path of the list, which is set whole."""
    if isinstance(section, list):
        for one in section:
            yield from _sections_at(one, names, path, whole or path)
    elif isinstance(section, dict) and names:
        below = f"{path}.{names[0]}" if path else names[0]
        yield from _sections_at(section.get(names[0]), names[1:], below, whole)
    elif isinstance(section, dict):
        yield section, whole


def located(text: str, folder: Path) -> str:
    """Return an existing path, or a text that can only be one, as an absolute path; other texts are names.

    Args:
        text: a path, or a name on the Hub or in the store.
        folder: folder that a relative path counts from.
    """
    if "\n" in text or "{" in text:  # a chat template as it stands
        return text
    path = os.path.abspath(folder / os.path.expanduser(text))
    return path if text and (os.path.exists(path) or _PATH_LIKE.match(text)) else text


def _path_settings(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """Yield the dotted paths of the settings that are marked `PATH`."""
    for name, info in model.model_fields.items():
        if PATH in info.metadata:
            yield f"{path}{name}"
        for section in sections_in(info.annotation):
            yield from _path_settings(section, f"{path}{name}.")


def _place_of(values: Values, path: str) -> str:
    """Return what a message about a value begins with: where the value comes from, else the file or preset."""
    origin = values.origin(path)
    return origin if origin in (SET, STORE) else values.where


def _describe(error: ValidationError, settings: type[Settings], values: Values) -> str:
    """Return the first fault in one line, with the closest match for an unknown key."""
    faults = error.errors(include_url=False)
    # Where a key is unknown and another is missing, the one is a misspelt other.
    fault = next((found for found in faults if found["type"] == "extra_forbidden"), faults[0])
    *sections, key = fault["loc"] or ("it",)
    path, allowed = _place(settings, sections)
    # Below a single value pydantic's location names the type that was tried.
    # Where a section comes in kinds and is wrong as a whole, the last key is the kind.
    of_kind = isinstance(fault["input"], dict) and "kind" in allowed and str(key) not in allowed
    location = ".".join([*path, str(key)] if allowed and not of_kind else path)
    where = values.where if fault["type"] == "missing" else _place_of(values, location)
    found = short(fault["input"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if fault["type"] == "extra_forbidden":
        close = did_you_mean(str(key), allowed)
        return f"{where}: unknown key {location}{close}; allowed there: {', '.join(sorted(allowed))}{more}"
    if fault["type"] == "missing":
        return f"{where}: {location} is missing; give it in the file or by --set {location}=VALUE{more}"
    if fault["type"] == "union_tag_invalid":
        tag, kinds = fault["ctx"]["tag"], fault["ctx"]["expected_tags"].replace("'", "")
        return f"{where}: {location}.kind is {tag!r}{did_you_mean(tag, kinds.split(', '))}; kinds: {kinds}{more}"
    if fault["type"] == "union_tag_not_found":
        return f"{where}: {location} is {found}: a section is needed{more}"
    said = fault["msg"].removeprefix("Value error, ")
    if of_kind:
        return f"{where}: {location}: {said}{more}"
    return f"{where}: {location} is {found}: {said[0].lower()}{said[1:]}{more}"


def _place(settings: type[Settings], location: Iterable[int | str]) -> tuple[list[str], list[str]]:
    """Return the path of a section as the user writes it, and the keys that it has.

    Where a section comes in kinds, pydantic's location also names the kind, which is no part of the user's path.
    """
    path: list[str] = []
    models: list[type[BaseModel]] = [settings]
    for part in map(str, location):
        holders = [model for model in models if part in model.model_fields]
        if holders:
            path.append(part)
            models = sections_in(holders[0].model_fields[part].annotation)
        elif any("kind" in model.model_fields for model in models):
            models = [m for m in models if "kind" in m.model_fields and m.model_fields["kind"].default == part]
        elif models:  # a section in a list or a mapping, by its number or name
            path.append(part)
    return path, list(shown_fields(models[0])) if models else []


def short(value: object) -> str:
    """Return a value as a message shows it, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def sections_in(annotation: object) -> list[type[BaseModel]]:
    """Return the sections that a setting's type allows, in their order; none for a plain value."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in get_args(annotation) for section in sections_in(part)]
