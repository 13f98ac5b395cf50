"""What a repository on the Hub holds: its tags, its head, the files of a commit with their hashes, and its manifest."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, OfflineModeIsEnabled
from huggingface_hub.hf_api import RepoFile

from builders.hub.client import NotOnHub, call, client
from builders.store.files import file_sha256
from builders.store.manifest import FILE_NAME, Kind, Manifest, has_manifest, read_manifest
from builders.store.ref import LOCAL, ROUND_TAG, is_commit, is_local
from scorers.errors import UserError


@dataclass(frozen=True)
class RemoteFile:
    """One file of a commit.

    Attributes:
        path: path in the repository.
        size: bytes.
        blob_id: git's id of the content; for a large file, of the pointer that git holds in its place.
        sha256: of the content of a large file; None for a small one, which git itself holds.
    """

    path: str
    size: int
    blob_id: str
    sha256: str | None

    def holds(self, content: "Path | bytes", sha256: str | None = None) -> bool:
        """Whether the file has this content.

        Args:
            content: a local file, or bytes.
            sha256: SHA-256 of the content where it is known already, which saves reading the file.
        """
        # A small file lies in git itself and has no SHA-256; the size is compared first, since it costs nothing.
        if self.sha256 is None:
            data = content if isinstance(content, bytes) else None
            size = len(data) if data is not None else Path(str(content)).stat().st_size
            return size == self.size and git_blob_id(content) == self.blob_id
        return self.sha256 == (sha256 or sha256_of(content))


@dataclass(frozen=True)
class Head:
    """The newest commit of a branch.

    Attributes:
        commit: 40 hex digits.
        private: whether the repository is private.
    """

    commit: str
    private: bool


class HubUnreachable(UserError):
    """The Hub did not answer."""


def require_public_name(repo: str, kind: Kind) -> None:
    """Check that a repository may be looked up on the Hub.

    Raises:
        NotOnHub: for a name of a store alone, which a stranger may own on the Hub.
    """
    if is_local(repo):
        raise NotOnHub(
            f"{kind} {repo}: not in the store, and names under {LOCAL}/ are never looked up on the Hub; `grace status` "
            "shows what the store holds, and a published one has its owner's namespace"
        )


def sha256_of(content: "Path | bytes") -> str:
    """Return the SHA-256 of a file or of bytes."""
    return hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else file_sha256(content)


def git_blob_id(content: "Path | bytes") -> str:
    """Return git's id of a file's content: the SHA-1 of a header and the bytes."""
    data = content if isinstance(content, bytes) else content.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def read_listing(repo: str, commit: str, kind: Kind) -> dict[str, RemoteFile]:
    """Return all files of a commit by path.

    Raises:
        UserError: where the Hub does not answer; `NotOnHub` for a missing repository or commit.
    """
    require_public_name(repo, kind)

    def request() -> dict[str, RemoteFile]:
        rows = client().list_repo_tree(repo, recursive=True, revision=commit, repo_type=kind)
        files = [row for row in rows if isinstance(row, RepoFile)]
        return {
            file.path: RemoteFile(file.path, file.size, file.blob_id, file.lfs.sha256 if file.lfs else None)
            for file in files
        }

    return call(f"{kind} {repo}@{commit}", request)


def read_tags(repo: str, kind: Kind) -> dict[str, str]:
    """Return the tags of a repository with the commit that each stands for; see `read_refs`."""
    return read_refs(repo, kind)[1]


def read_refs(repo: str, kind: Kind) -> tuple[dict[str, str], dict[str, str]]:
    """Return the branches and the tags of a repository with the commit that each stands for.

    Raises:
        UserError: where the Hub does not answer; `NotOnHub` for a missing repository.
    """
    require_public_name(repo, kind)

    def request() -> tuple[dict[str, str], dict[str, str]]:
        refs = client().list_repo_refs(repo, repo_type=kind)
        damaged = [ref.name for ref in refs.tags if ref.ref != f"refs/tags/{ref.name}" or not is_commit(_text(ref))]
        if damaged:
            # ValueError counts as transient: a damaged answer is asked for again.
            raise ValueError(f"the list of tags contradicts itself at {damaged[0]}")
        branches = {ref.name: _text(ref) for ref in refs.branches}
        return branches, {ref.name: ref.target_commit for ref in refs.tags}

    return call(f"{kind} {repo}", request)


def _text(ref: object) -> str:
    """Return the commit of a tag as text, whatever the answer holds in its place."""
    return str(getattr(ref, "target_commit", ""))


def newest_round(tags: Iterable[str]) -> str | None:
    """Return the tag `round-NNN` of the newest round among tags; None without any."""
    # By number, not by text: round-1000 comes after round-999.
    return max((tag for tag in tags if ROUND_TAG.fullmatch(tag)), key=lambda tag: int(tag[6:]), default=None)


def read_head(repo: str, kind: Kind, branch: str | None = None) -> Head:
    """Return the head of a branch; None is the default one.

    Raises:
        UserError: where the Hub does not answer; `NotOnHub` for a missing repository.
    """
    require_public_name(repo, kind)

    def request() -> Head:
        info = client().repo_info(repo, revision=branch, repo_type=kind)
        if not is_commit(str(info.sha)):
            raise ValueError("the answer names no commit")
        return Head(str(info.sha), bool(info.private))

    return call(f"{kind} {repo}", request)


def read_file(repo: str, remote: RemoteFile, commit: str, kind: Kind, folder: Path) -> Path:
    """Download one file into a folder, under its own path; size is checked here, its hash by the caller.

    Raises:
        UserError: where the file cannot be had whole.
    """

    def request() -> Path:
        found = client().hf_hub_download(repo, remote.path, revision=commit, repo_type=kind, local_dir=folder)
        path = folder / remote.path
        if Path(found).resolve() != path.resolve() or path.stat().st_size != remote.size:
            # Counts as transient: the download is tried again.
            raise EntryNotFoundError(f"{remote.path} did not arrive whole")
        return path

    return call(f"{kind} {repo}@{commit}, {remote.path}", request)


def differing(
    contents: Mapping[str, "Path | bytes"], listing: Mapping[str, RemoteFile], known: Mapping[str, str]
) -> list[str]:
    """List the paths whose content a commit does not hold.

    Args:
        contents: local files or bytes by path.
        listing: the files of the commit.
        known: SHA-256 by path, of the files for which it is on record.
    """
    return [
        path
        for path, content in contents.items()
        if path not in listing or not listing[path].holds(content, known.get(path))
    ]


def fetch_manifest(repo: str, revision: str, kind: Kind) -> Manifest | None:
    """Fetch the manifest of a revision on the Hub, without its data; None where it has none of this project.

    Raises:
        NotOnHub: where repository or revision is missing, or hidden from this token.
        HubUnreachable: where the Hub gives no usable answer.
        UserError: where the file is not a valid manifest.
    """
    require_public_name(repo, kind)

    def request() -> str | None:
        try:
            return client().hf_hub_download(repo, FILE_NAME, repo_type=kind, revision=revision)
        except LocalEntryNotFoundError as error:  # no answer; offline, `call` need not try again
            raise OfflineModeIsEnabled(str(error)) if constants.HF_HUB_OFFLINE else error from None
        except EntryNotFoundError:
            return None

    try:
        found = call(f"{kind} {repo}@{revision}", request)
    except NotOnHub:
        raise
    except UserError as error:
        raise HubUnreachable(str(error)) from None
    # Other software has files of that name too.
    if found is None or not has_manifest(Path(found).parent):
        return None
    return read_manifest(Path(found).parent)
