"""Other people's datasets, pulled or in a folder: of several subsets and splits the part that is wanted."""

from dataclasses import replace
from pathlib import Path

from builders.hub.layout import DEFAULT, cards_of, find_part, write_parquet
from builders.hub.pull import fetch_files, files_on_hub
from builders.store.manifest import content_digest, describe_files, fingerprint_of
from builders.store.revision import Choice, Revision
from builders.store.store import Store
from scorers.errors import UserError


def choose(revision: Revision, store: Store, choice: Choice) -> Revision:
    """Return a dataset with the Parquet files of one split, fetched where they are on the Hub.

    Files of other formats are read by `datasets` once and kept as Parquet files in the store's working folder.

    Args:
        revision: a dataset of this project, which has one split; one that was pulled; a folder; a file.
        store: the local store.
        choice: the subset and the split that are wanted.

    Raises:
        UserError: for a part that the dataset does not have, where it has several and none was chosen, and for data
            that cannot be read.
    """
    one = revision.path.is_file()
    if revision.manifest is not None or (one and revision.path.suffix == ".parquet"):
        _require_default(revision, choice)
        return revision
    pulled = revision.revision != "" and store.holds(revision)
    folder = revision.path.parent if one else revision.path
    # What lies beside a file says nothing of it.
    names = [revision.path.name] if one else list(files_on_hub(revision, store)) if pulled else _files_in(folder)
    cards = cards_of(folder, names)
    what = f"dataset {revision if pulled else revision.path}"
    part = find_part(names, cards, choice, what)
    if pulled:
        fetch_files(revision, store, part.files)
    if part.format == "parquet":
        return replace(revision, files=tuple(folder / name for name in part.files), part=part.choice)
    held = revision.revision or content_digest(
        describe_files(folder, (folder / name for name in (*part.files, *cards)))
    )
    target = store.work_path("tables", fingerprint_of([revision.repo, held, part.subset, part.split]))
    if not target.is_dir():
        write_parquet(part, folder, names, target, what)
    return replace(revision, path=target, part=part.choice)


def _require_default(revision: Revision, choice: Choice) -> None:
    """Check that no other part is wanted of a dataset that has one subset and one split.

    Raises:
        UserError: naming the part.
    """
    for kind, wanted, only in (
        ("subset", choice.subset, DEFAULT.subset),
        ("split", choice.split, DEFAULT.split),
    ):
        if wanted not in (None, only):
            raise UserError(f"dataset {revision}: no {kind} {wanted}; it has {only} alone: leave the choice out")


def _files_in(folder: Path) -> list[str]:
    """List the files of a folder, relative to it; in a clone without what git keeps there."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in found if path.parts[0] != ".git")
