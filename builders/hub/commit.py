"""Publishing one revision on the Hub: a commit on a head that was read, verified file by file, then a lasting tag.

A commit is never blindly repeated. Each attempt reads the head first and looks for the revision there and among the
commits below it. So a commit that landed although its answer was lost, or that somebody else built upon meanwhile, is
found and not made twice. The tag comes last: whatever stands under a tag has been compared with the local files.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_random_exponential

from builders.hub.client import CLIENT_ERRORS, NotOnHub, as_user_error, call, client, endpoint, is_transient, status_of
from builders.hub.client import wait as wait_for_hub
from builders.hub.listing import RemoteFile, differing, read_head, read_listing, read_tags
from builders.store.files import ADAPTER_CONFIG
from builders.store.manifest import TRAINING_STATE, DataFile, Kind
from scorers.errors import UserError

ATTEMPTS = 5  # after errors that another attempt can mend
RACES = 20  # attempts while others publish to the same repository
LOST_RACE = 412  # HTTP status of a commit whose parent is no longer the head
EXISTS = 409  # HTTP status where what is to be created exists, or is being created
Content = Path | bytes


@dataclass(frozen=True)
class Release:
    """What is to be published under a tag; paths are relative to the repository.

    Attributes:
        repo: the repository on the Hub.
        kind: `dataset` or `model`.
        tag: the tag of the round.
        title: first line of the commit message.
        digest: content digest of the data files.
        data: the files that the manifest names.
        folder: local folder of the data files.
        side: files beside the data: card, manifest and figure, made for the Hub, and the training state if it is sent.
    """

    repo: str
    kind: Kind
    tag: str
    title: str
    digest: str
    data: Mapping[str, DataFile]
    folder: Path
    side: Mapping[str, Content]

    def __str__(self) -> str:
        return f"{self.kind} {self.repo}"

    @property
    def contents(self) -> dict[str, Content]:
        """All files by path."""
        return {**{path: self.folder / path for path in self.data}, **self.side}

    @property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of the data files by path, as the manifest records them."""
        return {path: file.sha256 for path, file in self.data.items()}

    def stale(self, listing: Mapping[str, RemoteFile]) -> list[str]:
        """List the files of a commit that readers would take for data, or for its state, though this has none such."""
        return [p for p in listing if p not in self.contents and (is_data(p, self.kind) or is_state(p, self.kind))]

    def same_data(self, listing: Mapping[str, RemoteFile]) -> bool:
        """Whether a commit holds exactly this revision's data, whatever its card says, with a training state or not."""
        data = {path: content for path, content in self.contents.items() if path in self.data}
        other = [path for path in self.stale(listing) if is_data(path, self.kind)]
        return not other and not differing(data, listing, self.hashes)

    def complete(self, listing: Mapping[str, RemoteFile]) -> bool:
        """Whether a commit holds this revision, card and manifest included."""
        return not self.stale(listing) and not differing(self.contents, listing, self.hashes)


class _Again(Exception):
    """An attempt that failed in a way that another attempt can mend; the cause says how."""


def is_data(path: str, kind: Kind) -> bool:
    """Whether a reader would take a repository's file for data: a shard, or the weights of a model."""
    if kind == "dataset":
        return path.startswith("data/") or path.endswith(".parquet")
    weights = path.endswith((".safetensors", ".safetensors.index.json")) or path == ADAPTER_CONFIG
    return weights and not is_state(path, kind)


def is_state(path: str, kind: Kind) -> bool:
    """Whether a file belongs to the training state that a model may carry beside its weights."""
    return kind == "model" and path.startswith(f"{TRAINING_STATE}/")


def find_release(release: Release) -> str | None:
    """Return the commit under the release's tag; None where the repository or the tag is missing.

    Raises:
        UserError: where the tag stands for other data: tags never move.
    """
    try:
        commit = read_tags(release.repo, release.kind).get(release.tag)
    except NotOnHub:
        return None
    if commit is None:
        return None
    for _ in range(2):  # twice: a damaged answer must not be taken for other data
        if release.same_data(read_listing(release.repo, commit, release.kind)):
            return commit
    raise UserError(
        f"{release}: tag {release.tag} on {endpoint()} stands for other data ({commit}), and tags never move; "
        "publish under another name: or namespace:, or pull that revision"
    )


def release_commit(release: Release, *, private: bool) -> tuple[str, bool]:
    """Create the repository where it is missing, commit the files that differ, verify the commit and tag it.

    Args:
        release: what is to be published.
        private: create the repository private.

    Returns:
        The commit under the tag, and whether a commit was made by this call.

    Raises:
        UserError: for missing rights, a name that is not allowed, a tag with other data, or a Hub that does not answer.
    """
    _ensure_repo(release, private)
    commit, sent = _commit(release)
    return _tag(release, commit), sent


