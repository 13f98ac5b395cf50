"""Reading the Hub: resolve a revision once to its commit, download that, check every byte, keep it in the store.

The client checks sizes only, so each downloaded file is compared with the commit's listing and with the manifest's
SHA-256. Nothing that was downloaded is executed or unpickled; the one exception, BGE-M3's two heads in `.pt` files, is
read with torch's `weights_only`.
"""

import fcntl
import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import polars as pl
from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

from builders.hub.client import CLIENT_ERRORS, as_user_error, call, client, masked, short, status_of
from builders.hub.listing import (
    RemoteFile,
    git_blob_id,
    newest_round,
    read_file,
    read_head,
    read_listing,
    read_tags,
    require_public_name,
)
from builders.hub.session import FAILURES
from builders.store.check import require_whole
from builders.store.files import inside
from builders.store.manifest import FIGURE, FILE_NAME, Kind, Manifest, is_manifest, read_manifest
from builders.store.store import ROUND_TAG, Ref, Revision, Store, is_commit, parse_ref, valid_revision
from scorers.errors import UserError

log = logging.getLogger(__name__)

DOWNLOADS = 8  # files at a time
SIDE_FILES = {"README.md", FIGURE, "weights.png"}  # the last is the figure of manifests of format 1
_UNREADABLE = (ValueError, LookupError, TypeError, RuntimeError)  # how `datasets` says that data or a split is wrong
# What is fetched of a model: safetensors, configuration and tokenizer, and the two heads of BGE-M3.
MODEL_PATTERNS = (
    "*.safetensors",
    "*.json",
    "*.txt",
    "*.model",
    "*.jinja",
    "*.tiktoken",
    "colbert_linear.pt",
    "sparse_linear.pt",
)


def resolve_commit(repo: str, revision: str | None, kind: Kind = "dataset") -> str:
    """Resolve a revision to its 40-hex commit.

    Args:
        repo: the repository.
        revision: a branch, tag or commit; None for the newest tag `round-NNN`, or the default branch without such tags.
        kind: `dataset` or `model`.

    Raises:
        UserError: for a repository or revision that is missing or may not be read.
    """
    if revision is None:
        tags = read_tags(repo, kind)
        newest = newest_round(tags)
        return read_head(repo, kind).commit if newest is None else tags[newest]
    if not valid_revision(revision):
        raise UserError(f"{kind} {repo}@{revision}: not a branch, a tag or a 40-hex commit")
    if is_commit(revision):
        return revision
    require_public_name(repo, kind)

    def request() -> str:
        commit = str(client().repo_info(repo, revision=revision, repo_type=kind).sha)
        if not is_commit(commit):
            raise ValueError("the answer names no commit")
        return commit

    return call(f"{kind} {repo}@{revision}", request)


def load_split(repo: str, revision: str | None, split: str) -> pl.DataFrame:
    """Load one split of a dataset, in any format that `datasets` reads without code of its own, at the resolved commit.

    Raises:
        UserError: for a dataset or split that is missing, or data that `datasets` cannot read.
    """
    import datasets
    from datasets.exceptions import DatasetsError

    commit = resolve_commit(repo, revision)
    what = f"dataset {repo}@{commit}, split {split}"
    log.info(f"{repo} at {commit}")
    try:  # without `call`: datasets repeats its requests itself
        found = datasets.load_dataset(repo, revision=commit, split=split)
    except (*CLIENT_ERRORS, DatasetsError) as error:
        if status_of(error) is None and isinstance(error, (DatasetsError, *_UNREADABLE)):
            raise UserError(masked(f"{what}: datasets cannot read it: {short(str(error))}")) from None
        raise as_user_error(what, error) from None
    frame = found.to_polars()
    return frame if isinstance(frame, pl.DataFrame) else pl.concat(frame)


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
            lambda: client().snapshot_download(repo, revision=revision, allow_patterns=patterns, local_files_only=True),
        )
        return Path(found), Path(found).name
    commit = resolve_commit(repo, revision, "model")
    listing = read_listing(repo, commit, "model")
    wanted = {path: file for path, file in listing.items() if _is_model_file(path)}
    if not any(path.endswith(".safetensors") for path in wanted):
        raise UserError(f"model {repo}@{commit}: no .safetensors file; models saved as pickles are not read")
    cached = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model") / "snapshots" / commit
    # Hashing gigabytes takes minutes: files that were in the cache before were checked when they arrived.
    new = [path for path in wanted if not (cached / path).exists()]

    def request() -> Path:
        # RuntimeError counts as transient: an incomplete download is resumed.
        found = client().snapshot_download(repo, revision=commit, allow_patterns=list(MODEL_PATTERNS))
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


