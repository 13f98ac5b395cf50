"""The local store: immutable revisions in the layout of the Hugging Face cache.

::

    <store>/datasets--local--tiny-scores/snapshots/<40 hex>/{data/*.parquet, manifest.json, README.md}
                                        /refs/{main,round-001}
    <store>/models--local--tiny-policy/…
    <store>/.work/<repo>/<fingerprint>/…       shards of a stage that is being built

so `snapshot_download(repo, cache_dir=<store>, local_files_only=True)` reads it. A revision appears by one rename.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from builders.store.files import write_text
from builders.store.manifest import FILE_NAME, Kind, Manifest, content_digest, describe_files, read_manifest
from scorers.errors import UserError

KINDS: tuple[Kind, ...] = ("dataset", "model")
ROUND_TAG = re.compile(r"round-(\d{3,})")
LOCAL = "local"  # namespace of what was built without one

# Names become folders and files, so they are checked before they are used.
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")


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


@dataclass(frozen=True)
class Revision:
    """One dataset or model on disk.

    Attributes:
        repo: the repository.
        revision: its 40-hex name.
        path: the snapshot folder, any folder, or a single file.
        manifest: None for data that this project did not make.
    """

    repo: str
    revision: str
    path: Path
    manifest: Manifest | None

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}"

    @property
    def made_here(self) -> bool:
        """Whether it was built in a local store: its name is its manifest's SHA-1, not a Hub commit."""
        path = self.path / FILE_NAME
        return path.is_file() and hashlib.sha1(path.read_bytes()).hexdigest() == self.revision

    def data_files(self) -> list[Path]:
        """Return the Parquet files in their stable order.

        Raises:
            UserError: where there is none.
        """
        if self.path.is_file():
            return [self.path]
        files = sorted((self.path / "data").glob("*.parquet")) or sorted(self.path.rglob("*.parquet"))
        if not files:
            raise UserError(f"{self}: no Parquet file in it; a dataset of this project has data/train-*.parquet")
        return files

    def scan(self) -> pl.LazyFrame:
        """Return all rows as a lazy frame.

        Raises:
            UserError: as `schema`.
        """
        files = self.data_files()
        # polars takes the first file's types for all: a column that is all null there may have values in another file.
        schema = self.schema() if pl.Null in _file_schema(files[0]).values() else None
        return pl.scan_parquet(files, glob=False, schema=schema)  # glob=False: a name may hold [ or *

    def schema(self) -> pl.Schema:
        """Return the columns, which all files share; type Null, all values null, yields to another file's type.

        Raises:
            UserError: for a file that is not readable as Parquet, and for files whose columns differ.
        """
        files = self.data_files()
        found = _file_schema(files[0])
        for file in files[1:]:
            other = _file_schema(file)
            differ = sorted(
                name for name in found.keys() | other.keys() if not _agree(found.get(name), other.get(name))
            )
            if differ:
                raise UserError(
                    f"{self}: {file.name} and {files[0].name} differ in {', '.join(differ)}; make them alike"
                )
            found |= {name: dtype for name, dtype in other.items() if dtype != pl.Null}
        return pl.Schema(found)

    @property
    def digest(self) -> str:
        """Content digest: the manifest's, or computed from the files where there is no manifest."""
        if self.manifest is not None:
            return self.manifest.digest
        root = self.path if self.path.is_dir() else self.path.parent
        return content_digest(describe_files(root, self.data_files()))


def _agree(a: pl.DataType | None, b: pl.DataType | None) -> bool:
    """Whether the types of a column in two files agree: they are equal, or Null in one file; None is no column."""
    return a == b or (a is not None and b is not None and pl.Null in (a, b))


def _file_schema(file: Path) -> dict[str, pl.DataType]:
    """Read the columns of one Parquet file.

    Raises:
        UserError: for a file that is not readable as Parquet.
    """
    try:
        return pl.read_parquet_schema(file)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"{file}: not readable as Parquet: {' '.join(str(error).split())}; give it again") from None


def parse_ref(text: str) -> Ref:
    """Read a REF: an existing path, or `repo[@revision]`.

    Raises:
        UserError: for a text that is neither.
    """
    path = Path(text)
    # A relative path that reads like namespace/name counts as a name; ./namespace/name is the path.
    if text and os.path.exists(text) and ("/" not in text or path.is_absolute() or not _REPO.fullmatch(text)):
        return Ref(repo=path.stem, revision=None, path=path)
    repo, at, revision = text.partition("@")
    if not _REPO.fullmatch(repo) or (at and not valid_revision(revision)):
        raise UserError(
            f"{text!r} names no dataset: expected namespace/name, namespace/name@revision or an existing path"
        )
    return Ref(repo, revision or None)


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


