"""Reading the Hub: resolve a revision once to its commit, download that, check every byte, keep it in the store.

The client checks sizes only, so each downloaded file is compared with the commit's listing and with the manifest's
SHA-256. Nothing that was downloaded is executed or unpickled; the one exception, BGE-M3 as it was published, weights
and two heads in files of torch's, is read by torch's restricted reader `weights_only`.
"""

import fcntl
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

from builders.hub.client import CLIENT_ERRORS, as_user_error, call, client
from builders.hub.commit import is_state
from builders.hub.layout import CARDS, is_table
from builders.hub.listing import RemoteFile, git_blob_id, read_file, read_listing, require_public_name
from builders.hub.resolve import keep_tag, resolve_commit
from builders.hub.session import FAILURES
from builders.store.check import require_rows, require_whole
from builders.store.files import inside, write_text
from builders.store.manifest import (
    FIGURE,
    FILE_NAME,
    TRAINING_LOG,
    TRAINING_STATE,
    Kind,
    Manifest,
    is_manifest,
    parse_manifest,
    read_manifest,
)
from builders.store.ref import Ref, is_commit, parse_name, round_tag
from builders.store.revision import Revision
from builders.store.store import Store
from scorers.errors import UserError
from scorers.model_loading import HEADS, PICKLE, is_published_bge_m3

log = logging.getLogger(__name__)

DOWNLOADS = 8  # files at a time
SIDE_FILES = ("README.md", "weights.png")  # besides figures; the last is the one of manifests of format 1
# What is fetched of a model: safetensors, configuration and tokenizer, the log of its training, and the two heads of
# BGE-M3.
MODEL_PATTERNS = (
    "*.safetensors",
    "*.json",
    "*.txt",
    "*.model",
    "*.jinja",
    "*.tiktoken",
    f"*{TRAINING_LOG}",
    *HEADS,
)
LEFT_OUT = f"{TRAINING_STATE}/*"  # of no use to whoever samples from a model; `pull` brings it


def download_model(repo: str, revision: str | None) -> tuple[Path, str]:
    """Download a model's weights and tokenizer into the ordinary Hugging Face cache.

    Pickles and code are never downloaded. Files that were not in the cache before are compared with the commit's
    hashes; a file that differs is removed again. Offline, the cache's copy is taken as it is.

    Returns:
        The snapshot folder and the 40-hex commit.

    Raises:
        UserError: for a model that is missing, may not be read, has no safetensors, or arrived damaged.
    """
    require_public_name(repo, "model")
    what = f"model {repo}" + (f"@{revision}" if revision else "")
    if constants.HF_HUB_OFFLINE:
        patterns = list(MODEL_PATTERNS)
        found = call(
            what,
            lambda: client().snapshot_download(
                repo, revision=revision, allow_patterns=patterns, ignore_patterns=LEFT_OUT, local_files_only=True
            ),
        )
        return Path(found), Path(found).name
    commit = resolve_commit(repo, revision, "model")
    listing = read_listing(repo, commit, "model")
    patterns = [*MODEL_PATTERNS, *((PICKLE,) if is_published_bge_m3(listing.keys()) else ())]
    wanted = {p: file for p, file in listing.items() if _is_model_file(p, patterns) and not is_state(p, "model")}
    if not any(path.endswith((".safetensors", PICKLE)) for path in wanted):
        raise UserError(f"model {repo}@{commit}: no .safetensors file; models saved as pickles are not read")
    cached = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model") / "snapshots" / commit
    # Hashing gigabytes takes minutes: files that were in the cache before were checked when they arrived.
    new = [path for path in wanted if not (cached / path).exists()]

    def request() -> Path:
        # RuntimeError counts as transient: an incomplete download is resumed.
        found = client().snapshot_download(repo, revision=commit, allow_patterns=patterns, ignore_patterns=LEFT_OUT)
        for path, file in wanted.items():
            if not (Path(found) / path).is_file() or (Path(found) / path).stat().st_size != file.size:
                raise RuntimeError(f"{path} did not arrive whole")
        return Path(found)

    folder = call(what, request)
    for name in new:
        if not wanted[name].holds(folder / name):
            # A snapshot holds links into the cache's blobs: remove the blob as well as the link.
            (folder / name).resolve().unlink()
            (folder / name).unlink(missing_ok=True)
            raise UserError(f"model {repo}@{commit}: {name} arrived damaged (its hash differs); run the command again")
    return folder, commit


def _is_model_file(path: str, patterns: Sequence[str] = MODEL_PATTERNS) -> bool:
    """Whether snapshot_download takes a file under such patterns, whose `*` matches in subfolders too."""
    return any(PurePosixPath(path).match(pattern) and (pattern[0] == "*" or path == pattern) for pattern in patterns)


