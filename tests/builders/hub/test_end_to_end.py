"""Two rounds with LoRA, published as they are made; somebody else loads, verifies, trains and traces what is there."""

import json
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hub_people import Person
from hub_server import RemoteHub
from tiny_store import SMALL_LOOP, copy_store

LORA = (*SMALL_LOOP, "train.method=lora", "train.lora_rank=4", "loop.rounds=3")
MODELS = ("tiny-sft", *(f"grace-kto-world-0-{name}" for name in ("base", "general", "domain", "bge-m3")))
LOAD = """
import json, sys
from datasets import load_dataset
rows = {}
for name, tag in json.loads(sys.argv[1]):
    table = load_dataset(name, revision=tag, split="train")
    streamed = load_dataset(name, revision=tag, split="train", streaming=True)
    assert [row["query"] for row in streamed] == table["query"][:], name
    rows[f"{name} {tag}"] = [table.num_rows, table.column_names]
print(json.dumps(rows))
"""
VERIFY = """
import json, sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from builders import Store, open_revision, verify
from training.pipelines import PIPELINES
store = Store(Path(sys.argv[1]))
print(json.dumps({ref: len(verify(open_revision(ref, store), PIPELINES)) for ref in sys.argv[2:]}))
"""


@pytest.mark.slow
def test_two_rounds_from_the_build_to_somebody_elses_training(
    remote: RemoteHub, stack: ExitStack, tmp_path: Path
) -> None:
    writer = Person(stack, remote, tmp_path / "writer")
    copy_store(writer.folder / "store")
    pushed = {}  # in the natural order: each dataset and each policy as soon as it is made
    for round_ in ("1", "2"):
        built = writer.grace("build", "--stage", "calibrate", "--round", round_, "--push", settings=LORA)
        trained = writer.grace("train", "--round", round_, "--push", "--with-optimizer", settings=LORA)
        assert list(built["pushed"]) == list(trained["pushed"]) == ["repo", "revision", "tag", "url"]
        assert built["pushed"]["tag"] == trained["pushed"]["tag"] == f"round-00{round_}"
        pushed[round_] = (built, trained)
    remote.clear_log()
    again = writer.grace("push", "local/tiny-policy@round-002", settings=LORA)
    assert again["uploaded"] is False and again["revision"] == pushed["2"][1]["pushed"]["revision"]
    assert remote.log.count("commit", "tag") == 0
    whole = writer.grace("push", "--all", settings=LORA)["revisions"]
    assert len(whole) == 12 and not any(found["uploaded"] for found in whole)

    reader = Person(stack, remote, tmp_path / "reader")
    stages = ("queries", "groups", "scores", "weights")
    names = [("alice/tiny-seed", "round-000"), ("alice/grace-kto-world-0-seeds", "round-000")]
    names += [(f"alice/tiny-{stage}", f"round-00{round_}") for stage in stages for round_ in ("1", "2")]
    loaded = json.loads(reader.run(LOAD, json.dumps(names)))
    assert loaded["alice/tiny-weights round-002"][0] == 32
    assert loaded["alice/tiny-weights round-002"][1][-4:] == ["weight", "label", "prompt", "completion"]

    check_lineage(reader, pushed)
    assert reader.grace("verify", "alice/tiny-weights@round-002")["ok"]
    refs = ["alice/tiny-policy@round-002", *(f"alice/{name}@round-000" for name in MODELS)]
    differing = reader.run(VERIFY, str(reader.folder / "store"), *refs)
    assert json.loads(differing) == dict.fromkeys(refs, 0)
    train_from_the_hub(reader, pushed["1"][0]["pushed"]["revision"])
    train_with_stock_trl(reader, tmp_path / "writer" / "store")
    remote.add_token("hf_bob", "bob")
    go_on(Person(stack, remote, tmp_path / "stranger", "hf_bob"), pushed["2"][1]["pushed"]["revision"])


