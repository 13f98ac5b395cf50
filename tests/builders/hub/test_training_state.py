"""The training state of a policy on the Hub: left out, sent on request, pulled, and gone on from."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from datasets_factory import add_dataset, add_model, scores_frame, weights_frame
from hub_server import HubServer
from huggingface_hub import HfApi, constants
from store_chains import config_for, files_of

from builders.hub.publish import publish, publish_all
from builders.hub.pull import download_model, pull
from builders.inspect.verify import verify
from builders.store.manifest import TRAINING_LOG, TRAINING_STATE, describe_files, read_manifest
from builders.store.ref import Ref
from builders.store.revision import Revision
from builders.store.store import Store
from scorers.errors import UserError
from training.pipelines import PIPELINES, page_of

REPO = "alice/demo-policy"
STATE = {f"{TRAINING_STATE}/optimizer.safetensors": b"averages" * 3_000, f"{TRAINING_STATE}/state.json": b"{}\n"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def policy(store: Store, round_: int = 1, state: bool = True) -> Revision:
    """A policy with a training state, from a weights dataset."""
    weights = add_dataset(store, "calibrate", weights_frame(scores_frame()), round_=round_)
    changes: dict[str, Any] = {}
    made = store.root / ".state"
    if state:
        for name, content in STATE.items():
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            (made / name).write_bytes(content + bytes([round_]))
        changes["training_state"] = describe_files(made, [made / name for name in STATE])
    revision = add_model(store, "local/demo-policy", round_=round_, parents=[weights], **changes)
    if state:
        shutil.copytree(made / TRAINING_STATE, revision.path / TRAINING_STATE)
    return revision


def state_on_hub(api: HfApi, revision: str) -> set[str]:
    return {name for name in api.list_repo_files(REPO, revision=revision) if name.startswith(TRAINING_STATE)}


def test_it_is_left_out_unless_it_is_asked_for(connected: HubServer, api: HfApi, store: Store, tmp_path: Path) -> None:
    local = policy(store)
    there = publish(local, config_for(store), page_of)
    assert state_on_hub(api, there["revision"]) == set()
    pulled = pull(Ref(REPO, "round-001"), Store(tmp_path / "other"), "model")
    assert pulled.manifest is not None and pulled.manifest.training_state is None
    assert pulled.digest == local.digest and not (pulled.path / TRAINING_STATE).exists()
    assert "The state of the optimizer is not in this revision" in (pulled.path / "README.md").read_text()
    with pytest.raises(UserError, match=r"round-001 was published without the optimizer, and tags never move"):
        publish(local, config_for(store), page_of, with_optimizer=True)


def test_it_is_sent_pulled_and_checked(
    connected: HubServer, api: HfApi, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = policy(store)
    there = publish(local, config_for(store), page_of, with_optimizer=True)
    assert state_on_hub(api, there["revision"]) == set(STATE)
    other = Store(tmp_path / "other")
    pulled = pull(Ref(REPO, "round-001"), other, "model")
    assert pulled.digest == local.digest and verify(pulled, PIPELINES) == []
    assert files_of(pulled.path / TRAINING_STATE) == files_of(local.path / TRAINING_STATE)
    # The same push again, with or without, finds what is there.
    for again in (True, False):
        assert publish(local, config_for(store), page_of, with_optimizer=again)["uploaded"] is False
    # Whoever samples from it does not load it.
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    folder, _ = download_model(REPO, "round-001")
    assert (folder / "model.safetensors").is_file() and not (folder / TRAINING_STATE).exists()
    connected.faults.add("resolve_get", "corrupt", path=f"{TRAINING_STATE}/optimizer.safetensors")
    with pytest.raises(UserError, match=r"training_state/optimizer\.safetensors (is|arrived) damaged"):
        pull(Ref(REPO, "round-001"), Store(tmp_path / "third"), "model")


def test_the_log_of_a_training_is_always_sent_pulled_and_checked(
    connected: HubServer, api: HfApi, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = add_model(store, "local/demo-policy", round_=1)
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / TRAINING_LOG).write_text('{"step": 1, "round": 1, "loss": 0.5}\n', encoding="utf-8")
    local = add_model(
        store, "local/demo-policy", round_=1, training_log=describe_files(folder, [folder / TRAINING_LOG])
    )
    shutil.copy(folder / TRAINING_LOG, local.path)
    # The same weights with and without it are the same model; a revision of its own it is all the same.
    assert local.digest == bare.digest and local.revision != bare.revision
    assert verify(local, PIPELINES) == []
    publish(local, config_for(store), page_of)
    pulled = pull(Ref(REPO, "round-001"), Store(tmp_path / "other"), "model")
    assert (pulled.path / TRAINING_LOG).read_bytes() == (folder / TRAINING_LOG).read_bytes()
    assert pulled.digest == local.digest and verify(pulled, PIPELINES) == []
    (pulled.path / TRAINING_LOG).write_text("{}", encoding="utf-8")
    assert [(found.where, found.what) for found in verify(pulled, PIPELINES)] == [
        (TRAINING_LOG, "size"),
        (TRAINING_LOG, "sha256"),
    ]


def test_the_next_rounds_push_replaces_or_removes_it(connected: HubServer, api: HfApi, store: Store) -> None:
    first = publish(policy(store), config_for(store), page_of, with_optimizer=True)
    second = publish(policy(store, 2), config_for(store), page_of)
    assert state_on_hub(api, second["revision"]) == set()
    third = publish(policy(store, 3), config_for(store), page_of, with_optimizer=True)
    assert state_on_hub(api, third["revision"]) == state_on_hub(api, first["revision"]) == set(STATE)


def test_a_model_without_it_cannot_be_pushed_with_it(connected: HubServer, store: Store) -> None:
    bare = policy(store, state=False)
    with pytest.raises(UserError, match="carries no training state, which --with-optimizer publishes"):
        publish(bare, config_for(store), page_of, with_optimizer=True)
    assert publish(bare, config_for(store), page_of)["uploaded"]


def test_of_a_whole_run_the_models_that_have_it_take_it_along(connected: HubServer, api: HfApi, store: Store) -> None:
    config = config_for(store)
    bare = add_model(store, "local/demo-sft", round_=0)
    models = [bare, policy(store), policy(store, 2)]
    there = publish_all(models, config, page_of, with_optimizer=True)
    assert [state_on_hub(api, found["revision"]) for found in there[1:]] == [set(STATE)] * 2
    assert [found["uploaded"] for found in publish_all(models, config, page_of, with_optimizer=True)] == [False] * 3
    with pytest.raises(UserError, match=r"demo-sft@\S+: carries no training state, which --with-optimizer publishes"):
        publish_all([bare], config, page_of, with_optimizer=True)
    third = policy(store, 3)
    publish(third, config, page_of)
    with pytest.raises(UserError, match="round-003 was published without the optimizer"):
        publish_all([*models, third], config, page_of, with_optimizer=True)


def test_a_manifest_cannot_hide_a_models_file_in_it(store: Store) -> None:
    local = policy(store)
    assert local.manifest is not None
    hidden = local.manifest.to_json().replace(f'"{TRAINING_STATE}/state.json"', '"config.json"')
    (local.path / "manifest.json").write_text(hidden)
    with pytest.raises(UserError, match=r"not a manifest: training_state: .*outside the folder training_state"):
        read_manifest(local.path)
