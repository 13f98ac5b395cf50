"""`grace init`: a file that loads as it is, holds every setting, and whose commented lines are true."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from builders.grace_kto.settings import Engines, GraceKTOSettings
from builders.settings.engines import VllmEngineSettings
from builders.settings.load import sections_in
from builders.settings.write import HEADER, write_config
from scorers.errors import UserError
from training.pipelines import PIPELINES, load_config

NEEDED: dict[str, Any] = {
    "name": "mine",
    "models": {"base": "b", "general": "g", "domain": "d", "relevance": "r"},
    "seed": {"source": "s.jsonl"},
    "evaluate": {"source": "e.jsonl"},
}


def init(folder: Path) -> Path:
    return write_config(str(folder / "grace.yaml"), GraceKTOSettings)


def uncommented(path: Path, *, kinds: bool = False) -> dict[str, Any]:
    """What the commented lines of the file say; with `kinds` those of other kinds too, which then come last."""
    lines = path.read_text().removeprefix(HEADER).splitlines()
    assert all(line.startswith("# ") for line in lines)
    text = "\n".join(line.removeprefix("# ") for line in lines)
    data: dict[str, Any] = yaml.safe_load(re.sub(r"^( *)# ", r"\1", text, flags=re.MULTILINE) if kinds else text)
    return data


def filled(data: dict[str, Any]) -> dict[str, Any]:
    """The settings with values where the file leaves them to the user."""
    for section, values in NEEDED.items():
        if isinstance(values, dict):
            assert {data[section][key] for key in values} == {"…"}
            data[section] |= values
        else:
            assert data[section] == "…"
            data[section] = values
    return data


def loaded(folder: Path, data: dict[str, Any]) -> GraceKTOSettings:
    path = folder / "some.yaml"
    path.write_text(yaml.safe_dump(data))
    config: GraceKTOSettings = load_config(str(path))
    return config


def test_the_file_loads_as_the_preset_it_names(tmp_path: Path) -> None:
    assert load_config(str(init(tmp_path))) == load_config("tiny")


def test_it_is_found_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_config("grace.yaml", GraceKTOSettings)
    path.write_text(path.read_text().replace("preset: tiny", "preset: paper-72b\nname: mine"))
    config = load_config(None)
    assert config.name == "mine" and config.train.method == "qlora"


def test_every_commented_line_is_a_setting_with_its_default(tmp_path: Path) -> None:
    data = uncommented(init(tmp_path))
    assert list(data) == list(GraceKTOSettings.model_fields)
    assert loaded(tmp_path, filled(data)) == loaded(tmp_path, NEEDED)


def test_the_lines_of_another_kind_are_its_settings_with_their_defaults(tmp_path: Path) -> None:
    config = loaded(tmp_path, filled(uncommented(init(tmp_path), kinds=True)))
    assert config.engines == Engines(policy=VllmEngineSettings())
    assert config.model_copy(update={"engines": Engines()}) == loaded(tmp_path, NEEDED)


def paths(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """Every setting of a pipeline as a dotted path, of every kind of a section."""
    for name, field in model.model_fields.items():
        sections = sections_in(field.annotation)
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
    path = write_config(str(tmp_path / "grace.yaml"), pipeline.settings)
    found = list(leaves(uncommented(path, kinds=True)))
    assert sorted(found) == sorted(set(paths(pipeline.settings)))
    assert "engines.policy.tensor_parallel" in found and "world.seed" in found and "pipeline" in found


def test_settings_that_have_a_description_show_it(tmp_path: Path) -> None:
    text = init(tmp_path).read_text()
    assert "#   rounds: 4  # R, dataset renewals; 1 with K = total is the offline variant\n" in text
    assert "#     # tensor_parallel: 1  # GPUs one model is spread over\n" in text


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "grace.yaml"
    path.write_text("mine")
    with pytest.raises(UserError, match="exists already; give another name or remove it"):
        write_config(str(path), GraceKTOSettings)
    assert path.read_text() == "mine"
    with pytest.raises(UserError, match=r"no folder .*missing; make it first"):
        write_config(str(tmp_path / "missing" / "grace.yaml"), GraceKTOSettings)
