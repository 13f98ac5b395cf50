"""WritingBench published: eight datasets and two models, loaded by tag, traced from the models to the taxonomy."""

import json
from contextlib import ExitStack
from pathlib import Path

import pytest
from hub_people import Person
from hub_server import RemoteHub

SMALL = (
    "request.requests=1",
    "request.per_prompt=1",
    "respond.responses=2",
    "select.share=1.0",
    "critique.test_share=0.3",
    "models.base=world:blank",
    "writer.steps=2",
    "critic.steps=2",
)
ROWS = {"taxonomy": 12, "requests": 12, "queries": 12, "criteria": 12, "responses": 24, "ratings": 120, "sft": 12}
LOAD = """
import json, sys
from datasets import load_dataset
print(json.dumps({name: {split: len(part) for split, part in load_dataset(name, revision="round-000").items()}
                  for name in sys.argv[1:]}))
"""


@pytest.mark.slow
def test_published_loaded_and_traced(remote: RemoteHub, stack: ExitStack, tmp_path: Path) -> None:
    writer = Person(stack, remote, tmp_path / "writer", config="tiny-writingbench")
    for stage in ("select", "critique"):
        built = writer.grace("build", "--stage", stage, "--push", settings=SMALL)
        assert built["pushed"]["tag"] == "round-000"
    for stage in ("writer", "critic"):
        writer.grace("train", "--stage", stage, "--push", settings=SMALL)
    reader = Person(stack, remote, tmp_path / "reader", config="tiny-writingbench")
    names = [f"alice/tiny-writing-{suffix}" for suffix in (*ROWS, "critic")]
    found = json.loads(reader.run(LOAD, *names).splitlines()[-1])
    critic = found.pop("alice/tiny-writing-critic")
    assert found == {f"alice/tiny-writing-{suffix}": {"train": rows} for suffix, rows in ROWS.items()}
    assert set(critic) == {"train", "test"} and all(critic.values())
    for model, stages in (
        ("writer", {"writer", "select", "rate", "respond", "criteria", "refine", "request", "taxonomy"}),
        ("critic-model", {"critic", "critique", "rate", "respond", "criteria", "refine", "request", "taxonomy"}),
    ):
        chain = reader.grace("lineage", f"alice/tiny-writing-{model}", "--model")
        assert stages <= {node["stage"] for node in chain["nodes"]}
        served = {node["repo"] for node in chain["nodes"] if node["state"] == "external"}
        assert {node["state"] for node in chain["nodes"]} == {"found", "external"} and served == {"teacher", "author"}
    for name in names:
        assert reader.grace("verify", name)["ok"]