def pull(ref: Ref, store: Store, kind: Kind = "dataset") -> Revision:
    """Bring a revision of the Hub into the store: resolve it once, download, check, move into place by one rename.

    A commit that the store holds whole is used without downloading. An interrupted pull goes on where it stopped. Tags
    become refs of the store; branches do not, since they move. Of a dataset that this project did not make only the
    cards come; `fetch_files` brings the data that is wanted.

    Raises:
        UserError: for a revision that is missing or may not be read, and naming the first file that differs from the
            manifest.
    """
    FAILURES.clear()  # what failed before says nothing about this call
    commit = resolve_commit(ref.repo, ref.revision, kind)
    log.info(f"{ref.repo} at {commit}")
    with _pulling(store, ref.repo, commit, kind) as work:
        # Looked up under the lock: another process may have brought it meanwhile.
        held = _held(store, ref.repo, commit, kind)
        revision = held or _download(store, ref.repo, commit, kind, work)
    if ref.revision is None and revision.manifest is not None:
        keep_tag(store, revision, round_tag(revision.manifest.round), kind)
    elif ref.revision is not None and not is_commit(ref.revision):
        keep_tag(store, revision, ref.revision, kind)
    return revision


def pull_into(text: str, store: Store, kind: Kind) -> Revision:
    """Bring the revision of a REF, as the user wrote it, into the store with all its data; see `pull`.

    Raises:
        UserError: as `pull`, for a path, which is on this machine already, and for a dataset without a table.
    """
    ref = parse_name(text)
    if ref is None and not os.path.lexists(text):
        raise UserError(f"{text!r} is no name on the Hub; pull takes namespace/name or namespace/name@revision")
    if ref is None:
        raise UserError(f"{text}: is a path on this machine; pull takes REPO or REPO@REVISION of the Hub")
    revision = pull(ref, store, kind)
    if kind == "dataset" and revision.manifest is None:
        tables = [name for name in files_on_hub(revision, store) if is_table(name)]
        if not tables:
            raise UserError(f"dataset {revision}: no Parquet file in it, nor another table such as CSV or JSONL")
        fetch_files(revision, store, tables)
    return revision


def files_on_hub(revision: Revision, store: Store) -> dict[str, RemoteFile]:
    """Return all files of a pulled dataset's commit by path, from the record of an earlier call where there is one.

    Raises:
        UserError: where the Hub does not answer, and for a file name that leads out of its folder.
    """
    record = _work_folder(store, revision.repo, "dataset") / f"{revision.revision}.json"
    if record.is_file():
        return {path: RemoteFile(path, *fields) for path, fields in json.loads(record.read_bytes()).items()}
    listing = read_listing(revision.repo, revision.revision, "dataset")
    listing.pop(FILE_NAME, None)  # of other software; in a snapshot it would be taken for one of this project
    for path in listing:
        _require_inside(path, f"dataset {revision}")
    record.parent.mkdir(parents=True, exist_ok=True)
    # A commit never changes: with this record its data is opened without the Hub.
    write_text(record, json.dumps({path: (file.size, file.blob_id, file.sha256) for path, file in listing.items()}))
    return listing


def fetch_files(revision: Revision, store: Store, names: Sequence[str]) -> None:
    """Bring files of a pulled dataset that this project did not make into its snapshot; those there are kept.

    Raises:
        UserError: naming the file that cannot be had whole.
    """
    if not (missing := [name for name in names if not (revision.path / name).is_file()]):
        return
    listing = files_on_hub(revision, store)
    with _pulling(store, revision.repo, revision.revision, "dataset") as work:
        _fetch(work, listing, missing, revision.repo, revision.revision, "dataset", None)
        for name in missing:
            (revision.path / name).parent.mkdir(parents=True, exist_ok=True)
            (work / name).rename(revision.path / name)
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def _pulling(store: Store, repo: str, commit: str, kind: Kind) -> Iterator[Path]:
    """Yield the folder of an unfinished download; a second process that wants the same commit waits."""
    folder = _work_folder(store, repo, kind)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{commit}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder / commit


def _work_folder(store: Store, repo: str, kind: Kind) -> Path:
    """Return the folder for the unfinished downloads of a repository."""
    return store.root / ".work" / f"pull-{kind}s--{repo.replace('/', '--')}"


def _held(store: Store, repo: str, commit: str, kind: Kind) -> Revision | None:
    """Return the store's copy of a commit; None where it has none. A damaged copy is deleted."""
    snapshot = store.repo_path(repo, kind) / "snapshots" / commit
    if not snapshot.is_dir():
        return None
    try:
        manifest = read_manifest(snapshot)
        if manifest is not None:
            require_whole(manifest, snapshot, f"{kind} {repo}@{commit}")
    except UserError as error:
        log.info(f"{error}; fetching it again")
        shutil.rmtree(snapshot)
        return None
    return Revision(repo, commit, snapshot, manifest)


def _require_inside(path: str, what: str) -> None:
    """Check a file name of a listing.

    Raises:
        UserError: for a name that leads out of its folder.
    """
    if inside(Path(), path) is None:
        raise UserError(f"{what}: file name {path!r} leaves its folder; not fetched")


