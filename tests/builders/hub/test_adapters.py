"""Published adapters: they name the published base model, verify, are found again, and load with stock libraries."""

import json
import shutil
from pathlib import Path

import pytest
from datasets_factory import model_of
from hub_clients import client, environment
from hub_server import HubServer
from store_chains import add_dataset, config_for, parent_of

from builders.hub.publish import publish
from builders.hub.pull import pull
from builders.inspect.lineage import FOUND, lineage
from builders.inspect.verify import verify
from builders.store.adapter import with_base
from builders.store.manifest import Manifest, Model, Rows, content_digest, describe_files
from builders.store.ref import Ref, round_tag
from builders.store.revision import Revision
from builders.store.store import Store
from scorers.errors import UserError
from training.pipelines import PIPELINES, page_of

LOAD = """
import json, sys, torch
from huggingface_hub import snapshot_download
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM, pipeline
adapter = AutoPeftModelForCausalLM.from_pretrained("alice/demo-policy", revision="round-001")
base = AutoModelForCausalLM.from_pretrained("alice/demo-sft", revision="round-000")
ids = torch.tensor([[1, 2, 3]])
expected = base(ids).logits
tuned = PeftModel.from_pretrained(base, "alice/demo-policy")(ids).logits
piped = pipeline("text-generation", model="alice/demo-policy").model(ids).logits
same = [torch.equal(adapter(ids).logits, tuned), torch.equal(piped, tuned), not torch.equal(tuned, expected)]
print(json.dumps([adapter.peft_config["default"].base_model_name_or_path, *same]))
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def add(store: Store, stage: str, staged: Path, parents: list[Revision], round_: int, **models: Model) -> Revision:
    files = describe_files(staged, sorted(path for path in staged.rglob("*") if path.is_file()))
    manifest = Manifest(
        pipeline="grace-kto",
        kind="model",
        stage=stage,
        stage_version=1,
        code_version="0.1.0",
        repo=f"local/demo-{stage}",
        round=round_,
        fingerprint="0" * 64,
        random_seed=0,
        configuration={},
        parents=[parent_of(parent) for parent in parents],
        models=models,
        rows=Rows(read=8, written=8),
        files=files,
        digest=content_digest(files),
    )
    (staged / "README.md").write_text("# A card\n", encoding="utf-8")
    return store.add(staged, manifest, ["main", round_tag(round_)])


def add_base(store: Store, folder: Path) -> Revision:
    staged = store.root / ".work" / "base"
    shutil.copytree(folder, staged)
    return add(store, "sft", staged, [], 0)


def add_adapter(store: Store, base: Model, parents: list[Revision], weights: bytes = b"weights") -> Revision:
    """An adapter as training leaves it: its configuration names no base model."""
    staged = store.root / ".work" / "adapter"
    staged.mkdir(parents=True)
    named = {"base_model_name_or_path": None, "revision": None}
    (staged / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, **named}, indent=2))
    (staged / "adapter_model.safetensors").write_bytes(weights)
    return add(store, "policy", staged, parents, 1, base=base, policy=base)


@pytest.fixture
def base(store: Store, tmp_path: Path) -> Revision:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights of the base")
    (folder / "config.json").write_text("{}")
    return add_base(store, folder)


def test_it_names_the_published_base_and_verifies(connected: HubServer, store: Store, base: Revision) -> None:
    adapter = add_adapter(store, model_of(base), [add_dataset(store, "calibrate"), base])
    there = publish(adapter, config_for(store), page_of)
    commit = connected.repo("alice/demo-sft", "model").tags["round-000"]
    sent = json.loads(connected.read("alice/demo-policy", "adapter_config.json", "round-001", "model"))
    assert sent == {
        "peft_type": "LORA",
        "r": 4,
        "base_model_name_or_path": "alice/demo-sft",
        "revision": commit,
    }
    other = Store(store.root.parent / "other")
    pulled = pull(Ref("alice/demo-policy", "round-001"), other, "model")
    assert pulled.revision == there["revision"] and verify(pulled, PIPELINES) == []
    assert pulled.manifest is not None and pulled.manifest.models["base"].revision == commit
    connected.log.clear()
    assert publish(adapter, config_for(store), page_of) == there | {"uploaded": False}
    assert publish(pulled, config_for(other), page_of) == there | {"uploaded": False}
    assert connected.log.count("commit", "tag", "lfs_put") == 0


def test_what_was_made_from_it_records_the_published_digest(connected: HubServer, store: Store, base: Revision) -> None:
    """The published files are not quite the local ones; lineage compares what the Hub has with what the child says."""
    adapter = add_adapter(store, model_of(base), [add_dataset(store, "calibrate"), base])
    groups = add_dataset(store, "sample", [add_dataset(store, "generate", round_=2), adapter], round_=2, policy=adapter)
    publish(groups, config_for(store), page_of)
    nodes = lineage("alice/demo-groups", Store(store.root.parent / "other"))
    policy = next(node for node in nodes if node.stage == "policy")
    assert policy.digest != adapter.digest and {node.state for node in nodes} == {FOUND}
    # The store loses it: the digest of the local files leads to it as well.
    shutil.rmtree(adapter.path)
    more = add_dataset(store, "generate", [adapter], round_=3)
    publish(more, config_for(store), page_of, parents=False)
    sent = Manifest.model_validate_json(connected.read("alice/demo-queries", "manifest.json", "round-003"))
    assert [(p.repo, p.revision, p.digest) for p in sent.parents] == [(policy.repo, policy.revision, policy.digest)]


def test_it_is_found_again_without_its_base_in_the_store(connected: HubServer, store: Store, base: Revision) -> None:
    adapter = add_adapter(store, model_of(base), [add_dataset(store, "calibrate"), base])
    there = publish(adapter, config_for(store), page_of)
    shutil.rmtree(base.path)
    assert publish(adapter, config_for(store), page_of, parents=False) == there | {"uploaded": False}


def test_without_its_base_it_is_refused(connected: HubServer, store: Store, base: Revision) -> None:
    weights = add_dataset(store, "calibrate")
    publish(weights, config_for(store), page_of)
    adapter = add_adapter(store, model_of(base), [weights])
    with pytest.raises(UserError, match=f"only in the store: {base}; publish them first"):
        publish(adapter, config_for(store), page_of, parents=False)
    shutil.rmtree(base.path)
    with pytest.raises(UserError, match=f"its model {base} is neither on the Hub nor in the store"):
        publish(adapter, config_for(store), page_of)
    folder = add_adapter(store, Model(id="my-model", revision="0" * 64), [weights], b"others")
    refused = r"it is an adapter and its base model my-model is a folder of this machine; publish that model on the Hub"
    for parents in (True, False):
        with pytest.raises(UserError, match=refused):
            publish(folder, config_for(store), page_of, parents=parents)
    assert ("model", "alice/demo-policy") not in connected.hub.store.repos


def test_a_base_of_the_hub_is_named_and_not_sent(connected: HubServer, store: Store) -> None:
    foreign = Model(id="Qwen/Qwen2.5-72B", revision="1" * 40)
    adapter = add_adapter(store, foreign, [add_dataset(store, "calibrate")])
    publish(adapter, config_for(store), page_of)
    sent = json.loads(connected.read("alice/demo-policy", "adapter_config.json", "round-001", "model"))
    assert (sent["base_model_name_or_path"], sent["revision"]) == (foreign.id, foreign.revision)
    assert {repo for _, repo in connected.hub.store.repos} == {"alice/demo-weights", "alice/demo-policy"}


def test_a_configuration_that_says_so_already_keeps_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "adapter_config.json"
    path.write_text('{"revision": "main",   "base_model_name_or_path": "ns/base"}')
    assert with_base(tmp_path, Model(id="ns/base", revision="main")) == path.read_bytes()
    assert json.loads(with_base(tmp_path, None)) == {"base_model_name_or_path": None, "revision": None}
    path.write_text("[]")
    with pytest.raises(UserError, match="not an adapter's configuration"):
        with_base(tmp_path, None)


@pytest.mark.slow
def test_stock_peft_and_transformers_load_it_with_its_base(
    connected: HubServer, store: Store, causal_lm_dir: Path, tmp_path: Path
) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = add_base(store, causal_lm_dir)
    torch.manual_seed(0)
    tuned = get_peft_model(
        AutoModelForCausalLM.from_pretrained(causal_lm_dir),
        LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False),
    )
    staged = store.root / ".work" / "tuned"
    tuned.save_pretrained(staged)
    AutoTokenizer.from_pretrained(causal_lm_dir).save_pretrained(staged)
    (staged / "README.md").unlink()
    (staged / "adapter_config.json").write_bytes(with_base(staged, None))
    adapter = add(store, "policy", staged, [add_dataset(store, "calibrate"), base], 1, base=model_of(base))
    publish(adapter, config_for(store), page_of)
    printed = client(LOAD, environment(connected.endpoint, tmp_path / "home", xet=False) | {"OMP_NUM_THREADS": "1"})
    assert json.loads(printed.splitlines()[-1]) == ["alice/demo-sft", True, True, True]
