"""Trackers that a training logs to, through the Trainer's own `report_to`.

By default there is none, and nothing is sent anywhere.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from builders.core.machine import require_package

PROJECT = "grace-data"  # under which trackio and W&B show the runs
#: How a tracker that is not installed is installed: the package of each has its name.
INSTALL = {
    "tensorboard": "pip install 'grace-data[tensorboard]'",
    "trackio": "pip install trackio",
    "wandb": "pip install wandb, then wandb login",
}


def require_trackers(section: str, report_to: Sequence[str]) -> None:
    """Check that the trackers of a training are installed, which it would otherwise find out after hours.

    Args:
        section: of the training's settings, for the message.
        report_to: their names.

    Raises:
        UserError: one is not.
    """
    for name in report_to:
        require_package(f"{section}.report_to={name}", name, f"{INSTALL[name]}; or leave it out of {section}.report_to")


def report_arguments(report_to: Sequence[str], logs: Path) -> dict[str, Any]:
    """Return what a trainer's arguments say of trackers.

    Args:
        report_to: their names; none for no tracker.
        logs: folder of this training's logs, whose last two parts name the run.
    """
    if not report_to:
        return {"report_to": "none"}
    return {"report_to": list(report_to), "run_name": "/".join(logs.parts[-2:]), "project": PROJECT}


@contextmanager
def reporting(report_to: Sequence[str], logs: Path) -> Iterator[None]:
    """Let TensorBoard and W&B write their files into a folder, while a trainer is built and trains.

    Without this they would write into the folder of the model, which is published, or into the working directory; they
    are told by environment variables alone. Variables that are set already stay. trackio has a place of its own, where
    `trackio show` looks.

    Args:
        report_to: the trackers' names; none changes nothing.
        logs: folder of this training's logs, which is made.
    """
    if report_to:
        logs.mkdir(parents=True, exist_ok=True)  # W&B takes a temporary folder where it is missing
    wanted = {"TENSORBOARD_LOGGING_DIR": str(logs), "WANDB_DIR": str(logs), "WANDB_PROJECT": PROJECT}
    ours = {name: value for name, value in wanted.items() if report_to and name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)
