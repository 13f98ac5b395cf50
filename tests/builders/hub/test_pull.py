"""Reading the Hub: resolved once, every byte checked, in the store whole or not at all."""

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub_clients import TOKEN, push
from hub_server import HubServer
from huggingface_hub import CommitOperationAdd, HfApi, constants, snapshot_download
from safetensors.numpy import save
from store_chains import add_dataset, add_model, add_rounds, config_for, files_of

from builders.hub.publish import publish
from builders.hub.pull import download_model, pull, pull_into
from builders.hub.refs import open_revision
from builders.hub.resolve import resolve_commit
from builders.store.ref import Ref, parse_ref
from builders.store.revision import Revision
from builders.store.store import Store
from scorers.errors import UserError
from training.pipelines import page_of

REPO = "alice/demo-groups"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def other(tmp_path: Path) -> Store:
    """The store of somebody else, who pulls."""
    return Store(tmp_path / "other")


@pytest.fixture
def groups(connected: HubServer, store: Store) -> Revision:
    """A groups dataset that is published as REPO under round-001."""
    made = add_dataset(store, "sample")
    publish(made, config_for(store), page_of)
    return made


def api_of(hub: HubServer) -> HfApi:
    return HfApi(endpoint=hub.endpoint, token=TOKEN)


def republish(hub: HubServer, change: Callable[[dict[str, Any]], None]) -> str:
    """A commit that changes the published manifest; its id."""
    manifest = json.loads(hub.read(REPO, "manifest.json"))
    change(manifest)
    return push(api_of(hub), REPO, {"manifest.json": json.dumps(manifest).encode()})


def snapshots(store: Store) -> list[Path]:
    return list(store.root.glob("*/snapshots/*"))


# datasets


def test_a_tag_is_resolved_once_printed_and_kept(
    connected: HubServer, groups: Revision, other: Store, progress: pytest.LogCaptureFixture
) -> None:
    commit = connected.repo(REPO).tags["round-001"]
    pulled = pull(Ref(REPO, "round-001"), other)
    assert progress.messages == [f"{REPO} at {commit}"]
    assert (pulled.repo, pulled.revision, pulled.digest) == (REPO, commit, groups.digest)
    assert not pulled.made_here and groups.made_here
    assert other.refs(REPO) == {"round-001": commit}
    assert set(files_of(pulled.path)) == {
        "README.md",
        "manifest.json",
        "data/train-00000-of-00002.parquet",
        "data/train-00001-of-00002.parquet",
        "figure-metrics.png",
        "figure-metrics_by_policy.png",
    }
    assert pulled.scan().collect().equals(groups.scan().collect())
    folder = snapshot_download(REPO, repo_type="dataset", revision=commit, cache_dir=other.root, local_files_only=True)
    assert Path(folder) == pulled.path


def test_a_commit_that_is_there_is_used_without_network(connected: HubServer, groups: Revision, other: Store) -> None:
    pulled = pull(Ref(REPO, "round-001"), other)
    connected.log.clear()
    assert pull(Ref(REPO, pulled.revision), other) == pulled and connected.log.count() == 0
    assert open_revision(f"{REPO}@{pulled.revision}", other) == pulled and connected.log.count() == 0


def test_without_a_revision_the_newest_round_is_taken_else_the_head(
    connected: HubServer, groups: Revision, store: Store, other: Store
) -> None:
    second = publish(add_dataset(store, "sample", round_=2), config_for(store), page_of)
    head = push(api_of(connected), REPO, {"notes.txt": b"later"})
    assert pull(Ref(REPO, None), other).revision == second["revision"] != head
    # Under its round's tag `build` and `loop` look for it.
    assert other.refs(REPO) == {"round-002": second["revision"]}
    assert resolve_commit(REPO, "main") == head
    api = api_of(connected)
    api.create_repo("alice/plain", repo_type="dataset")
    api.create_tag("alice/plain", tag="round-x", repo_type="dataset")
    plain = push(api, "alice/plain", {"a.txt": b"a"})
    assert resolve_commit("alice/plain", None) == plain


def test_a_branch_is_resolved_anew_each_time(connected: HubServer, groups: Revision, other: Store) -> None:
    first = pull(Ref(REPO, "main"), other)
    later = push(api_of(connected), REPO, {"notes.txt": b"later"})
    assert pull(Ref(REPO, "main"), other).revision == later != first.revision
    assert len(snapshots(other)) == 2 and "main" not in other.refs(REPO)


