"""Publishing one revision on the Hub: a commit on a head that was read, verified file by file, then a lasting tag.

A commit is never blindly repeated. Each attempt reads tags and head first and looks for the revision there and among
the commits below. So a commit that landed although its answer was lost, or that somebody else built upon meanwhile, is
found and not made twice; and a round that another process is publishing with other content is not committed at all.
The tag comes last: whatever stands under a tag has been compared with the local files.

The branch `main` shows the newest round. An older one is committed on a branch of its own, which is deleted once the
tag holds its commit.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, GitCommitInfo

from builders.hub.attempts import EXISTS, GONE, LOST_RACE, Again, mended, repeat
from builders.hub.client import NotOnHub, call, client, endpoint
from builders.hub.listing import RemoteFile, differing, newest_round, read_head, read_listing, read_tags
from builders.store.files import ADAPTER_CONFIG
from builders.store.manifest import TRAINING_STATE, DataFile, Kind
from scorers.errors import UserError

log = logging.getLogger(__name__)

POLLS, POLL = 10, 2.0  # how often and after how many seconds the tag of another process's commit is looked for
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
        rendered: data files whose content is not the local one, by path.
        origin: content digest of the local files where it is another one, since some are rendered.
        side: files beside the data: card, manifest and figures, made for the Hub, the log of a training, and its state
            if that is sent.
    """

    repo: str
    kind: Kind
    tag: str
    title: str
    digest: str
    data: Mapping[str, DataFile]
    folder: Path
    rendered: Mapping[str, bytes] = field(default_factory=dict)
    origin: str | None = None
    side: Mapping[str, Content] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.kind} {self.repo}"

    @property
    def contents(self) -> dict[str, Content]:
        """All files by path."""
        return {**{path: self.folder / path for path in self.data}, **self.rendered, **self.side}

    @property
    def description(self) -> str:
        """The commit message below the title, in which `find_origin` looks for a digest."""
        origin = "" if self.origin is None else f"\nmade from content digest {self.origin}"
        return f"content digest {self.digest}{origin}"

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


def is_data(path: str, kind: Kind) -> bool:
    """Whether a reader would take a repository's file for data: a shard, or the weights of a model."""
    if kind == "dataset":
        return path.startswith("data/") or path.endswith(".parquet")
    weights = path.endswith((".safetensors", ".safetensors.index.json")) or path.endswith(ADAPTER_CONFIG)
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
        tags = read_tags(release.repo, release.kind)
    except NotOnHub:
        return None
    return _under_tag(release, tags)


def _under_tag(release: Release, tags: Mapping[str, str]) -> str | None:
    """Return the commit under the release's tag; None where the tag is missing.

    Raises:
        UserError: where the tag stands for other data.
    """
    commit = tags.get(release.tag)
    if commit is None:
        return None
    for _ in range(2):  # twice: a damaged answer must not be taken for other data
        if release.same_data(read_listing(release.repo, commit, release.kind)):
            return commit
    raise UserError(
        f"{release}: tag {release.tag} on {endpoint()} stands for other data ({commit}), and tags never move; "
        "publish under another name: or namespace:, or pull that revision"
    )


def find_origin(repo: str, kind: Kind, tag: str, origin: str) -> str | None:
    """Return the commit under a tag if it was made from files with this content digest; None where it was not.

    For a revision that this machine no longer holds, so that its files cannot be compared.
    """
    try:
        commit = read_tags(repo, kind).get(tag)
    except NotOnHub:
        return None
    if commit is None:
        return None
    messages = [found.message for found in _history(repo, commit, kind) if found.commit_id == commit]
    return commit if any(f"content digest {origin}" in message for message in messages) else None


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
    if private:
        require_private(release.repo, release.kind)
    _ensure_repo(release, private)
    commit, branch, sent = _commit(release)
    tagged = _tag(release, commit)
    if branch is not None:
        _delete_branch(release, branch)
    return tagged, sent


def require_private(repo: str, kind: Kind) -> None:
    """Check that a repository is private, or not there yet.

    Raises:
        UserError: where it is public.
    """
    try:
        head = read_head(repo, kind)
    except NotOnHub:
        return
    if not head.private:
        raise UserError(
            f"{kind} {repo}: exists and is public; --private decides only when a repository is created: "
            "make it private in its settings on the Hub, or publish under another name"
        )


def _ensure_repo(release: Release, private: bool) -> None:
    """Create the repository where it is missing."""
    try:
        read_head(release.repo, release.kind)
    except NotOnHub:
        call(
            str(release),
            lambda: client().create_repo(release.repo, repo_type=release.kind, private=private, exist_ok=True),
        )


