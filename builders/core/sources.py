"""What a stage reads from outside: a file of rows, a dataset on the Hub, or the folder of one."""

from pathlib import Path

from builders.core.stage import Source
from builders.core.tables import ENDINGS, ending_of
from builders.hub.refs import open_revision, resolve
from builders.store.files import file_sha256
from builders.store.ref import parse_name
from builders.store.revision import Choice
from builders.store.store import Store
from scorers.errors import UserError


def source_of(source: str, store: Store, choice: Choice, *, require_pinned: bool) -> Source:
    """Return what a setting names: a file by its SHA-256, a dataset on the Hub by its commit, a folder by its content.

    Args:
        source: the setting.
        store: the local store.
        choice: the part of a dataset.
        require_pinned: refuse a dataset by a name that may move.

    Raises:
        UserError: for a source that is missing, a file whose ending is not in `ENDINGS`, and with `require_pinned` a
            dataset by a name that may move.
    """
    if (file := source_file(source)) is not None:
        return Source(file_sha256(file))
    ref = resolve(source, store, require_pinned=require_pinned)
    if ref.path is not None:
        return Source(open_revision(source, store, "dataset", choice=choice).digest, ref, choice)
    return Source(str(ref.revision), ref, choice)


def source_name(source: str) -> str:
    """Return a source as a dataset's column shows it: a file's name without its folder."""
    return Path(source).name if Path(source).is_file() else source


def source_file(source: str) -> Path | None:
    """Return the file that a source names; None for a folder and for a dataset on the Hub.

    Raises:
        UserError: for a file that is missing or whose ending is not in `ENDINGS`.
    """
    path = Path(source)
    if path.is_file():
        if ending_of(path) is None:
            raise UserError(
                f"source {path}: {path.suffix or 'no ending'}; files ending in {', '.join(ENDINGS)} are read"
            )
        return path
    # Not a file: a folder or owner/name is left, and a file's ending means a path that is wrong.
    if not path.is_dir() and (ending_of(path) is not None or parse_name(source) is None or source.count("/") != 1):
        raise UserError(
            f"source {source}: no such file; give a {', '.join(ENDINGS)} file, the folder of a dataset or a dataset "
            "owner/name[@revision]"
        )
    return None
