"""A folder that workers on several machines share: whether they see it, and when their files are seen here."""

import platform
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from builders.store.files import write_text
from scorers.errors import UserError

NAME = ".shared"
PATIENCE = 60
"""Seconds: so long at most does a network folder hide a file of another machine's, by what systems remember of it."""


@dataclass(frozen=True)
class Mark:
    """What the starting process wrote into a folder, so that another one of the same name is not taken for it.

    Attributes:
        folder: the folder.
        token: the text of the file `.shared` in it.
        machine: name of the machine that wrote it.
    """

    folder: Path
    token: str
    machine: str


def mark(folder: Path) -> Mark:
    """Mark a folder."""
    made = Mark(folder, secrets.token_hex(16), platform.node())
    write_text(folder / NAME, made.token)
    return made


def require_shared(made: Mark, read: Iterable[Path]) -> None:
    """Check in a worker that it sees a marked folder, and others that it will read.

    Args:
        made: the mark.
        read: folders of datasets and models.

    Raises:
        UserError: one of them is not there, or another one of its name.
    """
    here = platform.node()
    try:
        same = (made.folder / NAME).read_text(encoding="utf-8") == made.token
    except OSError:
        same = False
    if not same:
        raise UserError(
            f"node {here}: does not see the folder {made.folder} of {made.machine}; let --store be a folder that all "
            "nodes of the cluster share, given as an absolute path"
        )
    for folder in read:
        if not folder.exists():
            raise UserError(
                f"node {here}: has no folder {folder}; datasets and models have to lie in folders that all nodes of "
                "the cluster share, those of the Hub too (HF_HOME)"
            )


def await_seen(path: Path) -> None:
    """Wait until a file that another machine has written is seen here.

    Raises:
        UserError: it is not, even after a while.
    """
    deadline = time.monotonic() + PATIENCE
    while not path.is_file():
        if time.monotonic() > deadline:
            raise UserError(
                f"{path}: a worker has written it, and {platform.node()} does not see it after {PATIENCE} s; let "
                "--store be a folder that all nodes of the cluster share"
            )
        time.sleep(0.1)
