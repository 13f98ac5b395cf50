"""The local store: immutable revisions in the layout of the Hugging Face cache.

::

    <store>/datasets--local--tiny-scores/snapshots/<40 hex>/{data/*.parquet, manifest.json, README.md}
                                        /refs/{main,round-001}
                                        /refs.log             what each ref stood for before it moved
    <store>/models--local--tiny-policy/…
    <store>/.work/<repo>/<fingerprint>/…       shards of a stage that is being built
    <store>/.work/checked/<sha1>.json          revisions whose files were hashed, see `builders.store.checked`

so `snapshot_download(repo, cache_dir=<store>, local_files_only=True)` reads it. A revision appears by one rename.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import polars as pl

from builders.store.checked import fault_of, remember_whole
from builders.store.files import write_text
from builders.store.manifest import FILE_NAME, Kind, Manifest, content_digest, describe_files, read_manifest
from scorers.errors import UserError

KINDS: tuple[Kind, ...] = ("dataset", "model")
LOCAL = "local"
"""Namespace of what no configuration names one for; nothing in it comes from the Hub."""

log = logging.getLogger(__name__)
LOCK_ATTEMPTS = 20  # a tenth of a second apart

# Names become folders and files, so they are checked before they are used.
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
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


@dataclass(frozen=True)
class Move:
    """What a branch or tag of the store stood for before it was moved.

    Attributes:
        repo: the repository.
        ref: the branch or tag.
        revision: the 40-hex name of what it stood for.
        until: when it was moved, in UTC, as ISO 8601.
    """

    repo: str
    ref: str
    revision: str
    until: str


@dataclass(frozen=True)
class Choice:
    """The part of a dataset that is wanted; the names are those of its card or of its files, as `datasets` has them.

    Attributes:
        subset: a configuration; None for the default one, or the only one.
        split: a split; None for `train`, or the only one.
    """

    subset: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class Revision:
    """One dataset or model on disk.

    Attributes:
        repo: the repository.
        revision: its 40-hex name.
        path: the snapshot folder, any folder, or a single file.
        manifest: None for data that this project did not make.
        files: the Parquet files of one split below `path`; empty for all that lie there.
        part: subset and split of `files`, as far as they are not `default` and `train`.
    """

    repo: str
    revision: str
    path: Path
    manifest: Manifest | None
    files: tuple[Path, ...] = ()
    part: Choice = Choice()

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}"

    @property
    def local(self) -> bool:
        """Whether its name says that it does not come from the Hub."""
        return is_local(self.repo)

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
        if self.files:
            return list(self.files)
        if self.path.is_file():
            return [self.path]
        files = _files(self.path / "data", "*.parquet") or _files(self.path, "**/*.parquet")
        if not files:
            raise UserError(f"{self}: no Parquet file in it; a dataset of this project has data/train-*.parquet")
        return files

    def scan(self) -> pl.LazyFrame:
        """Return all rows as a lazy frame.

        Raises:
            UserError: as `schema`.
        """
        files = self.data_files()
        # polars takes the first file's types for all: another file may have wider ones, or values where it has none.
        # The files of this project's own datasets are alike, and there may be thousands of them.
        schema = self.schema() if self.manifest is None and len(files) > 1 else None
        wider = pl.ScanCastOptions(integer_cast="upcast", float_cast="upcast")
        return pl.scan_parquet(files, glob=False, schema=schema, cast_options=wider)  # a name may hold [ or *

    def schema(self) -> pl.Schema:
        """Return the columns, which all files share.

        Of integers and of floats of several widths the widest counts; type Null, all values null, yields to any other.

        Raises:
            UserError: for a file that is not readable as Parquet, and for files whose columns differ.
        """
        files = self.data_files()
        found = _file_schema(files[0])
        for file in files[1:]:
            other = _file_schema(file)
            common = {name: _common(found.get(name), other.get(name)) for name in (*found, *other)}
            if differ := sorted(name for name, dtype in common.items() if dtype is None):
                raise UserError(
                    f"{self}: {file.name} and {files[0].name} differ in {', '.join(differ)}; make them alike"
                )
            found |= {name: dtype for name, dtype in common.items() if dtype is not None}
        return pl.Schema(found)

    @property
    def digest(self) -> str:
        """Content digest: the manifest's, or computed from the files where there is no manifest."""
        if self.manifest is not None:
            return self.manifest.digest
        root = self.path if self.path.is_dir() else self.path.parent
        return content_digest(describe_files(root, self.data_files()))