def _commit(release: Release) -> tuple[str, str | None, bool]:
    """Return the verified commit that holds the release, its branch if it is not `main`, and whether it was made here.

    Raises:
        UserError: where another process has published other content for the round.
    """
    sent = False
    waited: set[str] = set()  # commits of other processes whose tag has not come

    def attempt() -> tuple[str, str | None, bool]:
        nonlocal sent
        # 1. Another process may have published this round meanwhile.
        tags = read_tags(release.repo, release.kind)
        if (tagged := _under_tag(release, tags)) is not None:
            return tagged, None, sent
        branch, head, history = _place(release, tags)
        # 2. The commit may be there already, such as one whose answer was lost.
        listing = read_listing(release.repo, head, release.kind)
        if (found := _find(release, head, listing, history)) is not None:
            return found, branch, sent
        # 3. Another process may have committed other content and be about to tag it. Without a tag it was broken off.
        others = {c.commit_id for c in history if c.title == release.title and release.digest not in c.message}
        if others - waited:
            waited.update(others)
            if (tagged := _await_tag(release)) is not None:
                return tagged, branch, sent
        # 4. Commit on the head that was read. From here on a commit may exist, even if its answer is lost.
        sent = True
        with mended(str(release), LOST_RACE, EXISTS, *([] if branch is None else [GONE])):
            _send(release, branch, head, listing)
        # 5. Only what reads back with the right hashes counts.
        head = _head(release, branch)
        history = _history(release.repo, head, release.kind)
        if (found := _find(release, head, read_listing(release.repo, head, release.kind), history)) is not None:
            return found, branch, sent
        # Neither the head nor a commit below it holds the files as they were sent.
        raise Again("the commit cannot be read back as it was sent")

    return repeat(str(release), attempt)


def _place(release: Release, tags: Mapping[str, str]) -> tuple[str | None, str, Sequence[GitCommitInfo]]:
    """Return the branch to commit on, its head and the commits from there down; the branch is None for `main`.

    A round goes to `main` unless a newer one has a tag or a commit there; then it gets a branch that starts there.
    """
    head = _head(release, None)
    history = _history(release.repo, head, release.kind)
    # A newer round that is being published has a commit and no tag yet.
    stage = release.title.removesuffix(release.tag)
    committed = [c.title.removeprefix(stage) for c in history if c.title.startswith(stage)]
    newest = newest_round([*tags, *committed])
    if newest is None or int(newest[6:]) <= int(release.tag[6:]):
        return None, head, history
    branch = f"publish-{release.tag}"
    call(
        str(release),
        lambda: client().create_branch(
            release.repo, branch=branch, revision=head, repo_type=release.kind, exist_ok=True
        ),
    )
    head = _head(release, branch)
    return branch, head, _history(release.repo, head, release.kind)


def _head(release: Release, branch: str | None) -> str:
    """Return the head of a branch; None is `main`."""
    try:
        return read_head(release.repo, release.kind, branch).commit
    except NotOnHub as error:
        if branch is None:
            raise
        raise Again from error  # another process that published the same round has deleted it


def _delete_branch(release: Release, branch: str) -> None:
    """Delete the branch of an older round; its tag keeps the commit."""
    try:
        call(str(release), lambda: client().delete_branch(release.repo, branch=branch, repo_type=release.kind))
    except NotOnHub:
        return  # by another process
    except UserError as error:
        log.warning("%s; it is published, and the branch %s can be deleted", error, branch)


def _await_tag(release: Release) -> str | None:
    """Give another process time to tag its commit of this round; return the commit that got the tag.

    Raises:
        UserError: where the tag then stands for other data.
    """
    log.info("%s: another push of %s is under way; waiting for its tag", release, release.tag)
    for _ in range(POLLS):
        time.sleep(POLL)
        if (found := find_release(release)) is not None:
            return found
    return None


def _history(repo: str, head: str, kind: Kind) -> Sequence[GitCommitInfo]:
    """Return the commits from a head down, newest first."""
    return call(f"{kind} {repo}", lambda: client().list_repo_commits(repo, revision=head, repo_type=kind))


def _find(
    release: Release, head: str, listing: Mapping[str, RemoteFile], history: Sequence[GitCommitInfo]
) -> str | None:
    """Return the commit that holds the release, the head or one below it; None where none does.

    Only commits whose message carries the release's title and content digest are read.
    """
    if release.complete(listing):
        return head
    for commit in history:
        if (
            release.digest in commit.message
            and commit.title == release.title
            and release.complete(read_listing(release.repo, commit.commit_id, release.kind))
        ):
            return str(commit.commit_id)
    return None


def _send(release: Release, branch: str | None, head: str, listing: Mapping[str, RemoteFile]) -> None:
    """Upload the files that differ, then commit them on the head that was read, and on no other."""
    api, contents = client(), release.contents
    adds = [CommitOperationAdd(path, contents[path]) for path in differing(contents, listing, release.hashes)]
    deletes = [CommitOperationDelete(path, is_folder=False) for path in release.stale(listing)]
    # The large files go first and may take long; free_memory=False keeps the small ones for the commit.
    api.preupload_lfs_files(release.repo, adds, repo_type=release.kind, revision=branch, free_memory=False)
    api.create_commit(
        release.repo,
        [*adds, *deletes],
        commit_message=release.title,
        commit_description=release.description,
        repo_type=release.kind,
        revision=branch,
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
        with mended(str(release), EXISTS):
            client().create_tag(
                release.repo,
                tag=release.tag,
                tag_message=release.description,
                revision=commit,
                repo_type=release.kind,
            )
        if (found := find_release(release)) is not None:
            return found
        raise Again(f"tag {release.tag} cannot be read back")

    return repeat(str(release), attempt)
