"""Opening what a REF names: a path, a revision of the local store, or a dataset or model on the Hub."""

import hashlib
import re
from pathlib import Path

from builders.store.manifest import FILE_NAME, Kind, content_digest, describe_files, read_manifest
from builders.store.store import KINDS, Revision, Store, is_commit, parse_ref
from scorers.errors import UserError


def open_revision(text: str, store: Store, kind: Kind | None = None, *, require_pinned: bool = False) -> Revision:
    """Open the revision that a REF names.

    A path is taken as it is. A name is looked up in the store and then on the Hub, where it is resolved once to a
    commit, downloaded and checked. Without a revision the newest round is taken. The files of what is opened are
    compared with its manifest, see `Store.require_whole`.

    Args:
        text: `repo[@revision]` or a path.
        store: the local store.
        kind: `dataset` or `model`; None tries a dataset first, then a model.
        require_pinned: refuse what may move: a branch, and a tag of a revision that was built in this store.

    Raises:
        UserError: where nothing is found, for what may move with `require_pinned`, and for a revision that is damaged.
    """
    ref = parse_ref(text)
    if ref.path is not None:
        given = _from_path(ref.path)
        store.require_whole(given)
        return given
    if require_pinned and not (ref.revision and is_commit(ref.revision)) and not _is_tag(ref.revision):
        raise UserError(f"{text}: --require-pinned takes a tag or a 40-hex commit, not {ref.revision or 'the newest'}")
    found = store.lookup(ref, kind)
    # A pulled repository may have a newer round on the Hub by now; one that was built here is the newest itself.
    if found is not None and (ref.revision or found.made_here):
        if require_pinned and found.made_here and not is_commit(str(ref.revision)):
            raise UserError(
                f"{text}: a tag of the store moves when its round is built again, --require-pinned takes what never "
                f"moves; it stands for {found} now"
            )
        store.require_whole(found)
        return found
    from builders.hub.client import NotOnHub
    from builders.hub.pull import pull

    missing: list[NotOnHub] = []
    for candidate in KINDS if kind is None else (kind,):
        try:
            return pull(ref, store, candidate)
        except NotOnHub as error:
            missing.append(error)
    raise missing[0]


def open_here(text: str, store: Store) -> Revision | None:
    """Open the revision that a REF names on this machine, a path or a revision of the store; None where there is none.

    For commands that look at local data, pulled or altered as it may be: the Hub, which may have a newer round, is not
    asked.
    """
    ref = parse_ref(text)
    return store.lookup(ref) if ref.path is None else _from_path(ref.path)


def _is_tag(revision: str | None) -> bool:
    """Whether a revision is a tag of a round, which never moves on the Hub."""
    return revision is not None and re.fullmatch(r"round-\d{3,}", revision) is not None


def _from_path(path: Path) -> Revision:
    """Open a snapshot folder, any folder of Parquet files, or one Parquet file.

    Without a manifest the revision's name is the beginning of its content digest.
    """
    manifest = read_manifest(path) if path.is_dir() else None
    if manifest is not None:
        # The hash of the file's bytes: a manifest of format 1 is upgraded when read, so its own revision would differ.
        name = hashlib.sha1((path / FILE_NAME).read_bytes()).hexdigest()
        return Revision(manifest.repo, path.name if is_commit(path.name) else name, path, manifest)
    root = path if path.is_dir() else path.parent
    plain = Revision(path.stem, "", path, None)
    digest = content_digest(describe_files(root, plain.data_files()))
    return Revision(path.stem, digest[:40], path, None)
