"""What the branches and tags of a repository on the Hub stand for, and whether a tag was moved."""

import logging

from builders.hub.client import CLIENT_ERRORS, as_user_error, call, client, endpoint
from builders.hub.listing import newest_round, read_head, read_refs, read_tags, require_public_name
from builders.store.manifest import Kind
from builders.store.ref import Ref, is_commit, valid_revision
from builders.store.revision import Revision
from builders.store.store import Store
from scorers.errors import UserError

log = logging.getLogger(__name__)

TIMEOUT = 10  # seconds, of a question whose answer can be done without


def resolve_commit(repo: str, revision: str | None, kind: Kind = "dataset") -> str:
    """Resolve a revision to its 40-hex commit.

    Args:
        repo: the repository.
        revision: a branch, tag or commit; None for the newest tag `round-NNN`, or the default branch without such tags.
        kind: `dataset` or `model`.

    Raises:
        UserError: for a repository or revision that is missing or may not be read; `NotOnHub` for a name of a store
            alone, which the Hub is not asked for.
    """
    require_public_name(repo, kind)
    if revision is None:
        tags = read_tags(repo, kind)
        newest = newest_round(tags)
        return read_head(repo, kind).commit if newest is None else tags[newest]
    if not valid_revision(revision):
        raise UserError(f"{kind} {repo}@{revision}: not a branch, a tag or a 40-hex commit")
    if is_commit(revision):
        return revision

    def request() -> str:
        commit = str(client().repo_info(repo, revision=revision, repo_type=kind).sha)
        if not is_commit(commit):
            raise ValueError("the answer names no commit")
        return commit

    return call(f"{kind} {repo}@{revision}", request)


def require_tag(ref: Ref, kind: Kind) -> None:
    """Check with the Hub that a revision is a tag, which a branch of any name is not.

    Raises:
        UserError: for a branch, for no revision, where the Hub does not answer, and for a name of a store alone.
    """
    require_public_name(ref.repo, kind)
    said = "the newest"
    if ref.revision is not None:
        branches, tags = read_refs(ref.repo, kind)
        if ref.revision in tags and ref.revision not in branches:
            return
        said = f"{ref.revision}, which is {'a branch' if ref.revision in branches else 'no tag'} on {endpoint()}"
    raise UserError(f"{ref}: --require-pinned takes a tag or a 40-hex commit, not {said}")


def keep_tag(store: Store, revision: Revision, tag: str, kind: Kind) -> None:
    """Point the store's tag at a pulled revision, unless the tag stands for one that was built here.

    A branch is not kept; the Hub says what is a tag. A tag that was moved there is told.
    """
    existing = store.find(revision.repo, tag, kind)
    # A revision that was built here must not lose its tag to a pulled one.
    if (existing is not None and existing.made_here) or read_refs(revision.repo, kind)[1].get(tag) != revision.revision:
        return
    if existing is not None and existing.revision != revision.revision:
        log.warning(f"{_moved(existing, tag, revision.revision)}; the store now has the new one under this tag")
    store.set_refs(revision.repo, kind, revision.revision, [tag])


def tell_moved_tag(held: Revision, tag: str, kind: Kind) -> None:
    """Warn where a tag that the store has on record stands for another commit on the Hub by now.

    The Hub is asked once and briefly: without it the store's revision is good enough.
    """
    try:
        commit = client().repo_info(held.repo, revision=tag, repo_type=kind, timeout=TIMEOUT).sha
    except CLIENT_ERRORS as error:
        log.info(f"{held.repo}: whether tag {tag} was moved is not known: {as_user_error(held.repo, error)}")
        return
    if commit != held.revision:
        log.warning(
            f"{_moved(held, tag, str(commit))}; the old one is used, `grace pull {held.repo}@{tag}` brings the new one"
        )


def _moved(held: Revision, tag: str, commit: str) -> str:
    """Return the words for a tag that was moved."""
    return f"{held.repo}: tag {tag} was moved on the Hub from {held.revision} to {commit}"
