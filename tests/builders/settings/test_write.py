"""`grace init`: a file that loads as it is, and whose commented lines are true."""

from pathlib import Path

import pytest
import yaml

from builders.grace_kto.settings import GraceKTOSettings
from builders.settings.write import HEADER, write_config
from scorers.errors import UserError
from training.pipelines import load_config


def test_the_file_loads_as_the_preset_it_names(tmp_path: Path) -> None:
    path = write_config(str(tmp_path / "grace.yaml"))
    assert load_config(str(path)) == load_config("tiny")


def test_it_is_found_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_config("grace.yaml")
    path.write_text(path.read_text().replace("preset: tiny", "preset: paper-72b\nname: mine"))
    config = load_config(None)
    assert config.name == "mine" and config.train.method == "qlora"


def test_every_commented_line_is_a_setting_with_its_default(tmp_path: Path) -> None:
    text = write_config(str(tmp_path / "grace.yaml")).read_text()
    lines = text.removeprefix(HEADER).splitlines()
    assert all(line.startswith("# ") for line in lines)
    data = yaml.safe_load("\n".join(line.removeprefix("# ") for line in lines))
    assert list(data) == list(GraceKTOSettings.model_fields)
    needed = {
        "name": "mine",
        "models": {"base": "b", "general": "g", "domain": "d", "relevance": "r"},
        "seed": {"source": "s.jsonl"},
        "evaluate": {"source": "e.jsonl"},
    }
    for section, values in needed.items():
        if isinstance(values, dict):
            assert {data[section][key] for key in values} == {"…"}
            data[section] |= values
        else:
            data[section] = values
    (tmp_path / "all.yaml").write_text(yaml.safe_dump(data))
    (tmp_path / "few.yaml").write_text(yaml.safe_dump(needed | {"world": {}}))
    assert load_config(str(tmp_path / "all.yaml")) == load_config(str(tmp_path / "few.yaml"))


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "grace.yaml"
    path.write_text("mine")
    with pytest.raises(UserError, match="exists already; give another name or remove it"):
        write_config(str(path))
    assert path.read_text() == "mine"
    with pytest.raises(UserError, match=r"no folder .*missing; make it first"):
        write_config(str(tmp_path / "missing" / "grace.yaml"))