@pytest.mark.parametrize("name", ["data/train-00001-of-00002.parquet", "README.md", "manifest.json"])
def test_a_flipped_bit_is_an_error_that_names_the_file(
    connected: HubServer, groups: Revision, other: Store, name: str
) -> None:
    connected.faults.add("resolve_get", "corrupt", path=name)
    with pytest.raises(UserError, match=f"{name} (is|arrived) damaged"):
        pull(Ref(REPO, "round-001"), other)
    assert snapshots(other) == [] and connected.faults.pending() == []
    assert pull(Ref(REPO, "round-001"), other).digest == groups.digest


def test_data_that_its_manifest_does_not_describe_is_refused(
    connected: HubServer, groups: Revision, other: Store
) -> None:
    api, shard = api_of(connected), "data/train-00001-of-00002.parquet"
    content = connected.read(REPO, shard)
    commits = {
        r"train-00001-of-00002\.parquet is damaged": push(api, REPO, {shard: content[:-8] + b"otherPAR1"}),
        r"data/more\.parquet is not named in its manifest": push(
            api, REPO, {shard: content, "data/more.parquet": content}
        ),
    }
    api.delete_files(REPO, ["data/*"], repo_type="dataset")
    commits[r"train-00000-of-00002\.parquet is missing; its manifest names it"] = str(api.dataset_info(REPO).sha)
    for message, commit in commits.items():
        with pytest.raises(UserError, match=message):
            pull(Ref(REPO, commit), other)
    assert snapshots(other) == []


def test_a_manifest_that_contradicts_itself_or_leaves_its_folder_is_refused(
    connected: HubServer, groups: Revision, other: Store
) -> None:
    def shrink(manifest: dict[str, Any]) -> None:
        manifest["files"][0]["sha256"] = "0" * 64

    def leave(manifest: dict[str, Any]) -> None:
        manifest["files"][0]["path"] = "../../stolen"

    def retype(manifest: dict[str, Any]) -> None:
        manifest["kind"] = "model"

    def forget(manifest: dict[str, Any]) -> None:
        del manifest["rows"]

    for change, message in (
        (shrink, r"manifest\.json contradicts itself"),
        (leave, r"\.\./\.\./stolen is missing"),
        (retype, "its manifest says it is a model"),
        (forget, "not a manifest: rows"),
    ):
        with pytest.raises(UserError, match=message):
            pull(Ref(REPO, republish(connected, change)), other)
    commit = push(api_of(connected), REPO, {"manifest.json": b"{broken"})
    with pytest.raises(UserError, match=r"manifest\.json: not a manifest: it is no JSON"):
        pull(Ref(REPO, commit), other)
    assert snapshots(other) == []


def test_somebody_elses_dataset_comes_without_a_manifest(connected: HubServer, groups: Revision, other: Store) -> None:
    api, shard = api_of(connected), groups.data_files()[0].read_bytes()
    api.create_repo("alice/own", repo_type="dataset")
    files = {"train.parquet": shard, "manifest.json": b'{"made by": "another tool"}', "run.py": b"x = 1"}
    push(api, "alice/own", files | {"README.md": b"---\nlicense: mit\n---\n"})
    pulled = pull_into("alice/own@main", other, "dataset")
    assert pulled.manifest is None and set(files_of(pulled.path)) == {"train.parquet", "README.md"}
    assert len(pulled.scan().collect()) == 5
    push(api, "alice/own", {"train.parquet": shard[::-1]})
    connected.faults.add("resolve_get", "corrupt", path="train.parquet")
    with pytest.raises(UserError, match=r"train\.parquet arrived damaged"):
        pull_into("alice/own@main", other, "dataset")
    api.create_repo("alice/empty", repo_type="dataset")
    with pytest.raises(UserError, match="no Parquet file in it"):
        pull_into("alice/empty", other, "dataset")


def test_a_copy_that_was_damaged_in_the_store_is_fetched_again(
    connected: HubServer, groups: Revision, other: Store, progress: pytest.LogCaptureFixture
) -> None:
    pulled = pull(Ref(REPO, "round-001"), other)
    shard = pulled.data_files()[0]
    shard.write_bytes(shard.read_bytes()[:-1])
    again = pull(Ref(REPO, pulled.revision), other)
    assert again.scan().collect().equals(groups.scan().collect())
    assert "train-00000-of-00002.parquet is damaged" in progress.text and "fetching it again" in progress.text