class Store:
    """A folder of revisions; see the module for its layout."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def repo_path(self, repo: str, kind: Kind = "dataset") -> Path:
        """Return the folder of a repository.

        Raises:
            UserError: for a text that is no repository name.
        """
        if not _REPO.fullmatch(repo):
            raise UserError(f"{repo!r} is no repository name: letters, digits, '.', '_', '-', at most one '/'")
        # The Hugging Face cache's spelling of a repository.
        return self.root / f"{kind}s--{repo.replace('/', '--')}"

    def refs(self, repo: str, kind: Kind = "dataset") -> dict[str, str]:
        """Return the branches and tags of a repository with the revision that each stands for."""
        folder = self.repo_path(repo, kind) / "refs"
        return {
            path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8").strip()
            for path in sorted(folder.rglob("*"))
            # A killed process may have left a temporary file.
            if path.is_file() and not path.name.endswith(".partial")
        }

    def find(self, repo: str, revision: str, kind: Kind = "dataset") -> Revision | None:
        """Return a revision by commit, branch or tag; None where the store does not hold it."""
        folder = self.repo_path(repo, kind)
        if not valid_revision(revision):
            return None
        # A branch or tag is a file that holds its commit; any other name has to be a commit itself.
        ref = folder / "refs" / revision
        commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else revision
        snapshot = folder / "snapshots" / commit
        # What a ref's file holds becomes the name of a folder, so it is checked too.
        if not is_commit(commit) or not snapshot.is_dir():
            return None
        return Revision(repo, commit, snapshot, read_manifest(snapshot))

    def latest(self, repo: str, kind: Kind = "dataset") -> Revision | None:
        """Return the newest round's revision, else that of `main`; None where the store has neither."""
        rounds = [name for name in self.refs(repo, kind) if ROUND_TAG.fullmatch(name)]
        # By number, not by text: round-1000 comes after round-999.
        newest = max(rounds, key=lambda name: int(name[6:]), default="main")
        return self.find(repo, newest, kind)

    def lookup(self, ref: Ref, kind: Kind | None = None) -> Revision | None:
        """Return the revision that a REF names; None where the store does not hold it.

        Without a revision the REF names the newest round; without a kind a dataset comes before a model.
        """
        for candidate in KINDS if kind is None else (kind,):
            found = self.find(ref.repo, ref.revision, candidate) if ref.revision else self.latest(ref.repo, candidate)
            if found is not None:
                return found
        return None

    def add(self, staged: Path, manifest: Manifest, refs: list[str]) -> Revision:
        """Move a staged folder into the store as one revision and point refs at it.

        The rename makes the revision visible at once and whole; an equal revision that is there already is kept.

        Args:
            staged: the folder, with all files but manifest.json.
            manifest: names repository and revision, and is written into the folder.
            refs: branches and tags to point at the revision.
        """
        folder = self.repo_path(manifest.repo, manifest.kind)
        write_text(staged / FILE_NAME, manifest.to_json())
        snapshot = folder / "snapshots" / manifest.revision
        snapshot.parent.mkdir(parents=True, exist_ok=True)
        # The name is a hash of the manifest, which lists every data file's hash: equal name, equal content.
        if snapshot.exists():
            shutil.rmtree(staged)
        else:
            staged.rename(snapshot)
        self.set_refs(manifest.repo, manifest.kind, manifest.revision, refs)
        return Revision(manifest.repo, manifest.revision, snapshot, manifest)

    def set_refs(self, repo: str, kind: Kind, revision: str, refs: list[str]) -> None:
        """Point branches or tags of the store at a revision."""
        for ref in refs:
            path = self.repo_path(repo, kind) / "refs" / ref
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, revision)

    def work_path(self, repo: str, fingerprint: str) -> Path:
        """Return the folder for the unfinished shards of one stage with one fingerprint."""
        return self.root / ".work" / repo.replace("/", "--") / fingerprint[:16]

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the store against a second writer; the system releases the lock when the process ends.

        Raises:
            UserError: where another process holds it, or a file stands in the store's place.
        """
        if self.root.exists() and not self.root.is_dir():
            raise UserError(f"store {self.root} is a file, a folder is needed; give --store another name")
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("w") as file:
            try:
                # The lock is on the open file, not on its existence: a killed run leaves none behind.
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"store {self.root} is in use by another run; wait for it to end or give --store another folder"
                ) from None
            yield