def check_lineage(reader: Person, pushed: dict[str, Any]) -> None:
    """The whole chain back from the second adapter, models and world included, every link at a commit of the Hub."""
    found = reader.grace("lineage", f"alice/tiny-policy@{pushed['2'][1]['pushed']['revision']}")["nodes"]
    assert {node["state"] for node in found} == {"found"}
    assert all(re.fullmatch("[0-9a-f]{40}", node["revision"]) for node in found)
    assert {part["pushed"]["revision"] for parts in pushed.values() for part in parts} <= {n["revision"] for n in found}
    datasets = {f"alice/tiny-{name}" for name in ("seed", "queries", "groups", "scores", "weights")}
    datasets |= {f"alice/grace-kto-world-0-{name}" for name in ("seeds", "exercises")}
    assert {node["repo"] for node in found if node["kind"] == "dataset"} == datasets
    models = {f"alice/{name}" for name in (*MODELS, "tiny-policy")}
    assert {node["repo"] for node in found if node["kind"] == "model"} == models


def go_on(stranger: Person, policy: str) -> None:
    """A third round by somebody with an empty store who may only read the first two, published under their name."""
    settings = (*LORA, "continues=alice/tiny@round-002")
    stranger.grace("loop", settings=settings)
    trained = stranger.grace("train", "--round", "3", "--push", settings=settings)
    assert trained["pushed"]["repo"] == "bob/tiny-policy" and trained["pushed"]["tag"] == "round-003"
    made = {path.name for path in (stranger.folder / "store").glob("*--local--*")}
    assert made == {
        *(f"datasets--local--tiny-{name}" for name in ("queries", "groups", "scores", "weights")),
        "models--local--tiny-policy",
        "datasets--local--grace-kto-world-0-heldout",  # on which the loop shows what it learns
        *(f"datasets--local--tiny-{name}-watch-answers" for name in ("first", "round-1", "round-2", "round-3")),
    }  # seeds, world and first policy are alice's
    manifest = json.loads((Path(trained["path"]) / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["results"]["first_step"] > 0 and "new_optimizer" not in manifest["counts"]  # both go on
    found = stranger.grace("lineage", "bob/tiny-policy@round-003")["nodes"]
    assert {node["state"] for node in found} == {"found"}
    assert {(node["repo"], node["revision"]) for node in found} >= {("alice/tiny-policy", policy)}
    assert stranger.grace("verify", "bob/tiny-weights@round-003")["ok"]


def train_from_the_hub(reader: Person, commit: str) -> None:
    """`train` on the published commit, from the published first policy; the commit stands in the model's manifest."""
    trained = reader.grace(
        "train", "--dataset", "alice/tiny-weights", "--revision", commit, "--require-pinned",
        settings=(*LORA, "name=mine", "models.policy=alice/tiny-sft"),
    )  # fmt: skip
    manifest = json.loads((Path(trained["path"]) / "manifest.json").read_text(encoding="utf-8"))
    assert [(p["repo"], p["revision"]) for p in manifest["parents"]] == [("alice/tiny-weights", commit)]
    assert manifest["models"]["base"]["id"] == "alice/tiny-sft"
    made = {path.name for path in (reader.folder / "store").glob("*--local--*")}
    assert made == {"models--local--mine-policy"}  # neither the world nor a first policy is made for it


def train_with_stock_trl(reader: Person, writer_store: Path) -> None:
    """The snippet of the published card, with nothing changed but the model's name."""
    from builders.grace_kto.card import SNIPPET_MODEL

    fetch = (
        "import sys; from huggingface_hub import hf_hub_download as get; print(get(*sys.argv[1:], repo_type='dataset'))"
    )
    card = Path(reader.run(fetch, "alice/tiny-weights", "README.md").strip())
    section = card.read_text(encoding="utf-8").split("## Train with TRL", 1)[1]
    snippet = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert snippet is not None and SNIPPET_MODEL in snippet[1]
    model = next((writer_store / "models--local--tiny-sft" / "snapshots").iterdir())
    reader.run(snippet[1].replace(SNIPPET_MODEL, str(model)))
