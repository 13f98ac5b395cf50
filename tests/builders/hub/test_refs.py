"""Opening a REF: paths, the store, what --require-pinned refuses, and a tag that was moved."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from datasets_factory import add_dataset, scores_frame
from hub_clients import TOKEN, push
from hub_server import HubServer
from huggingface_hub import HfApi, constants

from builders.core.models import ModelFinder
from builders.hub.client import NotOnHub
from builders.hub.listing import fetch_manifest
from builders.hub.pull import pull, pull_into
from builders.hub.refs import open_revision, resolve
from builders.inspect.lineage import lineage
from builders.store.manifest import Kind
from builders.store.ref import Ref
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


@pytest.mark.parametrize(
    ("revision", "message"),
    [
        ("", "--require-pinned takes what never moves"),
        ("@main", "--require-pinned takes what never moves"),
        ("@round-evil", "not in the store, and names under local/ are never looked up"),
        ("@0123abc", "not in the store, and names under local/ are never looked up"),
    ],
)
def test_only_what_never_moves_is_pinned(tmp_path: Path, revision: str, message: str) -> None:
    store = Store(tmp_path / "store")
    made = add_dataset(store, "score", scores_frame())
    with pytest.raises(UserError, match=message):
        open_revision(f"{made.repo}{revision}", store, require_pinned=True)


@pytest.fixture
def api(connected: HubServer) -> HfApi:
    """A dataset, alice/own, whose only file is a table of scores."""
    api = HfApi(endpoint=connected.endpoint, token=TOKEN)
    api.create_repo("alice/own", repo_type="dataset")
    return api


def scores(folder: Path, *groups: tuple[int, ...]) -> dict[str, bytes]:
    scores_frame(groups or ((1, 2),)).write_parquet(folder / "train.parquet")
    return {"train.parquet": (folder / "train.parquet").read_bytes()}


def test_the_hub_says_what_is_a_tag(api: HfApi, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    commit = push(api, "alice/own", scores(tmp_path))
    for branch in ("v1.0", "both", "round-001"):
        api.create_branch("alice/own", branch=branch, repo_type="dataset")
    for tag in ("main-2", "both"):
        api.create_tag("alice/own", tag=tag, repo_type="dataset")
    assert open_revision("alice/own@main-2", store, "dataset", require_pinned=True).revision == commit
    for name in ("v1.0", "both", "round-001", "main"):
        with pytest.raises(UserError, match=f"takes a tag or a 40-hex commit, not {name}, which is a branch on http"):
            open_revision(f"alice/own@{name}", store, "dataset", require_pinned=True)
    with pytest.raises(UserError, match="not v2, which is no tag on"):
        open_revision("alice/own@v2", store, "dataset", require_pinned=True)
    with pytest.raises(UserError, match="not the newest"):
        open_revision("alice/own", store, "dataset", require_pinned=True)


def test_a_moved_tag_is_told(
    api: HfApi, tmp_path: Path, caplog: pytest.LogCaptureFixture, progress: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store")
    first = push(api, "alice/own", scores(tmp_path))
    api.create_tag("alice/own", tag="v1", repo_type="dataset")
    assert open_revision("alice/own@v1", store, "dataset").revision == first
    assert store.refs("alice/own") == {"v1": first}
    second = push(api, "alice/own", scores(tmp_path, (1, 2, 3)))
    api.delete_tag("alice/own", tag="v1", repo_type="dataset")
    api.create_tag("alice/own", tag="v1", repo_type="dataset")
    caplog.clear()
    assert open_revision("alice/own@v1", store, "dataset").revision == first
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning == (
        f"alice/own: tag v1 was moved on the Hub from {first} to {second}; the old one is used, "
        "`grace pull alice/own@v1` brings the new one"
    )
    # Without the Hub the store's revision is good enough.
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert open_revision("alice/own@v1", store, "dataset").revision == first
    caplog.clear()
    assert pull(Ref("alice/own", "v1"), store).revision == second
    assert f"from {first} to {second}; the store now has the new one" in caplog.text
    caplog.clear()
    assert open_revision("alice/own@v1", store, "dataset").revision == second and "moved" not in caplog.text


def test_a_folder_that_exists_comes_before_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "store")
    made = add_dataset(store, "score", scores_frame())
    (tmp_path / "local" / "demo-scores").mkdir(parents=True)
    scores(tmp_path / "local" / "demo-scores", (1, 2, 3))
    monkeypatch.chdir(tmp_path)
    assert open_revision("local/demo-scores", store, "dataset").path == Path("local/demo-scores")
    assert open_revision("local/demo-scores@main", store, "dataset") == made


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
        lambda ref: resolve(ref, store),
        lambda ref: ModelFinder(store).find(ref),
    ]
    for way in ways:
        for ref in ("local/tiny-seed", f"local/tiny-seed@{commit}", "local/tiny-seed@main"):
            with pytest.raises(NotOnHub, match=r"local/tiny-seed: not in the store, and names under local/ are never"):
                way(ref)
    assert connected.log.count() == 0 and not list(tmp_path.rglob("snapshots/*"))


@pytest.mark.parametrize("revision", ["", "@round-001"])
def test_a_damaged_revision_of_the_store_is_not_looked_up_on_the_hub(
    connected: HubServer, tmp_path: Path, revision: str
) -> None:
    store = Store(tmp_path / "store")
    made = add_dataset(store, "score", scores_frame())
    with (made.path / "manifest.json").open("a") as file:
        file.write("\n")
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        open_revision(f"{made.repo}{revision}", store, "dataset")
    assert connected.log.count() == 0
