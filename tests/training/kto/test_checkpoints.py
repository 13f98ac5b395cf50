"""Which checkpoint a round resumes from, and which folders go."""

from pathlib import Path

from training.kto.checkpoints import mark_complete, prune, resume_point, whole_checkpoints


def checkpoint(run_dir: Path, step: int, fingerprint: str = "now", whole: bool = True) -> Path:
    folder = run_dir / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"0")
    if whole:
        mark_complete(folder, fingerprint)
    return folder


def steps(run_dir: Path) -> list[int]:
    return [found.step for found in whole_checkpoints(run_dir)]


def resumed_step(folder: Path) -> int | None:
    found = resume_point(folder, "now")
    return None if found is None else found.step


def test_a_folder_without_its_marker_is_removed(tmp_path: Path) -> None:
    checkpoint(tmp_path, 16)
    cut = checkpoint(tmp_path, 18, whole=False)
    other = tmp_path / "checkpoint-notes"
    other.mkdir()
    assert resumed_step(tmp_path) == 16
    assert not cut.exists()
    assert other.exists()


def test_the_newest_comes_first(tmp_path: Path) -> None:
    for step in (20, 100, 24):
        checkpoint(tmp_path, step)
    assert resumed_step(tmp_path) == 100


def test_other_data_starts_the_round_again(tmp_path: Path) -> None:
    checkpoint(tmp_path, 16, "other")
    assert resume_point(tmp_path, "now", remove=False) is None and steps(tmp_path) == [16]
    assert resumed_step(tmp_path) is None and steps(tmp_path) == []


def test_without_a_checkpoint_a_round_begins_at_its_start(tmp_path: Path) -> None:
    assert resumed_step(tmp_path / "absent") is None


def test_prune_keeps_the_newest(tmp_path: Path) -> None:
    for step in (16, 20, 24):
        checkpoint(tmp_path, step)
    prune(tmp_path)
    assert steps(tmp_path) == [24]