def _is_model_file(path: str) -> bool:
    """Whether snapshot_download takes a file under `MODEL_PATTERNS`, whose `*` matches in subfolders too."""
    return any(
        PurePosixPath(path).match(pattern) and (pattern[0] == "*" or path == pattern) for pattern in MODEL_PATTERNS
    )


def pull(ref: Ref, store: Store, kind: Kind = "dataset") -> Revision:
    """Bring a revision of the Hub into the store: resolve it once, download, check, move into place by one rename.

    A commit that the store holds whole is used without downloading. An interrupted pull goes on where it stopped. Tags
    become refs of the store; branches do not, since they move.

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
    if ref.revision is not None and ROUND_TAG.fullmatch(ref.revision):
        _keep_tag(store, revision, ref.revision, kind)
    return revision


def pull_into(text: str, store: Store, kind: Kind) -> Revision:
    """Bring the revision of a REF, as the user wrote it, into the store; see `pull`.

    Raises:
        UserError: as `pull`, and for a path, which is on this machine already.
    """
    ref = parse_ref(text)
    if ref.path is not None:
        raise UserError(f"{text}: is a path on this machine; pull takes REPO or REPO@REVISION of the Hub")
    return pull(ref, store, kind)


@contextmanager
def _pulling(store: Store, repo: str, commit: str, kind: Kind) -> Iterator[Path]:
    """Yield the folder of an unfinished download; a second process that wants the same commit waits."""
    folder = store.root / ".work" / f"pull-{kind}s--{repo.replace('/', '--')}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{commit}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder / commit


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


def _keep_tag(store: Store, revision: Revision, tag: str, kind: Kind) -> None:
    """Point the store's tag at a pulled revision, unless the tag stands for one that was built here."""
    existing = store.find(revision.repo, tag, kind)
    # A revision that was built here must not lose its tag to a pulled one.
    if existing is None or not existing.made_here:
        store.set_refs(revision.repo, kind, revision.revision, [tag])


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
        with ThreadPoolExecutor(DOWNLOADS) as pool:
            list(pool.map(lambda name: read_file(repo, listing[name], commit, kind, work), names))
        _check_download(work, listing, names, manifest, what)
    except UserError:
        shutil.rmtree(work, ignore_errors=True)  # a faulty download must not be resumed
        raise
    except CLIENT_ERRORS as error:  # such as a full disk
        shutil.rmtree(work, ignore_errors=True)
        raise as_user_error(what, error) from None
    # Records that hf_hub_download keeps for resuming.
    shutil.rmtree(work / ".cache", ignore_errors=True)
    snapshot = store.repo_path(repo, kind) / "snapshots" / commit
    snapshot.parent.mkdir(parents=True, exist_ok=True)
    work.rename(snapshot)
    return Revision(repo, commit, snapshot, manifest)


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
        value = json.loads(path.read_bytes())
    except ValueError:
        raise UserError(f"{what}: {FILE_NAME} is not JSON; the dataset's owner has to publish it again") from None
    if not is_manifest(value):
        path.unlink()
        return None
    return read_manifest(work)


def _wanted(listing: Mapping[str, RemoteFile], manifest: Manifest | None, kind: Kind, what: str) -> list[str]:
    """List the files to download: those that the manifest names, or the Parquet or model files of foreign data.

    Raises:
        UserError: where listing and manifest contradict each other, or there is no file to read.
    """
    if manifest is not None and manifest.kind != kind:
        raise UserError(f"{what}: its manifest says it is a {manifest.kind}")
    data = [path for path in listing if path.endswith(".parquet")] if kind == "dataset" else []
    if manifest is None:
        found = data if kind == "dataset" else [path for path in listing if _is_model_file(path)]
        if not found:
            raise UserError(f"{what}: no {'Parquet' if kind == 'dataset' else 'model'} file in it")
        return sorted({*found, *_side_files(listing)})
    named = {file.path for file in manifest.files}
    if missing := sorted(named - listing.keys()):
        raise UserError(f"{what}: {missing[0]} is missing; its manifest names it")
    if extra := sorted(set(data) - named):
        raise UserError(f"{what}: {extra[0]} is not named in its manifest")
    if kind == "model" and (unread := sorted(path for path in named if not _is_model_file(path))):
        raise UserError(f"{what}: {unread[0]} is not fetched; files that are read: {', '.join(MODEL_PATTERNS)}")
    return sorted(named | _side_files(listing))


def _side_files(listing: Mapping[str, RemoteFile]) -> set[str]:
    """Return card and figure among the files of a commit; the manifest does not list them."""
    return listing.keys() & SIDE_FILES


def _check_download(
    work: Path, listing: Mapping[str, RemoteFile], names: list[str], manifest: Manifest | None, what: str
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
