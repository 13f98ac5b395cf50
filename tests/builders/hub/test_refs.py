"""Opening a REF: paths, the store, and what --require-pinned refuses."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from datasets_factory import add_dataset, scores_frame
from hub_server import HubServer
from huggingface_hub import HfApi

from builders.core.models import ModelFinder
from builders.hub.client import NotOnHub
from builders.hub.listing import fetch_manifest
from builders.hub.pull import load_split, pull_into
from builders.hub.refs import open_revision
from builders.inspect.lineage import lineage
from builders.store.manifest import Kind
from builders.store.store import Store
from scorers.errors import UserError


def test_names_paths_and_copies_lead_to_the_same_revision(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    first = add_dataset(store, "score", scores_frame())
    newest = add_dataset(store, "score", scores_frame(((1, 2, 3),)), round_=3)
    assert open_revision(first.repo, store) == newest
    assert open_revision(f"{first.repo}@round-001", store) == first
    assert open_revision(f"{first.repo}@{first.revision}", store, require_pinned=True) == first
    assert open_revision(f"{first.repo}@round-001", store, require_pinned=True) == first
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


@pytest.mark.parametrize("kind", ["dataset", "model"])
def test_names_of_a_store_are_never_looked_up_on_the_hub(connected: HubServer, tmp_path: Path, kind: Kind) -> None:
    """A stranger may own the name `local` there, and what he keeps under it would take the place of one's own."""
    connected.add_token("hf_stranger", "local")
    stranger = HfApi(endpoint=connected.endpoint, token="hf_stranger")
    stranger.create_repo("local/tiny-seed", repo_type=kind)
    name = "data/train.parquet" if kind == "dataset" else "model.safetensors"
    content = io.BytesIO()
    pl.DataFrame({"query": ["evil"]}).write_parquet(content)
    stranger.upload_file(
        path_or_fileobj=content.getvalue(), path_in_repo=name, repo_id="local/tiny-seed", repo_type=kind
    )
    commit = connected.commit("local/tiny-seed", "main", kind).oid
    connected.log.clear()
    store = Store(tmp_path / "store")
    ways: list[Callable[[str], object]] = [
        lambda ref: open_revision(ref, store, kind),
        lambda ref: pull_into(ref, store, kind),
        lambda ref: lineage(ref, store),
        lambda ref: fetch_manifest("local/tiny-seed", commit, kind),
        lambda ref: load_split("local/tiny-seed", None, "train"),
        lambda ref: ModelFinder(store).find(ref),
    ]
    for way in ways:
        for ref in ("local/tiny-seed", f"local/tiny-seed@{commit}", "local/tiny-seed@main"):
            with pytest.raises(NotOnHub, match=r"local/tiny-seed: not in the store, and names under local/ are never"):
                way(ref)
    assert connected.log.count() == 0 and not list(tmp_path.rglob("snapshots/*"))
