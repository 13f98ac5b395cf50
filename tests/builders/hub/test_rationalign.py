"""RationAlign published: all datasets and models, loaded by tag, traced from mpo back to pairs in one lineage."""

import json
from contextlib import ExitStack
from pathlib import Path

import pytest
from hub_people import Person
from hub_server import RemoteHub
from small_editing import make_editor, small

DATASETS = ("pairs", "unlabelled", "rationales", "contests", "candidates", "preferences")
MODELS = ("fold-1", "fold-2", "fold-3", "reward", "sft", "mpo")
LOAD = """
import json, sys
from datasets import load_dataset
print(json.dumps({name: len(load_dataset(name, revision="round-000", split="train")) for name in sys.argv[1:]}))
"""


@pytest.mark.slow
def test_published_loaded_and_traced(remote: RemoteHub, stack: ExitStack, tmp_path: Path) -> None:
    settings = (
        *small(make_editor(tmp_path / "editor")),
        "reward.per_task=true",
        "reward.steps=1",
    )
    writer = Person(stack, remote, tmp_path / "writer", config="tiny-rationalign")
    writer.grace("train", "--stage", "mpo", settings=settings)
    built = writer.grace("build", "--stage", "prefer", "--push", settings=settings)
    assert built["pushed"]["tag"] == "round-000"
    pushed = {one["repo"] for one in writer.grace("push", "--all", settings=settings)["revisions"]}
    assert pushed >= {f"alice/tiny-editing-{suffix}" for suffix in (*DATASETS, *MODELS)}
    reader = Person(stack, remote, tmp_path / "reader", config="tiny-rationalign")
    names = [f"alice/tiny-editing-{suffix}" for suffix in DATASETS]
    found = json.loads(reader.run(LOAD, *names).splitlines()[-1])
    assert found["alice/tiny-editing-pairs"] == 96 and all(found.values())
    chain = reader.grace("lineage", "alice/tiny-editing-mpo", "--model")
    stages = {node["stage"] for node in chain["nodes"]}
    assert {"mpo", "prefer", "sample", "unlabelled", "reward", "contest", "sft", "explain", "pairs"} <= stages
    assert {"fold-1", "fold-2", "fold-3"} <= stages
    assert {node["state"] for node in chain["nodes"]} <= {"found", "external"}
    assert reader.grace("verify", names[-1])["ok"]
    assert reader.grace("verify", "alice/tiny-editing-reward", "--model")["ok"]
