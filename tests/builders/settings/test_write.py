"""`grace init`: a file that loads as it is, holds every setting, and whose commented lines are true."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from builders.grace_kto.settings import GraceKTOSettings
from builders.settings.base import shown_fields
from builders.settings.engines import OpenAIEngineSettings, VllmEngineSettings
from builders.settings.load import located, preset_names, sections_in
from builders.settings.write import header
from scorers.errors import UserError
from training.pipelines import PIPELINES, init_config, load_config


def init(folder: Path, preset: str = "tiny") -> Path:
    return init_config(str(folder / "grace.yaml"), preset)


def uncommented(path: Path, preset: str = "tiny", *, kinds: bool = False) -> dict[str, Any]:
    """What the commented lines of the file say; with `kinds` those of other kinds too, which then come last."""
    lines = path.read_text().removeprefix(header(preset)).splitlines()
    assert all(line.startswith("# ") for line in lines)
    text = "\n".join(line.removeprefix("# ") for line in lines)
    data: dict[str, Any] = yaml.safe_load(re.sub(r"^( *)# ", r"\1", text, flags=re.MULTILINE) if kinds else text)
    return data


def loaded(folder: Path, data: dict[str, Any]) -> GraceKTOSettings:
    path = Path(os.path.relpath(folder / "some.yaml"))
    path.write_text(yaml.safe_dump(data))
    config: GraceKTOSettings = load_config(str(path))
    return config


@pytest.mark.parametrize("preset", preset_names())
def test_the_file_loads_as_the_preset_it_names(tmp_path: Path, preset: str) -> None:
    assert load_config(str(init(tmp_path, preset))) == located_in(load_config(preset), tmp_path)


def located_in(config: Any, folder: Path) -> Any:
    """The settings of a preset with its files in a folder, as a file there means them."""
    sections = {name: getattr(config, name) for name in ("seed", "evaluate", "taxonomy") if hasattr(config, name)}
    moved = {
        name: section.model_copy(update={"source": located(Path(section.source).name, folder)})
        for name, section in sections.items()
        if getattr(section, "source", None) is not None
    }
    return config.model_copy(update=moved)


def test_it_is_found_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = init_config("grace.yaml", None)
    assert load_config(None) == load_config("tiny")
    path.write_text(path.read_text().replace("preset: tiny", "preset: paper-72b\nname: mine"))
    config = load_config(None)
    assert config.name == "mine" and config.train.method == "qlora"


@pytest.mark.parametrize("preset", preset_names())
def test_every_commented_line_is_a_setting_with_the_presets_value(
    tmp_path: Path, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = uncommented(init(tmp_path, preset), preset)
    assert list(data) == list(type(load_config(preset)).model_fields)
    assert loaded(tmp_path, data) == load_config(preset)


def test_the_lines_of_another_kind_are_its_settings_with_their_defaults(tmp_path: Path) -> None:
    data = uncommented(init(tmp_path), kinds=True)
    policy = data["engines"]["policy"]
    assert policy["kind"] == "openai" and policy["tensor_parallel"] == 1 and policy["concurrency"] == 64
    for kind in (VllmEngineSettings, OpenAIEngineSettings):
        own = {name: value for name, value in policy.items() if name in kind.model_fields}
        own["kind"] = kind.model_fields["kind"].default
        config = loaded(tmp_path, data | {"engines": {"policy": own}})
        assert isinstance(config.engines.policy, kind)
    shown = uncommented(init_again(tmp_path, "paper-72b"), "paper-72b")
    assert shown["engines"]["policy"]["tensor_parallel"] == 8


def init_again(folder: Path, preset: str) -> Path:
    return init_config(str(folder / f"{preset}.yaml"), preset)


def paths(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """Every setting of a pipeline as a dotted path, of every kind of a section."""
    for name, field in shown_fields(model).items():
        # A list or a mapping of sections is one setting.
        several = str(field.annotation).startswith(("tuple[", "dict["))
        sections = [] if several else sections_in(field.annotation)
        if not sections:
            yield f"{path}{name}"
        for section in sections:
            yield from paths(section, f"{path}{name}.")


def leaves(data: dict[str, Any], path: str = "") -> Iterator[str]:
    """The dotted paths of nested mappings."""
    for name, value in data.items():
        if isinstance(value, dict) and value:  # an empty mapping is the default of a setting
            yield from leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}"


@pytest.mark.parametrize("pipeline", PIPELINES, ids=lambda pipeline: pipeline.name)
def test_every_setting_of_the_pipeline_is_written(tmp_path: Path, pipeline: Any) -> None:
    path = init(tmp_path, pipeline.preset)
    found = list(leaves(uncommented(path, pipeline.preset, kinds=True)))
    assert sorted(found) == sorted(set(paths(pipeline.settings)))
    assert "engines.policy.tensor_parallel" in found and "world.seed" in found and "pipeline" in found


def test_settings_that_have_a_description_show_it(tmp_path: Path) -> None:
    text = init(tmp_path).read_text()
    assert "#   rounds: 24  # R, dataset renewals; 1 with K = total is the offline variant\n" in text
    assert "#     # tensor_parallel: 1  # GPUs each layer is spread over\n" in text


def test_the_presets_values_are_shown_in_place_of_the_defaults(tmp_path: Path) -> None:
    text = init(tmp_path).read_text()
    assert "#   queries: 32  # K, new queries per round\n" in text and "# name: tiny" in text and "…" not in text
    assert "#   queries: 250  # K, new queries per round\n" in init_again(tmp_path, "paper-72b").read_text()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "grace.yaml"
    path.write_text("mine")
    with pytest.raises(UserError, match="exists already; give another name or remove it"):
        init(tmp_path)
    assert path.read_text() == "mine"
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    for name, words in (
        ("missing/grace.yaml", "no folder .*missing; make it first"),
        ("loop.yaml", "exists already"),
        ("x" * 300, "cannot be written: File name too long; give another name"),
    ):
        with pytest.raises(UserError, match=words):
            init_config(str(tmp_path / name), None)


def test_a_file_starts_from_a_preset_and_not_from_a_file(tmp_path: Path) -> None:
    path = init(tmp_path)
    for name, words in (("tinny", "no preset, did you mean tiny?; a new file starts"), (str(path), "no preset; a new")):
        with pytest.raises(UserError) as error:
            init_config(str(tmp_path / "new.yaml"), name)
        assert words in str(error.value) and not (tmp_path / "new.yaml").exists()
