"""Reading a configuration: a preset or a YAML file with `--set` on top, checked by the pipeline's settings class."""

import functools
import json
import re
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from builders.settings.base import Settings
from scorers.errors import UserError, did_you_mean

DEFAULT_FILE = "grace.yaml"
DEFAULT_PRESET = "tiny"


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which also reads 1e-3 as a number, as YAML 1.2 does; YAML 1.1 asks for 1.0e-3."""


# The last argument lists the characters with which such a number can begin.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+"), list("-+0123456789")
)


def read_yaml(text: str) -> Any:
    """Parse YAML.

    Raises:
        yaml.YAMLError: for a text that is not YAML.
    """
    return yaml.load(text, Loader=_Loader)  # a subclass of SafeLoader


@functools.cache
def preset_names() -> tuple[str, ...]:
    """Return the names of the presets that come with the package."""
    folder = resources.files("builders.settings") / "presets"
    return tuple(sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")))


def preset_text(name: str) -> str:
    """Return the YAML text of a preset."""
    return (resources.files("builders.settings") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")


def load_settings(
    source: str | None,
    pipelines: Mapping[str, type[Settings]],
    overrides: Iterable[str] = (),
    store: str | None = None,
) -> Settings:
    """Read a preset or a YAML file and apply overrides.

    Args:
        source: a preset's name or a file; None takes `grace.yaml` in the working directory, else the preset `tiny`.
        pipelines: the settings class of each pipeline; the first one counts where a file names no pipeline.
        overrides: `section.key=value`, values as YAML.
        store: folder of the local store, in place of the configuration's.

    Raises:
        UserError: for an unknown preset, an unreadable file, an unknown key (with the closest one) or a bad value.
    """
    data, where, folder = _read(source)
    for override in overrides:
        _apply(data, override)
    if store is not None:
        data["store"] = store
    settings = _settings_class(data, pipelines, where)
    try:
        # Validated as JSON, in which lists stand for tuples; default=str turns YAML's dates back into texts.
        return settings.model_validate_json(json.dumps(data, default=str), context={"folder": folder})
    except ValidationError as error:
        raise UserError(_describe(error, settings, where)) from None


def _settings_class(data: Mapping[str, Any], pipelines: Mapping[str, type[Settings]], where: str) -> type[Settings]:
    """Return the settings class of the pipeline that a configuration names."""
    name = str(data.get("pipeline", next(iter(pipelines))))
    if name not in pipelines:
        raise UserError(
            f"{where}: pipeline: {name} is unknown{did_you_mean(name, pipelines)}; pipelines: {', '.join(pipelines)}"
        )
    return pipelines[name]


def _read(source: str | None) -> tuple[dict[str, Any], str, Path]:
    """Return the values of a preset or a file, on top of its preset, how to name it in a message, and its folder."""
    if source is None:
        source = DEFAULT_FILE if Path(DEFAULT_FILE).is_file() else DEFAULT_PRESET
    if source in preset_names():
        return read_yaml(preset_text(source)), f"preset {source}", Path()
    path = Path(source)
    if not path.is_file():
        raise UserError(
            f"--config {source}: neither a file nor a preset{did_you_mean(source, preset_names())}; "
            f"presets: {', '.join(preset_names())}"
        )
    try:
        data = read_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: holds {type(data).__name__}, a mapping of sections is needed; see `grace init`")
    base = data.pop("preset", None)
    if base is None:
        return data, str(path), path.parent
    if base not in preset_names():
        close = did_you_mean(str(base), preset_names())
        raise UserError(f"{path}: preset: {base} is unknown{close}; presets: {', '.join(preset_names())}")
    # `preset:` in a file fills in what the file does not set.
    return _merge(read_yaml(preset_text(base)), data), str(path), path.parent


def _merge(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `top` in their place, section by section."""
    merged = dict(base)
    for key, value in top.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _apply(data: dict[str, Any], override: str) -> None:
    """Set one value, given as `section.key=value`."""
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise UserError(f"--set {override}: expected section.key=value, such as --set generate.queries=64")
    *sections, key = path.split(".")
    for section in sections:
        child = data.setdefault(section, {})
        if child is None:
            child = data[section] = {}  # `section:` with nothing below it is null in YAML
        if not isinstance(child, dict):
            raise UserError(f"--set {override}: {section} is a value, not a section")
        data = child
    try:
        data[key] = read_yaml(text)
    except yaml.YAMLError as error:
        raise UserError(f"--set {override}: {text!r} is not a YAML value: {' '.join(str(error).split())}") from None


def _describe(error: ValidationError, settings: type[Settings], where: str) -> str:
    """Return the first fault in one line, with the closest match for an unknown key."""
    fault = error.errors(include_url=False)[0]
    *sections, key = fault["loc"] or ("it",)
    path, allowed = _place(settings, sections)
    # Below a single value pydantic's location names the type that was tried.
    location = ".".join([*path, str(key)] if allowed else path)
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
        return f"{where}: {location} is {fault['input']!r}: a section is needed{more}"
    return f"{where}: {location} is {fault['input']!r}: {fault['msg'][0].lower()}{fault['msg'][1:]}{more}"


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
        else:
            models = [m for m in models if "kind" in m.model_fields and m.model_fields["kind"].default == part]
    return path, list(models[0].model_fields) if models else []


def sections_in(annotation: object) -> list[type[BaseModel]]:
    """Return the sections that a setting's type allows, in their order; none for a plain value."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in get_args(annotation) for section in sections_in(part)]
