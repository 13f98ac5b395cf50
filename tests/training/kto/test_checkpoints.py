"""Which checkpoint a round resumes from, and which folders go."""

from pathlib import Path
from typing import Any

import pytest

from scorers.errors import UserError
from training.kto.checkpoints import mark_complete, prune, require_same_run, resume_point, whole_checkpoints

RUN = {"learning_rate": 0.1}


def checkpoint(run_dir: Any, step: int, fingerprint: str = "now", whole: Any = True) -> Any:
    folder = run_dir / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"0")
    if whole:
        mark_complete(folder, fingerprint, RUN)
    return folder


def steps(run_dir: Any) -> Any:
    return [found.step for found in whole_checkpoints(run_dir)]


def resumed_step(folder: Path) -> int | None:
    found = resume_point(folder, 16, 32, "now")
    return None if found is None else found.step


def test_a_folder_without_its_marker_is_removed(tmp_path: Path) -> None:
    checkpoint(tmp_path, 16, "before")
    cut = checkpoint(tmp_path, 18, whole=False)
    other = tmp_path / "checkpoint-notes"
    other.mkdir()
    assert resumed_step(tmp_path) == 16
    assert not cut.exists()
    assert other.exists()


def test_the_rounds_own_newest_comes_first(tmp_path: Path) -> None:
    for step, fingerprint in ((16, "before"), (20, "now"), (100, "now"), (24, "now")):
        checkpoint(tmp_path, step, fingerprint)
    assert resumed_step(tmp_path) == 24
    assert steps(tmp_path) == [16, 20, 24]  # step 100 is of a later round, which this one outdates


def test_other_data_starts_the_round_again(tmp_path: Path) -> None:
    checkpoint(tmp_path, 16, "before")
    checkpoint(tmp_path, 20, "other")
    assert resumed_step(tmp_path) == 16
    assert steps(tmp_path) == [16]


def test_the_first_round_needs_none_a_later_one_does(tmp_path: Path) -> None:
    assert resume_point(tmp_path, 0, 16, "now") is None
    with pytest.raises(UserError, match="no checkpoint of step 16, where the round before ended"):
        resume_point(tmp_path, 16, 32, "now")


def test_prune_keeps_the_newest_and_the_rounds_start(tmp_path: Path) -> None:
    for step in (16, 20, 24):
        checkpoint(tmp_path, step)
    prune(tmp_path, 16)
    assert steps(tmp_path) == [16, 24]
    prune(tmp_path, 24)
    assert steps(tmp_path) == [24]


def test_settings_do_not_change_within_a_run(tmp_path: Path) -> None:
    checkpoint(tmp_path, 16)
    found = whole_checkpoints(tmp_path)[0]
    require_same_run(found, RUN)
    with pytest.raises(UserError, match=r"began with learning_rate 0\.1, now it is 0\.2"):
        require_same_run(found, {"learning_rate": 0.2})
