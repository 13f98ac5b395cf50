"""The same round trip against the real Hub: `pytest -m live`, with HF_TOKEN and GRACE_LIVE_NAMESPACE set."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from store_chains import add_dataset, add_model, config_for, files_of

from builders.hub.publish import publish
from builders.hub.pull import pull
from builders.store.ref import Ref
from builders.store.store import Store
from training.pipelines import page_of

pytestmark = pytest.mark.live


@pytest.fixture
def names() -> Iterator[tuple[str, str]]:
    """A namespace and a name of this run's own; its repositories are deleted afterwards."""
    namespace = os.environ.get("GRACE_LIVE_NAMESPACE")
    if not namespace or not os.environ.get("HF_TOKEN"):
        pytest.skip("set HF_TOKEN and GRACE_LIVE_NAMESPACE")
    name = f"grace-live-{uuid.uuid4().hex[:12]}"
    yield namespace, name
    for dataset in ("groups", "scores", "weights"):
        HfApi().delete_repo(f"{namespace}/{name}-{dataset}", repo_type="dataset", missing_ok=True)
    HfApi().delete_repo(f"{namespace}/{name}-policy", missing_ok=True)


def test_publish_load_and_pull(names: tuple[str, str], tmp_path: Path) -> None:
    from datasets import load_dataset

    namespace, name = names
    store = Store(tmp_path / "store")
    config = config_for(store, namespace)
    groups = add_dataset(store, "sample", name=name)
    weights = add_dataset(store, "calibrate", [add_dataset(store, "score", [groups], name=name)], name=name)
    policy = add_model(store, weights, name=name)
    there = publish(policy, config, page_of, private=True)
    assert there["uploaded"] and publish(policy, config, page_of) == there | {"uploaded": False}
    second = publish(add_dataset(store, "sample", name=name, round_=2), config, page_of)
    assert publish(groups, config, page_of)["revision"] != second["revision"]
    repo = f"{namespace}/{name}-weights"
    rows = load_dataset(repo, revision="round-001", split="train", cache_dir=str(tmp_path / "cache"))
    stream = load_dataset(repo, revision="round-001", split="train", streaming=True)
    assert rows.num_rows == 9 and [row["query"] for row in stream] == rows["query"][:]
    pulled = pull(Ref(f"{namespace}/{name}-policy", None), Store(tmp_path / "other"), "model")
    assert pulled.digest == policy.digest and set(files_of(pulled.path)) == set(files_of(policy.path))