def _files(folder: Path, pattern: str) -> list[Path]:
    """Return the files below a folder that match a pattern, sorted; folders of such names are none."""
    return sorted(path for path in folder.glob(pattern) if path.is_file())


def _common(a: pl.DataType | None, b: pl.DataType | None) -> pl.DataType | None:
    """Return the type that holds a column's values of two files; None where they do not agree or one lacks the column.

    They agree where they are equal, where one is Null, and where both are integers or both are floats.
    """
    if a is None or b is None or a == b:
        return a if a == b else None
    if pl.Null in (a, b):
        return b if a == pl.Null else a
    if (a.is_integer() and b.is_integer()) or (a.is_float() and b.is_float()):
        empty = [pl.DataFrame(schema={"x": dtype}) for dtype in (a, b)]
        return pl.concat(empty, how="vertical_relaxed").schema["x"]  # the type that holds both
    return None


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

    A file or folder that exists comes before a repository of that name, as in `datasets.load_dataset`;
    `namespace/name@main` never means a folder.

    Raises:
        UserError: for a text that is neither.
    """
    path = Path(text)
    if text and os.path.exists(text):
        return Ref(repo=path.stem, revision=None, path=path)
    if (ref := parse_name(text)) is None:
        raise UserError(
            f"{text!r} names no dataset: expected namespace/name, namespace/name@revision or an existing path"
        )
    return ref


def parse_name(text: str) -> Ref | None:
    """Read `repo[@revision]`, whatever files there are; None for a text that is no such name."""
    repo, at, revision = text.partition("@")
    return Ref(repo, revision or None) if _REPO.fullmatch(repo) and (not at or valid_revision(revision)) else None


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
            path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8", errors="replace").strip()
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
        commit = ref.read_text(encoding="utf-8", errors="replace").strip() if ref.is_file() else revision
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

    def holds(self, revision: Revision) -> bool:
        """Whether a dataset's revision lies in this store."""
        return revision.path == self.repo_path(revision.repo) / "snapshots" / revision.revision

    def lookup(self, ref: Ref, kind: Kind | None = None) -> Revision | None:
        """Return the revision that a REF names; None where the store does not hold it.

        Without a revision the REF names the newest round; without a kind a dataset comes before a model.
        """
        for candidate in KINDS if kind is None else (kind,):
            found = self.find(ref.repo, ref.revision, candidate) if ref.revision else self.latest(ref.repo, candidate)
            if found is not None:
                return found
        return None

    def require_whole(self, revision: Revision) -> None:
        """Check that a revision's files are what its manifest says: names and sizes every time, every byte once.

        Data without a manifest, which other people made, passes.

        Raises:
            UserError: naming the first file that is missing, damaged or not listed, and the way out.
        """
        fault = self._fault(revision)
        if fault is not None:
            raise UserError(f"{fault}; {self._way_out(revision)}")

    def _fault(self, revision: Revision) -> str | None:
        """Say in words what is wrong with a revision; None where nothing is."""
        # Made by this project: it has a manifest, and its name is the hash of that.
        ours = revision.local and is_commit(revision.path.name)
        manifest = revision.manifest
        if manifest is None:
            return f"{revision}: {FILE_NAME} is missing" if ours else None
        if ours and not revision.made_here:
            return f"{manifest.kind} {revision}: {FILE_NAME} is damaged: its SHA-1 is not the revision's name"
        fault = fault_of(manifest, revision.path, self._checked)
        return None if fault is None else f"{manifest.kind} {revision}: {fault}"

    def _way_out(self, revision: Revision) -> str:
        """Say how a damaged revision becomes whole again."""
        if not revision.path.resolve().is_relative_to(self.root.resolve()):
            return f"`grace verify {revision.path}` lists all that is wrong; give a whole copy"
        again = f"delete {revision.path} and build it again"
        if not revision.local and not revision.made_here:
            model = " --model" if revision.manifest is not None and revision.manifest.kind == "model" else ""
            again = f"`grace pull{model} {revision}` fetches it again; or {again}"
        return f"`grace verify {revision}` lists all that is wrong; {again}"

    @property
    def _checked(self) -> Path:
        """Folder of the notes on which revisions were hashed."""
        return self.root / ".work" / "checked"

    def add(self, staged: Path, manifest: Manifest, refs: list[str]) -> Revision:
        """Move a staged folder into the store as one revision and point refs at it.

        The rename makes the revision visible at once and whole. An equal revision that is there already is kept, unless
        it is damaged: then the new one takes its place.

        Args:
            staged: the folder, with all files but manifest.json.
            manifest: names repository and revision, lists the files with the hashes they have now, and is written into
                the folder.
            refs: branches and tags to point at the revision.
        """
        folder = self.repo_path(manifest.repo, manifest.kind)
        write_text(staged / FILE_NAME, manifest.to_json())
        snapshot = folder / "snapshots" / manifest.revision
        snapshot.parent.mkdir(parents=True, exist_ok=True)
        # The name is a hash of the manifest, which lists every data file's hash: equal name, equal content.
        made = Revision(manifest.repo, manifest.revision, snapshot, manifest)
        if snapshot.exists() and made.made_here and fault_of(manifest, snapshot, self._checked) is None:
            shutil.rmtree(staged)
        else:
            self._replace(snapshot, staged)
            remember_whole(manifest, snapshot, self._checked)
        self.set_refs(manifest.repo, manifest.kind, manifest.revision, refs)
        return made

    def _replace(self, snapshot: Path, staged: Path) -> None:
        """Move a staged folder to a revision's place; a damaged revision that stands there is deleted."""
        damaged = self.root / ".work" / f"damaged-{snapshot.name}"
        if snapshot.exists():
            log.info("%s was damaged: replaced", snapshot)
            damaged.parent.mkdir(exist_ok=True)
            shutil.rmtree(damaged, ignore_errors=True)
            # Moved first: deleting takes time, and a run that is killed meanwhile must not leave half a revision.
            snapshot.rename(damaged)
        staged.rename(snapshot)
        shutil.rmtree(damaged, ignore_errors=True)

    def set_refs(self, repo: str, kind: Kind, revision: str, refs: list[str]) -> None:
        """Point branches or tags of the store at a revision; what each stood for before is kept in `moves`."""
        folder = self.repo_path(repo, kind)
        before = self.refs(repo, kind)
        for ref in refs:
            if before.get(ref, revision) != revision:
                now = datetime.now(UTC).isoformat(timespec="seconds")
                with (folder / "refs.log").open("a", encoding="utf-8") as file:
                    file.write(f"{now} {before[ref]} {ref}\n")
            path = folder / "refs" / ref
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, revision)

    def moves(self, repo: str, kind: Kind = "dataset") -> list[Move]:
        """Return what the refs of a repository stood for before they moved, the newest first."""
        path = self.repo_path(repo, kind) / "refs.log"
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        # A line that a full disk cut short has fewer parts.
        parts = [line.split(" ") for line in reversed(lines)]
        return [Move(repo, ref, revision, until) for until, revision, ref in (part for part in parts if len(part) == 3)]

    def work_path(self, repo: str, fingerprint: str) -> Path:
        """Return the folder for the unfinished shards of one stage with one fingerprint."""
        return self.root / ".work" / repo.replace("/", "--") / fingerprint[:16]

    @contextlib.contextmanager
    def lock(self) -> Iterator[IO[str]]:
        """Hold the store against a second writer; the system releases the lock when the process ends.

        Yields:
            The locked file. Processes that hold it open hold the lock too: those of a killed run do, until they have
            ended, a moment after it, and so a new run waits for a moment.

        Raises:
            UserError: where another process holds it, or a file stands in the store's place.
        """
        if self.root.exists() and not self.root.is_dir():
            raise UserError(f"store {self.root} is a file, a folder is needed; give --store another name")
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("w") as file:
            # The lock is on the open file, not on its existence: a killed run leaves none behind.
            for _ in range(LOCK_ATTEMPTS):
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                time.sleep(0.1)
            else:
                raise UserError(
                    f"store {self.root} is in use by another run; wait for it to end or give --store another folder"
                )
            yield file