def test_a_tag_of_a_revision_made_here_is_left_alone(connected: HubServer, tmp_path: Path) -> None:
    store = Store(tmp_path / "mine")
    made = add_dataset(store, "sample")
    publish(made, config_for(store), page_of)
    folder = store.repo_path("local/demo-groups")
    folder.rename(store.repo_path(REPO))  # as with `namespace: alice` in the configuration
    pulled = pull(Ref(REPO, "round-001"), store)
    assert store.refs(REPO)["round-001"] == made.revision != pulled.revision


def test_a_pulled_revision_is_a_parent_that_is_published_already(
    connected: HubServer, groups: Revision, other: Store
) -> None:
    pulled = pull(Ref(REPO, "round-001"), other)
    scores = add_dataset(other, "score", [pulled])
    publish(scores, config_for(other), page_of, parents=False)
    manifest = json.loads(connected.read("alice/demo-scores", "manifest.json", "round-001"))
    assert (manifest["parents"][0]["repo"], manifest["parents"][0]["revision"]) == (REPO, pulled.revision)
    assert publish(pulled, config_for(other), page_of) | {"url": ""} == {
        "repo": REPO, "revision": pulled.revision, "tag": "round-001", "url": "", "uploaded": False
    }  # fmt: skip


def test_what_cannot_be_had_is_said_in_one_line(
    connected: HubServer, groups: Revision, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(text: str) -> str:
        with pytest.raises(UserError) as caught:
            pull(parse_ref(text), other)
        assert "\n" not in str(caught.value) and TOKEN not in str(caught.value)
        return str(caught.value)

    assert f"dataset alice/none: not found on {connected.endpoint}" in refused("alice/none")
    assert "@v7: no such revision" in refused(f"{REPO}@v7")
    assert "no such revision" in refused(f"{REPO}@{'0' * 40}")
    assert "does not allow this name" in refused("alice/a--b")
    connected.gate(REPO)
    monkeypatch.setenv("HF_TOKEN", "hf_bob")
    assert "access is restricted; ask for it" in refused(f"{REPO}@round-001")
    monkeypatch.setenv("HF_TOKEN", "hf_nobody_knows_this")
    assert "the Hub refuses the token" in refused(REPO)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "offline mode is set" in refused(REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    connected.faults.add("refs", 403, times=9)
    assert "not allowed (Ordered fault 403)" in refused(REPO)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "no usable answer from http://127.0.0.1:9" in refused(REPO)
    with pytest.raises(UserError, match="'no name' is no name on the Hub; pull takes namespace/name"):
        pull_into("no name", other, "dataset")
    with pytest.raises(UserError, match="is a path on this machine"):
        pull_into(str(other.root.parent), other, "dataset")
    assert snapshots(other) == []


def test_a_message_of_the_server_cannot_show_a_token_or_more_than_a_line(
    connected: HubServer, groups: Revision, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from builders.hub.client import LONGEST_TEXT, as_user_error

    text = f"first\nAuthorization: Bearer {TOKEN}\r\nhf_AbCdEfGhIjKl " + "x" * 1000
    message = str(as_user_error("dataset a/b", RuntimeError(text)))
    assert "\n" not in message and "alice_secret" not in message and "AbCdEf" not in message
    assert len(message) < LONGEST_TEXT + 200 and "hf_***" in message


def test_a_full_disk_leaves_nothing(
    connected: HubServer, groups: Revision, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device", "/data/shard")

    with monkeypatch.context() as patch:
        patch.setattr(HfApi, "hf_hub_download", full)
        with pytest.raises(UserError, match="/data/shard: No space left on device; free room or give --store another"):
            pull(Ref(REPO, "round-001"), other)
    assert files_of(other.root).keys() == {
        f".work/pull-datasets--alice--demo-groups/{connected.repo(REPO).tags['round-001']}.lock"
    }
    assert pull(Ref(REPO, "round-001"), other).digest == groups.digest


# models


def test_a_published_model_comes_whole(connected: HubServer, store: Store, other: Store) -> None:
    policy = add_model(store, add_dataset(store, "calibrate"))
    publish(policy, config_for(store), page_of)
    pulled = pull(Ref("alice/demo-policy", "round-001"), other, "model")
    assert set(files_of(pulled.path)) == set(files_of(policy.path))
    assert pulled.digest == policy.digest and other.find("alice/demo-policy", "round-001", "model") == pulled


def test_a_picture_beside_a_published_model_is_left_where_it_is(
    connected: HubServer, store: Store, other: Store
) -> None:
    policy = add_model(store, add_dataset(store, "calibrate"))
    publish(policy, config_for(store), page_of)
    sent = api_of(connected).upload_file(path_or_fileobj=b"PNG", path_in_repo="a.png", repo_id="alice/demo-policy")
    pulled = pull(Ref("alice/demo-policy", str(sent.oid)), other, "model")
    assert set(files_of(pulled.path)) == set(files_of(policy.path)) and pulled.digest == policy.digest


def test_without_a_kind_a_dataset_comes_before_a_model(connected: HubServer, store: Store, other: Store) -> None:
    weights = add_dataset(store, "calibrate")
    publish(add_model(store, weights), config_for(store), page_of)
    assert open_revision("alice/demo-policy@round-001", other).path.parts[-3] == "models--alice--demo-policy"
    publish(add_dataset(store, "calibrate", name="both"), config_for(store), page_of)
    api_of(connected).create_repo("alice/both-weights")
    assert open_revision("alice/both-weights@round-001", other).path.parts[-3] == "datasets--alice--both-weights"
    with pytest.raises(UserError, match="dataset alice/none: not found"):
        open_revision("alice/none", other)
    with pytest.raises(UserError, match="model alice/demo-weights: not found"):
        open_revision("alice/demo-weights", other, "model")


def test_only_weights_and_tokenizer_of_a_model_are_fetched(
    connected: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    api = api_of(connected)
    api.create_repo("alice/model")
    weights = save({"w": np.zeros((40, 100), np.float32)})
    names = ["model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja", "colbert_linear.pt"]
    left = ["pytorch_model.bin", "other.pt", "modeling.py", "training_args.bin", "1_Pooling/extra.pt"]
    api.create_commit(
        "alice/model",
        [CommitOperationAdd(name, weights if "safe" in name else b"{}") for name in names + left],
        commit_message="model",
    )
    head = str(api.model_info("alice/model").sha)
    connected.faults.add("resolve_get", "corrupt", path="model.safetensors")
    with pytest.raises(UserError, match=r"model alice/model@[0-9a-f]{40}: model\.safetensors arrived damaged"):
        download_model("alice/model", None)
    folder, commit = download_model("alice/model", "main")
    assert commit == head == folder.name and sorted(p.name for p in folder.iterdir()) == sorted(names)
    assert (folder / "model.safetensors").read_bytes() == weights
    connected.log.clear()
    assert download_model("alice/model", head) == (folder, head)
    assert connected.log.count("resolve_get") == 0
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert download_model("alice/model", head) == (folder, head)
    with pytest.raises(UserError, match="model alice/none: offline mode is set and the cache does not hold it"):
        download_model("alice/none", None)


def test_a_model_of_pickles_is_refused(connected: HubServer) -> None:
    api = api_of(connected)
    api.create_repo("alice/old")
    api.upload_file(path_or_fileobj=b"x", path_in_repo="pytorch_model.bin", repo_id="alice/old")
    with pytest.raises(UserError, match=r"alice/old@[0-9a-f]{40}: no \.safetensors file"):
        download_model("alice/old", None)
    with pytest.raises(UserError, match="model alice/none: not found"):
        download_model("alice/none", None)


def test_bge_m3_comes_as_it_was_published(connected: HubServer) -> None:
    api = api_of(connected)
    api.create_repo("alice/bge")
    files = ("colbert_linear.pt", "sparse_linear.pt", "pytorch_model.bin", "config.json", "training_args.bin")
    for name in files:
        api.upload_file(path_or_fileobj=name.encode(), path_in_repo=name, repo_id="alice/bge")
    folder, _ = download_model("alice/bge", None)
    assert {path.name for path in folder.iterdir()} == {*files} - {"training_args.bin"}
    api.upload_file(path_or_fileobj=b"x", path_in_repo="model.safetensors", repo_id="alice/bge")
    folder, _ = download_model("alice/bge", None)
    assert {path.name for path in folder.iterdir()} == {*files[:2], "config.json", "model.safetensors"}


def test_the_whole_chain_can_be_pulled(connected: HubServer, store: Store, other: Store) -> None:
    made = add_rounds(store, rounds=1)
    publish(made["policy", 1], config_for(store), page_of)
    revision = pull(Ref("alice/demo-policy", "round-001"), other, "model")
    seen = []
    while revision.manifest is not None and revision.manifest.parents:
        parent = revision.manifest.parents[0]
        revision = pull(Ref(parent.repo, parent.revision), other)
        assert revision.digest == parent.digest
        seen.append(parent.stage)
    assert seen == ["calibrate", "score", "sample", "generate", "seed"]
