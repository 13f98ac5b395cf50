"""Checkpoints within a round: find the newest whole one to resume from, remove the others.

    checkpoint-16/
        complete.json   {"fingerprint": "…"}

The trainer writes `checkpoint-<step>/` file by file and `complete.json` last, by rename: a folder without
`complete.json` was cut short by a crash and is removed before the next start. The file holds the fingerprint of the
round, so that a checkpoint is resumed for the same policy, data and settings only. Steps are counted from the round's
start. What the next round goes on from is not here but with the policy (`training.kto.state`).
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from builders.store.files import write_text

MARKER = "complete.json"
PREFIX = "checkpoint-"


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint.

    Attributes:
        path: its folder.
        step: optimizer steps of the round that were done.
        fingerprint: the fingerprint of the round that wrote it.
    """

    path: Path
    step: int
    fingerprint: str


def mark_complete(folder: Path, fingerprint: str) -> None:
    """Declare a checkpoint whole, by writing its marker after all its other files."""
    write_text(folder / MARKER, json.dumps({"fingerprint": fingerprint}))


def whole_checkpoints(run_dir: Path, remove: bool = True) -> list[Checkpoint]:
    """List the whole checkpoints in a folder, the earliest first.

    Args:
        run_dir: the folder of the checkpoints; it may be missing.
        remove: whether to remove the checkpoints that a crash cut short.
    """
    found = []
    for folder in run_dir.glob(f"{PREFIX}*"):
        step = folder.name.removeprefix(PREFIX)
        # A folder of somebody else's, such as `checkpoint-best`.
        if not step.isdigit():
            continue
        marker = folder / MARKER
        if marker.is_file():
            found.append(Checkpoint(folder, int(step), json.loads(marker.read_text("utf-8"))["fingerprint"]))
        elif remove:
            shutil.rmtree(folder)
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def resume_point(run_dir: Path, fingerprint: str, remove: bool = True) -> Checkpoint | None:
    """Choose the checkpoint that a round resumes from: its newest one.

    Args:
        run_dir: the folder of the round's checkpoints.
        fingerprint: what a checkpoint of this round carries; those of other data or settings are removed.
        remove: whether this process removes useless checkpoints; only one process of several should.

    Returns:
        The checkpoint; None where the round begins at its start.
    """
    own = None
    for checkpoint in whole_checkpoints(run_dir, remove):
        if checkpoint.fingerprint == fingerprint:
            own = checkpoint
        elif remove:
            shutil.rmtree(checkpoint.path)
    return own


def prune(run_dir: Path) -> None:
    """Remove all whole checkpoints but the newest."""
    for checkpoint in whole_checkpoints(run_dir)[:-1]:
        shutil.rmtree(checkpoint.path)
