"""Checkpoints of a run over several rounds: which are whole, which one a round resumes from, which may go.

The trainer writes `checkpoint-<step>/` file by file. `complete.json` is written into it last, by rename: a folder
without it was cut short by a crash and is removed before the next start. It holds the round's fingerprint, so that a
checkpoint from within a round is used for the same data and settings only, and the run's settings, which must not
change from round to round: optimizer and schedule travel with the checkpoint.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builders.store.files import write_text
from scorers.errors import UserError

MARKER = "complete.json"
PREFIX = "checkpoint-"


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint: its folder, the optimizer steps done, the fingerprint of its round, the run's settings."""

    path: Path
    step: int
    fingerprint: str
    run: Mapping[str, Any]


def mark_complete(folder: Path, fingerprint: str, run: Mapping[str, Any]) -> None:
    """Declare a checkpoint whole; the last thing written into it."""
    write_text(folder / MARKER, json.dumps({"fingerprint": fingerprint, "run": dict(run)}))


def whole_checkpoints(run_dir: Path, remove: bool = True) -> list[Checkpoint]:
    """The whole checkpoints of a run by step; folders that a crash cut short are removed if `remove`."""
    found = []
    for folder in run_dir.glob(f"{PREFIX}*"):
        step = folder.name.removeprefix(PREFIX)
        if not step.isdigit():
            continue
        marker = folder / MARKER
        if marker.is_file():
            stored = json.loads(marker.read_text("utf-8"))
            found.append(Checkpoint(folder, int(step), stored["fingerprint"], stored["run"]))
        elif remove:
            shutil.rmtree(folder)
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def resume_point(
    run_dir: Path, first_step: int, last_step: int, fingerprint: str, remove: bool = True
) -> Checkpoint | None:
    """The checkpoint a round starts from: its own newest, else the end of the round before.

    Checkpoints of this round with another fingerprint (other data, other settings) and of later rounds are removed.

    Args:
        run_dir: the folder of all rounds' checkpoints.
        first_step: steps done before this round.
        last_step: steps done after it.
        fingerprint: what this round's own checkpoints must carry.
        remove: whether this process removes what is of no use; of several processes one should.

    Returns:
        None in the first round without a checkpoint.

    Raises:
        UserError: the round before left no checkpoint.
    """
    before, own = None, None
    for checkpoint in whole_checkpoints(run_dir, remove):
        if checkpoint.step == first_step:
            before = checkpoint
        elif first_step < checkpoint.step <= last_step and checkpoint.fingerprint == fingerprint:
            own = checkpoint
        elif checkpoint.step > first_step and remove:
            shutil.rmtree(checkpoint.path)
    if own is None and before is None and first_step > 0:
        raise UserError(
            f"{run_dir} has no checkpoint of step {first_step}, where the round before ended; "
            "its optimizer state is needed: train that round again, with the same folder"
        )
    return own or before


def require_same_run(checkpoint: Checkpoint, run: Mapping[str, Any]) -> None:
    """Check that a run goes on with the settings it began with.

    Raises:
        UserError: naming the first setting that differs.
    """
    for name, value in run.items():
        if checkpoint.run.get(name) != value:
            raise UserError(
                f"this run began with {name} {checkpoint.run.get(name)}, now it is {value}; optimizer and schedule "
                f"travel with the checkpoint: keep the setting or start a new run in another folder"
            )


def prune(run_dir: Path, first_step: int) -> None:
    """Remove all whole checkpoints but the newest and the one this round started from."""
    checkpoints = whole_checkpoints(run_dir)
    for checkpoint in checkpoints[:-1]:
        if checkpoint.step != first_step:
            shutil.rmtree(checkpoint.path)