def _ensure_repo(release: Release, private: bool) -> None:
    """Create the repository where it is missing.

    Raises:
        UserError: where it exists and is public although it should be private.
    """
    try:
        head = read_head(release.repo, release.kind)
    except NotOnHub:
        call(
            str(release),
            lambda: client().create_repo(release.repo, repo_type=release.kind, private=private, exist_ok=True),
        )
        return
    if private and not head.private:
        raise UserError(
            f"{release}: exists and is public; --private decides only when a repository is created: "
            "make it private in its settings on the Hub, or publish under another name"
        )


def _was_race(state: RetryCallState) -> bool:
    """Whether an attempt failed because another process published at the same time."""
    error = state.outcome.exception() if state.outcome is not None else None
    return error is not None and error.__cause__ is not None and status_of(error.__cause__) in (LOST_RACE, EXISTS)


def _wait(state: RetryCallState) -> float:
    """Return the seconds until the next attempt: random after a lost race, else what the Hub asks for."""
    return float(wait_random_exponential(multiplier=0.2, max=5)(state)) if _was_race(state) else wait_for_hub(state)


def _stop(state: RetryCallState) -> bool:
    """Whether the attempts are spent."""
    return state.attempt_number >= (RACES if _was_race(state) else ATTEMPTS)


def _repeat(release: Release, attempt: Callable[[], str]) -> str:
    """Call `attempt` until it returns a commit."""
    retrying = Retrying(retry=retry_if_exception_type(_Again), stop=_stop, wait=_wait, reraise=True)
    try:
        return retrying(attempt)
    except _Again as error:
        raise as_user_error(str(release), error.__cause__ or error) from None


def _commit(release: Release) -> tuple[str, bool]:
    """Return the verified commit that holds the release, and whether it was made by this call."""
    sent = False

    def attempt() -> str:
        nonlocal sent
        # 1. The commit may be there already, such as one whose answer was lost.
        head = read_head(release.repo, release.kind).commit
        listing = read_listing(release.repo, head, release.kind)
        if (found := _find(release, head, listing)) is not None:
            return found
        # 2. Commit on that head. From here on a commit may exist, even if its answer is lost.
        sent = True
        with _mended(release, LOST_RACE, EXISTS):
            _send(release, head, listing)
        # 3. Only what reads back with the right hashes counts.
        head = read_head(release.repo, release.kind).commit
        if (found := _find(release, head, read_listing(release.repo, head, release.kind))) is not None:
            return found
        # Neither the head nor a commit below it holds the files as they were sent.
        raise _Again("the commit cannot be read back as it was sent")

    return _repeat(release, attempt), sent


@contextmanager
def _mended(release: Release, *statuses: int) -> Iterator[None]:
    """Turn errors that another attempt can mend into `_Again`, and all others into errors for the user.

    Args:
        release: named in the error.
        statuses: HTTP statuses that count as mendable beside the transient errors.
    """
    try:
        yield
    except CLIENT_ERRORS as error:
        if is_transient(error) or status_of(error) in statuses:
            raise _Again from error
        raise as_user_error(str(release), error) from None


def _find(release: Release, head: str, listing: Mapping[str, RemoteFile]) -> str | None:
    """Return the commit that holds the release, the head or one below it; None where none does."""
    return head if release.complete(listing) else _landed(release, head)


def _landed(release: Release, head: str) -> str | None:
    """Return a commit below the head that holds the release; None where none does.

    Only commits whose message carries the release's title and content digest are read.
    """
    commits = call(
        str(release), lambda: client().list_repo_commits(release.repo, revision=head, repo_type=release.kind)
    )
    for commit in commits:
        if release.digest in commit.message and commit.title == release.title:
            listing = read_listing(release.repo, commit.commit_id, release.kind)
            if release.complete(listing):
                return str(commit.commit_id)
    return None


def _send(release: Release, head: str, listing: Mapping[str, RemoteFile]) -> None:
    """Upload the files that differ, then commit them on the head that was read, and on no other."""
    api, contents = client(), release.contents
    adds = [CommitOperationAdd(path, contents[path]) for path in differing(contents, listing, release.hashes)]
    deletes = [CommitOperationDelete(path, is_folder=False) for path in release.stale(listing)]
    # The large files go first and may take long; free_memory=False keeps the small ones for the commit.
    api.preupload_lfs_files(release.repo, adds, repo_type=release.kind, free_memory=False)
    api.create_commit(
        release.repo,
        [*adds, *deletes],
        commit_message=release.title,
        commit_description=f"content digest {release.digest}",
        repo_type=release.kind,
        parent_commit=head,  # the Hub refuses the commit with 412 if the head has moved
    )


def _tag(release: Release, commit: str) -> str:
    """Tag a verified commit and return the commit under the tag.

    Where another process set the tag first, with the same data, that is the other's commit.
    """

    def attempt() -> str:
        if (found := find_release(release)) is not None:
            return found
        # Another process may set the tag at the same time: whatever tag stands is read back and compared.
        with _mended(release, EXISTS):
            client().create_tag(
                release.repo,
                tag=release.tag,
                tag_message=f"content digest {release.digest}",
                revision=commit,
                repo_type=release.kind,
            )
        if (found := find_release(release)) is not None:
            return found
        raise _Again(f"tag {release.tag} cannot be read back")

    return _repeat(release, attempt)
