"""Opening what a REF names: a path, a revision of the local store, or a dataset or model on the Hub."""

import hashlib
from dataclasses import replace
from pathlib import Path

from builders.store.manifest import FILE_NAME, Kind, content_digest, describe_files, read_manifest
from builders.store.ref import Ref, is_commit, parse_ref
from builders.store.revision import Choice, Revision
from builders.store.store import KINDS, Store
from scorers.errors import UserError


def open_revision(
    text: str,
    store: Store,
    kind: Kind | None = None,
    *,
    require_pinned: bool = False,
    choice: Choice | None = None,
) -> Revision:
    """Open the revision that a REF names.

    A path is taken as it is. A name is looked up in the store and then on the Hub, where it is resolved once to a
    commit, downloaded and checked. Without a revision the newest round is taken. Of a dataset that this project did not
    make one split is opened. The files of what is opened are compared with its manifest, see `Store.require_whole`.

    Args:
        text: `repo[@revision]` or a path.
        store: the local store.
        kind: `dataset` or `model`; None tries a dataset first, then a model.
        require_pinned: refuse what may move: a branch, as the Hub says, and a tag of a revision that was built in this
            store.
        choice: the subset and the split of a dataset; None for the default subset and `train`.

    Raises:
        UserError: where nothing is found, for what may move with `require_pinned`, for a part that is not there, and
            for a revision that is damaged.
    """
    ref = parse_ref(text)
    if ref.path is not None:
        found = _from_path(ref.path)
    else:
        found = _stored(ref, store, kind, require_pinned) or _pulled(ref, store, kind)
    store.require_whole(found)
    # A model has no parts. The folder of its repository begins with its kind, here and in the Hub's cache.
    if kind != "model" and not found.path.parent.parent.name.startswith("models--"):
        from builders.hub.foreign import choose

        found = choose(found, store, choice or Choice())
    return _named(found)


def resolve(text: str, store: Store, *, require_pinned: bool = False) -> Ref:
    """Return a REF of a dataset with the commit that it stands for now; a path as it is. No data is read.

    Args:
        text: `repo[@revision]` or a path.
        store: the local store.
        require_pinned: as for `open_revision`.

    Raises:
        UserError: where nothing is found, and for what may move with `require_pinned`.
    """
    ref = parse_ref(text)
    if ref.path is not None:
        return ref
    from builders.hub.resolve import resolve_commit

    stored = _stored(ref, store, "dataset", require_pinned)
    return Ref(ref.repo, stored.revision if stored else resolve_commit(ref.repo, ref.revision))


def _stored(ref: Ref, store: Store, kind: Kind | None, pinned: bool) -> Revision | None:
    """Return the store's revision of a name; None where the Hub has to be asked.

    Args:
        ref: the name.
        store: the local store.
        kind: `dataset` or `model`; None for either.
        pinned: refuse what may move.
    """
    found = store.lookup(ref, kind)
    fixed = ref.revision is not None and is_commit(ref.revision)
    # Of a name of the store alone the Hub is not asked, not even where the revision's manifest is damaged.
    if found is not None and (found.made_here or found.local or fixed):
        if pinned and not fixed:
            raise UserError(
                f"{ref}: a tag of the store moves when its round is built again, --require-pinned takes what never "
                f"moves; it stands for {found} now"
            )
        return found
    if pinned and not fixed:
        from builders.hub.resolve import require_tag

        require_tag(ref, kind or "dataset")
    # A pulled repository may have a newer round on the Hub by now, but what was pulled under a tag stays.
    if found is None or ref.revision is None:
        return None
    from builders.hub.resolve import tell_moved_tag

    tell_moved_tag(found, ref.revision, kind or "dataset")
    return found


def _pulled(ref: Ref, store: Store, kind: Kind | None) -> Revision:
    """Return the Hub's revision of a name.

    Raises:
        UserError: where the Hub does not have it.
    """
    from builders.hub.client import NotOnHub
    from builders.hub.pull import pull

    missing: list[NotOnHub] = []
    for candidate in KINDS if kind is None else (kind,):
        try:
            return pull(ref, store, candidate)
        except NotOnHub as error:
            missing.append(error)
    raise missing[0]


def open_here(text: str, store: Store, kind: Kind | None = None) -> Revision | None:
    """Open the revision that a REF names on this machine, a path or a revision of the store; None where there is none.

    Of a name a dataset comes before a model, unless a kind is given.

    For commands that look at local data, pulled or altered as it may be: the Hub, which may have a newer round, is not
    asked.
    """
    ref = parse_ref(text)
    return store.lookup(ref, kind) if ref.path is None else _named(_from_path(ref.path))


def _from_path(path: Path) -> Revision:
    """Open a snapshot folder, a repository's folder in a store or in the Hub's cache, any folder, or one file.

    A folder without a manifest has no revision's name yet, unless it is a snapshot.
    """
    if (path / "snapshots").is_dir() and (repo := _cached_repo(path)) is not None:
        kind: Kind = "model" if path.name.startswith("models--") else "dataset"
        if (newest := Store(path.parent).lookup(Ref(repo, None), kind)) is None:
            raise UserError(f"{path}: neither a round nor the branch main is in it; give one of its snapshots")
        return newest
    manifest = read_manifest(path) if path.is_dir() else None
    if manifest is not None:
        # The hash of the file's bytes: a manifest of format 1 is upgraded when read, so its own revision would differ.
        name = hashlib.sha1((path / FILE_NAME).read_bytes()).hexdigest()
        return Revision(manifest.repo, path.name if is_commit(path.name) else name, path, manifest)
    if is_commit(path.name) and path.parent.name == "snapshots" and (repo := _cached_repo(path.parent.parent)):
        return Revision(repo, path.name, path, None)
    return Revision(path.stem, "", path, None)


def _cached_repo(folder: Path) -> str | None:
    """Return the repository whose folder, `datasets--ns--name`, it is; None for any other folder."""
    kind, *parts = folder.name.split("--")
    return "/".join(parts) if kind in ("datasets", "models") and 1 <= len(parts) <= 2 else None


def _named(revision: Revision) -> Revision:
    """Return a revision that has no name under the beginning of its content digest."""
    if revision.revision:
        return revision
    root = revision.path if revision.path.is_dir() else revision.path.parent
    return replace(revision, revision=content_digest(describe_files(root, revision.data_files()))[:40])
