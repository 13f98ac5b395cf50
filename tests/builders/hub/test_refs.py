"""Opening a REF: paths, the store, and what --require-pinned refuses."""

import shutil
from pathlib import Path

import pytest
from datasets_factory import add_dataset, scores_frame

from builders.hub.refs import open_revision
from builders.store.store import Store
from scorers.errors import UserError


def test_names_paths_and_copies_lead_to_the_same_revision(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    first = add_dataset(store, "score", scores_frame())
    newest = add_dataset(store, "score", scores_frame(((1, 2, 3),)), round_=3)
    assert open_revision(first.repo, store) == newest
    assert open_revision(f"{first.repo}@round-001", store) == first
    assert open_revision(f"{first.repo}@{first.revision}", store, require_pinned=True) == first
    with pytest.raises(UserError, match=f"a tag of the store moves when .*; it stands for {first} now$"):
        open_revision(f"{first.repo}@round-001", store, require_pinned=True)
    shutil.copytree(first.path, tmp_path / "copy")
    copy = open_revision(str(tmp_path / "copy"), store)
    assert (copy.repo, copy.revision, copy.digest) == (first.repo, first.revision, first.digest)


def test_plain_files_are_named_by_their_content(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        scores_frame().write_parquet(tmp_path / folder / "rows.parquet")
    one, other = (open_revision(str(tmp_path / name / "rows.parquet"), store) for name in ("a", "b"))
    assert one.revision == other.revision and one.digest.startswith(one.revision) and one.manifest is None
    scores_frame(((9, 9),)).write_parquet(tmp_path / "b" / "rows.parquet")
    assert open_revision(str(tmp_path / "b" / "rows.parquet"), store).revision != one.revision


@pytest.mark.parametrize("revision", ["", "@main", "@round-evil", "@0123abc"])
def test_only_what_never_moves_is_pinned(tmp_path: Path, revision: str) -> None:
    store = Store(tmp_path / "store")
    made = add_dataset(store, "score", scores_frame())
    with pytest.raises(UserError, match="--require-pinned takes a tag or a 40-hex commit, not"):
        open_revision(f"{made.repo}{revision}", store, require_pinned=True)