def _download(store: Store, repo: str, commit: str, kind: Kind, work: Path) -> Revision:
    """Download a commit into a working folder, check it and move it into the store."""
    what = f"{kind} {repo}@{commit}"
    listing = read_listing(repo, commit, kind)
    # File names come from other people: none is used before all are checked.
    for path in listing:
        _require_inside(path, what)
    try:
        # The manifest first: it says which files make up the revision.
        manifest = _fetch_manifest(listing, repo, commit, kind, work)
        names = _wanted(listing, manifest, kind, what)
    except UserError:
        shutil.rmtree(work, ignore_errors=True)
        raise
    _fetch(work, listing, names, repo, commit, kind, manifest)
    # Records that hf_hub_download keeps for resuming.
    shutil.rmtree(work / ".cache", ignore_errors=True)
    work.mkdir(exist_ok=True)  # a dataset without a card
    snapshot = store.repo_path(repo, kind) / "snapshots" / commit
    snapshot.parent.mkdir(parents=True, exist_ok=True)
    work.rename(snapshot)
    return Revision(repo, commit, snapshot, manifest)


def _fetch(
    work: Path,
    listing: Mapping[str, RemoteFile],
    names: Sequence[str],
    repo: str,
    commit: str,
    kind: Kind,
    manifest: Manifest | None,
) -> None:
    """Download files of a commit into a working folder and check them.

    Raises:
        UserError: naming the first file that cannot be had whole; nothing is left then.
    """
    what = f"{kind} {repo}@{commit}"
    try:
        with ThreadPoolExecutor(DOWNLOADS) as pool:
            list(pool.map(lambda name: read_file(repo, listing[name], commit, kind, work), names))
        _check_download(work, listing, names, manifest, what)
    except UserError:
        shutil.rmtree(work, ignore_errors=True)  # a faulty download must not be resumed
        raise
    except CLIENT_ERRORS as error:  # such as a full disk
        shutil.rmtree(work, ignore_errors=True)
        raise as_user_error(what, error) from None


def _fetch_manifest(
    listing: Mapping[str, RemoteFile], repo: str, commit: str, kind: Kind, work: Path
) -> Manifest | None:
    """Download the commit's manifest.

    None for data that this project did not make; a manifest.json of other software is left out of the revision.
    """
    if FILE_NAME not in listing:
        return None
    path = read_file(repo, listing[FILE_NAME], commit, kind, work)
    what = f"{kind} {repo}@{commit}"
    if not listing[FILE_NAME].holds(path):
        raise UserError(f"{what}: {FILE_NAME} is damaged: its hash is not the commit's; fetch it again")
    try:
        foreign = not is_manifest(json.loads(path.read_bytes()))
    except (ValueError, RecursionError):
        foreign = False  # told below
    if foreign:
        path.unlink()
        return None
    return parse_manifest(path.read_bytes(), f"{what}: {FILE_NAME}", f"the {kind}'s owner has to publish it again")


def _wanted(listing: Mapping[str, RemoteFile], manifest: Manifest | None, kind: Kind, what: str) -> list[str]:
    """List the files to download: those that the manifest names; of foreign data the cards or the model's files.

    Raises:
        UserError: where listing and manifest contradict each other, or there is no file to read.
    """
    if manifest is not None and manifest.kind != kind:
        raise UserError(f"{what}: its manifest says it is a {manifest.kind}")
    data = [path for path in listing if path.endswith(".parquet")] if kind == "dataset" else []
    if manifest is None and kind == "dataset":
        return sorted(listing.keys() & set(CARDS))
    if manifest is None:
        if not (found := [path for path in listing if _is_model_file(path)]):
            raise UserError(f"{what}: no model file in it")
        return sorted({*found, *_side_files(listing)})
    named = {file.path for file in [*manifest.files, *manifest.apart]}
    if missing := sorted(named - listing.keys()):
        raise UserError(f"{what}: {missing[0]} is missing; its manifest names it")
    if extra := sorted(set(data) - named):
        raise UserError(f"{what}: {extra[0]} is not named in its manifest")
    if kind == "model" and (unread := sorted(path for path in named if not _is_model_file(path))):
        raise UserError(f"{what}: {unread[0]} is not fetched; files that are read: {', '.join(MODEL_PATTERNS)}")
    return sorted(named | _side_files(listing))


def _side_files(listing: Mapping[str, RemoteFile]) -> set[str]:
    """Return card and figures among the files of a commit; the manifest does not list them."""
    return {path for path in listing if path in SIDE_FILES or FIGURE.fullmatch(path)}


def _check_download(
    work: Path, listing: Mapping[str, RemoteFile], names: Sequence[str], manifest: Manifest | None, what: str
) -> None:
    """Compare every downloaded file with the commit's hashes and with the manifest.

    Raises:
        UserError: naming the first file that differs.
    """
    for name in names:
        remote = listing[name]
        if remote.sha256 is None and git_blob_id(work / name) != remote.blob_id:
            raise UserError(f"{what}: {name} arrived damaged: its hash is not the commit's; fetch it again")
        if (
            # Large data files are hashed once, against the manifest, below.
            remote.sha256 is not None
            and (manifest is None or name in _side_files(listing))
            and not remote.holds(work / name)
        ):
            raise UserError(f"{what}: {name} arrived damaged: its SHA-256 is not the commit's; fetch it again")
    if manifest is not None:
        require_whole(manifest, work, what)
        require_rows(manifest, work, what)
