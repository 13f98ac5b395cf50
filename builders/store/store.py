"""The local store: immutable revisions in the layout of the Hugging Face cache.

::

    <store>/datasets--local--tiny-scores/snapshots/<40 hex>/{data/*.parquet, manifest.json, README.md}
                                        /refs/{main,round-001}
                                        /refs.log             what each ref stood for before it moved
    <store>/models--local--tiny-policy/…
    <store>/.work/<repo>/<fingerprint>/…       shards of a stage that is being built
    <store>/.work/checked/<sha1>.json          revisions whose files were hashed, see `builders.store.checked`
    <store>/.logs/<repo>/<fingerprint>/…       what trackers keep of a training, see the settings' `report_to`

so `snapshot_download(repo, cache_dir=<store>, local_files_only=True)` reads it. A revision appears by one rename.
"""

import contextlib
import fcntl
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

from builders.store.checked import digest_of, fault_of, remember_whole
from builders.store.files import write_text
from builders.store.manifest import FILE_NAME, Kind, Manifest, read_manifest
from builders.store.ref import REPO, ROUND_TAG, Ref, is_commit, valid_revision
from builders.store.revision import Revision
from scorers.errors import UserError

KINDS: tuple[Kind, ...] = ("dataset", "model")

log = logging.getLogger(__name__)
LOCK_ATTEMPTS = 20  # a tenth of a second apart
_BEGINNING = re.compile(r"[0-9a-f]{7,39}")


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


class Store:
    """A folder of revisions; see the module for its layout."""

    def __init__(self, root: Path) -> None:
        """Take a folder as store; it need not exist.

        Raises:
            UserError: a file or a link to nothing stands in its place.
        """
        if os.path.lexists(root) and not root.is_dir():
            kind = "a link to nothing" if root.is_symlink() else "a file"
            raise UserError(f"store {root} is {kind}, a folder is needed; give --store another name")
        self.root = root

    def repo_path(self, repo: str, kind: Kind = "dataset") -> Path:
        """Return the folder of a repository.

        Raises:
            UserError: for a text that is no repository name.
        """
        if not REPO.fullmatch(repo):
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
        """Return a revision by commit, branch or tag, or by the beginning of its commit, as tables show it.

        None where the store does not hold it, and for a beginning that several have.
        """
        folder = self.repo_path(repo, kind)
        if not valid_revision(revision):
            return None
        # A branch or tag is a file that holds its commit; any other name has to be a commit itself.
        ref = folder / "refs" / revision
        commit = revision
        if ref.is_file():
            commit = ref.read_text(encoding="utf-8", errors="replace").strip()
        elif _BEGINNING.fullmatch(revision) and len(alike := list((folder / "snapshots").glob(f"{revision}*"))) == 1:
            commit = alike[0].name
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

        Without a revision the REF names the newest round. Without a kind a dataset comes before a model; a warning says
        so where both have the name.
        """
        for candidate in KINDS if kind is None else (kind,):
            found = self.find(ref.repo, ref.revision, candidate) if ref.revision else self.latest(ref.repo, candidate)
            if found is None:
                continue
            models = self.refs(ref.repo, "model") if kind is None and candidate == "dataset" else {}
            if ref.revision in models or (models and ref.revision is None):
                log.warning("%s is a dataset and a model; the dataset is taken, --model takes the model", ref)
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
        """Folder of the notes on what was hashed."""
        return self.root / ".work" / "checked"

    def digest_of(self, folder: Path) -> str:
        """Return the content digest over all files of somebody's folder; they are read where they may have changed."""
        return digest_of(folder, self._checked)

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

    def log_path(self, work: Path) -> Path:
        """Return the folder for what trackers keep of a training, which outlives its working folder `work`."""
        return self.root / ".logs" / "/".join(work.parts[-2:])

    @contextlib.contextmanager
    def lock(self) -> Iterator[IO[str]]:
        """Hold the store against a second writer; the system releases the lock when the process ends.

        Yields:
            The locked file. Processes that hold it open hold the lock too: those of a killed run do, until they have
            ended, a moment after it, and so a new run waits for a moment.

        Raises:
            UserError: where another process holds it, or the folder cannot be made.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError:  # of a file system that takes no folders, such as /proc
            raise UserError(f"store {self.root}: no folder can be made there; give --store another name") from None
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
