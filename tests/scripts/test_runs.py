"""Which kept results of runs are taken, and which are made anew."""

import json
from pathlib import Path

import pytest

from scripts import runs
from scripts.runs import FIRST_SECTIONS, Run, recipe, results
from training.world.stages import VERSION

RUN = Run(3, "mine", ("train.mu=0.25",))


def keep(folder: Path, made: str) -> None:
    file = folder / "results" / "3" / "mine.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"recipe": made, "seconds": 1.0}))


def test_a_result_of_these_settings_is_taken(tmp_path: Path) -> None:
    keep(tmp_path, recipe(3, RUN.settings))
    assert results(tmp_path, [RUN, RUN], jobs=1)[RUN]["seconds"] == 1.0


@pytest.mark.parametrize("other", [recipe(4, RUN.settings), recipe(3, ()), recipe(3, ("train.mu=0.2",)), ""])
def test_a_result_of_other_settings_is_not(other: str, tmp_path: Path) -> None:
    keep(tmp_path, other)
    assert runs._kept(tmp_path, RUN) is None


def test_another_version_of_the_world_is_another_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    before = recipe(3, ())
    monkeypatch.setattr(runs, "VERSION", VERSION + 1)
    assert recipe(3, ()) != before


def test_a_world_is_made_anew_for_another_first_policy_alone(tmp_path: Path) -> None:
    mark = tmp_path / "world-3" / "whole"
    mark.parent.mkdir()
    mark.write_text(recipe(3, ("train.mu=0.25",), FIRST_SECTIONS))
    assert runs._is_whole(tmp_path, 3)
    mark.write_text(recipe(3, ("sft.steps=7",), FIRST_SECTIONS))
    assert not runs._is_whole(tmp_path, 3)
