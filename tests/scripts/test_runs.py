"""Which kept results of runs are taken, and which are made anew."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from scripts import runs
from scripts.runs import Run, results, value
from training.world.stages import VERSION

RUN = Run(3, "mine", ("train.mu=0.25",))


def test_a_result_of_these_settings_is_taken(tmp_path: Path) -> None:
    kept = tmp_path / "docs" / "runs.jsonl"
    for recipe, seconds in (("another", 2.0), (RUN.recipe, 1.0)):
        runs._add(kept, {"recipe": recipe, "seconds": seconds})
    assert results(kept, tmp_path, [RUN, RUN], jobs=1)[RUN]["seconds"] == 1.0


@pytest.mark.parametrize(
    "other",
    ["", *(Run(*other).recipe for other in ((4, "mine", RUN.settings), (3, "mine"), (3, "mine", ("train.mu=0.2",))))],
)
def test_a_result_of_other_settings_is_not(other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "runs.jsonl"
    runs._add(kept, {"recipe": other, "seconds": 1.0})
    wanted: list[Run] = []
    monkeypatch.setattr(runs, "_make", lambda kept, folder, missing, jobs: wanted.extend(missing))
    with pytest.raises(KeyError):
        results(kept, tmp_path, [RUN], jobs=1)
    assert wanted == [RUN]


def test_another_version_of_the_world_is_another_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    before = RUN.recipe
    monkeypatch.setattr(runs, "VERSION", VERSION + 1)
    assert RUN.recipe != before


def test_the_first_policy_and_its_world_depend_on_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "world-3" / "whole"
    mark.parent.mkdir()
    mark.write_text(Run(3, "sft").recipe)
    assert runs._is_whole(tmp_path, 3)
    config_of = runs.config_of
    for setting, kept in (("train.mu=0.25", True), ("sft.steps=7", False)):
        preset = partial(changed, config_of, setting)
        monkeypatch.setattr(runs, "config_of", preset)
        assert runs._is_whole(tmp_path, 3) == kept


def changed(config_of: Callable[..., Any], setting: str, store: Path, world: int, *settings: str) -> Any:
    """The configuration of a run where the preset says something else."""
    return config_of(store, world, setting, *settings)


def test_a_run_that_ended_early_is_not_chosen_for_the_few_answers_that_it_gave() -> None:
    estimates = {"estimates": {"L": 90.0}}
    result = {"choice": estimates, "test": estimates, "ended": "no response is scored"}
    assert math.isnan(value(result, "L", "choice"))
    assert value(result, "L") == 90.0
    assert value({**result, "ended": None}, "L", "choice") == 90.0
