"""Checkpoints of a run over several rounds: find the whole ones, choose where a round resumes, remove the others.

    run-0123456789abcdef/
        checkpoint-32/   end of round 1: weights, optimizer, scheduler, random state
            complete.json   {"fingerprint": "…", "run": {"learning_rate": 5e-06, …}}
        checkpoint-48/   newest of round 2
        reference.npz    reference log-probabilities of the current round

The trainer writes `checkpoint-<step>/` file by file and `complete.json` last, by rename: a folder without
`complete.json` was cut short by a crash and is removed before the next start. The file holds the fingerprint of the
round, so that a checkpoint from within a round is resumed for the same data and settings only; and the settings of the
run, which must not change from round to round, because optimizer and schedule travel with the checkpoint.
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
    """A whole checkpoint.

    Attributes:
        path: its folder.
        step: optimizer steps done, counted over all rounds.
        fingerprint: the fingerprint of the round that wrote it.
        run: the settings of the run that must stay the same in every round.
    """

    path: Path
    step: int
    fingerprint: str
    run: Mapping[str, Any]


def mark_complete(folder: Path, fingerprint: str, run: Mapping[str, Any]) -> None:
    """Declare a checkpoint whole, by writing its marker after all its other files."""
    write_text(folder / MARKER, json.dumps({"fingerprint": fingerprint, "run": dict(run)}))


def whole_checkpoints(run_dir: Path, remove: bool = True) -> list[Checkpoint]:
    """List the whole checkpoints of a run, the earliest first.

    Args:
        run_dir: the folder of all rounds' checkpoints; it may be missing.
        remove: whether to remove the folders that a crash cut short.
    """
    found = []
    for folder in run_dir.glob(f"{PREFIX}*"):
        step = folder.name.removeprefix(PREFIX)
        # A folder of somebody else's, such as `checkpoint-best`.
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
    """Choose the checkpoint that a round starts from: its own newest one, else the last one of the round before.

    Checkpoints of this round with another fingerprint (other data or settings) and those of later rounds are removed.

    Args:
        run_dir: the folder of all rounds' checkpoints.
        first_step: optimizer steps done before this round.
        last_step: optimizer steps done after it.
        fingerprint: what a checkpoint from within this round must carry.
        remove: whether this process removes useless checkpoints; only one process of several should.

    Returns:
        The checkpoint, or None in the first round where it has no checkpoint of its own.

    Raises:
        UserError: the round before left no checkpoint.
    """
    # In order of steps, so that the last match is the newest.
    before, own = None, None
    for checkpoint in whole_checkpoints(run_dir, remove):
        if checkpoint.step == first_step:
            before = checkpoint
        elif first_step < checkpoint.step <= last_step and checkpoint.fingerprint == fingerprint:
            own = checkpoint
        # Another attempt at this round, or a later round that went on from it.
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

    Args:
        checkpoint: the checkpoint to go on from.
        run: the settings of the run as they are now, by name.

    Raises:
        UserError: a setting differs; the message names the first one.
    """
    for name, value in run.items():
        if checkpoint.run.get(name) != value:
            raise UserError(
                f"this run began with {name} {checkpoint.run.get(name)}, now it is {value}; optimizer and schedule "
                f"travel with the checkpoint: keep the setting or start a new run in another folder"
            )


def prune(run_dir: Path, first_step: int) -> None:
    """Remove all whole checkpoints but the newest and the one that this round started from."""
    checkpoints = whole_checkpoints(run_dir)
    for checkpoint in checkpoints[:-1]:
        # Kept, so that this round can be trained again from its start.
        if checkpoint.step != first_step:
            shutil.rmtree(checkpoint.path)
