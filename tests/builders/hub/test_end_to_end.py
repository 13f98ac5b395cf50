"""Two rounds of the real loop with LoRA, published; somebody else loads, verifies, trains and traces what is there."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hub_clients import environment
from hub_server import RemoteHub
from tiny_store import SMALL_LOOP, copy_store

GRACE = [sys.executable, "-c", "from training.cli import app; app()"]
LORA = (*SMALL_LOOP, "name=demo", "models.policy=local/tiny-sft", "train.method=lora", "train.lora_rank=4")
LOAD = """
import json, sys
from datasets import load_dataset
rows = {}
for name, tag in json.loads(sys.argv[1]):
    table = load_dataset(name, revision=tag, split="train")
    streamed = load_dataset(name, revision=tag, split="train", streaming=True)
    assert [row["query_id"] for row in streamed] == table["query_id"][:], name
    rows[f"{name} {tag}"] = [table.num_rows, table.column_names]
print(json.dumps(rows))
"""


class Person:
    """Somebody with a token, a cache and a store of their own."""

    def __init__(self, hub: RemoteHub, folder: Path) -> None:
        self.folder = folder
        self.variables = environment(hub.endpoint, folder / "home", xet=True) | {"OMP_NUM_THREADS": "1"}

    def run(self, command: list[str]) -> str:
        done = subprocess.run(command, env=self.variables, cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def grace(self, *arguments: str, settings: tuple[str, ...] = ()) -> Any:
        """The JSON object that a command prints."""
        chosen = [part for setting in settings for part in ("--set", setting)]
        shared = ["--config", "tiny", "--store", str(self.folder / "store"), "--json", *chosen]
        return json.loads(self.run([*GRACE, *arguments, *shared]).splitlines()[-1])


@pytest.mark.slow
def test_two_rounds_from_the_loop_to_somebody_elses_training(remote: RemoteHub, tmp_path: Path) -> None:
    (tmp_path / "writer").mkdir()
    writer = Person(remote, tmp_path / "writer")
    copy_store(writer.folder / "store")
    writer.grace("loop", settings=LORA)
    # In the order in which they are made, so that a later manifest names the published form of an earlier model.
    writer.grace("push", "local/tiny-sft@round-000", settings=LORA)
    pushed = {}
    for round_ in ("1", "2"):
        built = writer.grace("build", "--stage", "calibrate", "--round", round_, "--push", settings=LORA)
        trained = writer.grace("train", "--round", round_, "--push", settings=LORA)
        assert list(built["pushed"]) == list(trained["pushed"]) == ["repo", "revision", "tag", "url"]
        assert built["pushed"]["tag"] == trained["pushed"]["tag"] == f"round-00{round_}"
        pushed[round_] = (built, trained)

    (tmp_path / "reader").mkdir()
    reader = Person(remote, tmp_path / "reader")
    stages = ("queries", "groups", "scores", "weights")
    names = [("alice/demo-seed", "round-000")]
    names += [(f"alice/demo-{stage}", f"round-00{round_}") for stage in stages for round_ in ("1", "2")]
    loaded = json.loads(reader.run([sys.executable, "-c", LOAD, json.dumps(names)]))
    assert loaded["alice/demo-weights round-002"][0] == 32
    assert loaded["alice/demo-weights round-002"][1][-4:] == ["weight", "label", "prompt", "completion"]

    check_lineage(reader, pushed)
    assert reader.grace("verify", "alice/demo-weights@round-002")
    train_from_the_hub(reader, pushed["1"][0]["pushed"]["revision"])
    train_with_stock_trl(reader, tmp_path / "writer" / "store")


def check_lineage(reader: Person, pushed: dict[str, Any]) -> None:
    """The whole chain back from the second adapter, every link at a commit of the Hub."""
    text = json.dumps(reader.grace("lineage", f"alice/demo-policy@{pushed['2'][1]['pushed']['revision']}"))
    for round_ in ("1", "2"):
        for part in pushed[round_]:
            assert part["pushed"]["revision"] in text
    for repo in ("demo-seed", "demo-queries", "demo-groups", "demo-scores", "tiny-sft"):
        assert f"alice/{repo}" in text
    assert "not found" not in text and "unreachable" not in text and "local/demo" not in text


def train_from_the_hub(reader: Person, commit: str) -> None:
    """`train` on the published commit, from the published first policy; the commit stands in the model's manifest."""
    settings = (*LORA[:-3], "name=mine", "models.policy=alice/tiny-sft", "train.method=lora", "train.lora_rank=4")
    trained = reader.grace(
        "train", "--dataset", "alice/demo-weights", "--revision", commit, "--require-pinned", settings=settings
    )
    manifest = json.loads((Path(trained["path"]) / "manifest.json").read_text(encoding="utf-8"))
    assert [(p["repo"], p["revision"]) for p in manifest["parents"]] == [("alice/demo-weights", commit)]


def train_with_stock_trl(reader: Person, writer_store: Path) -> None:
    """The snippet of the published card, with nothing changed but the model's name."""
    from builders.grace_kto.card import SNIPPET_MODEL

    fetch = (
        "import sys; from huggingface_hub import hf_hub_download as get; print(get(*sys.argv[1:], repo_type='dataset'))"
    )
    card = Path(reader.run([sys.executable, "-c", fetch, "alice/demo-weights", "README.md"]).strip())
    section = card.read_text(encoding="utf-8").split("## Train with TRL", 1)[1]
    snippet = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert snippet is not None and SNIPPET_MODEL in snippet[1]
    model = next((writer_store / "models--local--tiny-sft" / "snapshots").iterdir())
    reader.run([sys.executable, "-c", snippet[1].replace(SNIPPET_MODEL, str(model))])
