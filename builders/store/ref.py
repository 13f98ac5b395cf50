"""REFs: how a user names a dataset or a model, and which names are safe as folders and files."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from scorers.errors import UserError

LOCAL = "local"
"""Namespace of what no configuration names one for; nothing in it comes from the Hub."""

# Names become folders and files, so they are checked before they are used.
_COMMIT = re.compile(r"[0-9a-f]{40}")
REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
_FILE = re.compile(r".*\.(csv|tsv|json|jsonl|parquet|arrow|gz|zip|txt)", re.IGNORECASE)
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")
ROUND_TAG = re.compile(r"round-(\d{3,})")


@dataclass(frozen=True)
class Ref:
    """A REF as the user wrote it.

    Attributes:
        repo: the repository; the stem of a path.
        revision: branch, tag or commit; None for the newest round.
        path: the path, where the REF is one.
    """

    repo: str
    revision: str | None
    path: Path | None = None

    def __str__(self) -> str:
        if self.path is not None:
            return str(self.path)
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"


def parse_ref(text: str) -> Ref:
    """Read a REF: an existing path, or `repo[@revision]`.

    A file or folder that exists comes before a repository of that name, as in `datasets.load_dataset`;
    `namespace/name@main` never means a folder.

    Raises:
        UserError: for a text that is neither, and for the name of a file that is not there.
    """
    path = Path(text)
    if text and os.path.exists(text):
        return Ref(repo=path.stem, revision=None, path=path)
    ref = parse_name(text)
    # The Hub would be asked for it, and the mistake be told as the Hub's; owner/name.csv can be a repository.
    if _FILE.fullmatch(text) and (ref is None or "/" not in ref.repo):
        raise UserError(f"{text}: no such file; name one that exists, or a dataset as namespace/name[@revision]")
    if ref is None:
        raise UserError(
            f"{text!r} names no dataset: expected namespace/name, namespace/name@revision or an existing path"
        )
    return ref


def parse_name(text: str) -> Ref | None:
    """Read `repo[@revision]`, whatever files there are; None for a text that is no such name."""
    repo, at, revision = text.partition("@")
    return Ref(repo, revision or None) if REPO.fullmatch(repo) and (not at or valid_revision(revision)) else None


def valid_revision(revision: str) -> bool:
    """Whether a text can name a branch, tag or commit, and is safe as a file name under refs/."""
    return bool(_REVISION.fullmatch(revision)) and ".." not in revision and "//" not in revision


def is_commit(revision: str) -> bool:
    """Whether a revision is a full 40-hex commit, which never moves."""
    return bool(_COMMIT.fullmatch(revision))


def is_local(repo: str) -> bool:
    """Whether a repository is one of a store alone, which the Hub is never asked for: a stranger may own that name."""
    return repo.partition("/")[0] == LOCAL


def round_tag(round_: int) -> str:
    """Return the tag of a round, such as round-001."""
    return f"round-{round_:03d}"
