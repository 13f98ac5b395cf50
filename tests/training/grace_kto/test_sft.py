"""The model stage `sft` through the runner: what it reads, what its revision says, and when it is stale."""

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from real_configs import SEEDS, config_on, write_lines

from builders.core.nodes import Node, needs
from builders.core.runner import StageResult
from builders.grace_kto.messages import prompt_text
from builders.grace_kto.settings import GraceKTOSettings
from builders.store.store import Store
from scorers.errors import UserError
from training.grace_kto.pipeline import GRACE_KTO
from training.pipelines import build, load_config

ROOT = Path(__file__).parents[3]
SMALL = (
    "sft={steps: 2, batch_size: 4, warmup_ratio: 0.0, learning_rate: 1.0e-3}",
    "seed.columns={query: query, reference: reference}",
)


def configured(folder: Path, base: Path, *overrides: str) -> GraceKTOSettings:
    """Six seeds, of which five have a reference in the tagged form."""
    return with_documents(folder, base, [None, *(tagged(f"Answer {n}.") for n in range(1, 6))], *overrides)


def tagged(text: str) -> str:
    return f"<summary>{text}</summary><outline>{text}</outline><answer>{text}</answer>"


def with_documents(folder: Path, base: Path, documents: Sequence[str | None], *overrides: str) -> GraceKTOSettings:
    lines = [
        json.dumps({"query": seed, "reference": document}) + "\n"
        for seed, document in zip(SEEDS, documents, strict=True)
    ]
    source = write_lines(folder / "documents.jsonl", lines)
    return config_on(folder, *SMALL, f"seed.source={source}", *overrides, policy=base)


def trained(config: GraceKTOSettings) -> StageResult:
    return build(config, "sft")[-1]


def test_the_first_policy_from_the_documents_of_the_seeds(
    tmp_path: Path, causal_lm_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    config = configured(tmp_path, causal_lm_dir, "sample.system_prompt=system.en")
    result = trained(config)
    assert f"sft: {causal_lm_dir.name} on 5 seed documents (5 with the form)" in caplog.messages
    manifest = result.revision.manifest
    assert result.built and manifest is not None
    assert (manifest.kind, manifest.stage, manifest.round, manifest.rows.written) == ("model", "sft", 0, 5)
    assert [(parent.stage, parent.kind, parent.round) for parent in manifest.parents] == [("seed", "dataset", 0)]
    (base,) = manifest.models.values()
    assert (base.id, base.revision) == (causal_lm_dir.name, Store(tmp_path).digest_of(causal_lm_dir))
    assert manifest.prompts == {"system.en": prompt_text("system.en")}
    assert {"loss", "train_loss", "steps", "tokens"} <= manifest.results.keys()
    assert manifest.counts == {"documents with the form": 5}
    assert "seconds" not in manifest.results  # equal inputs give an equal revision
    assert manifest.configuration.keys() == {
        "sft",
        "engines.policy.chat_template",
        "engines.policy.chat_template_kwargs",
        "threads",
    }
    store = Store(Path(config.store))
    assert set(store.refs("local/tiny-sft", "model")) == {"main", "round-000"}
    assert not list((store.root / ".work").rglob("*.safetensors"))


@pytest.mark.slow
def test_only_what_decides_the_model_makes_it_stale(tmp_path: Path, causal_lm_dir: Path) -> None:
    first = trained(configured(tmp_path, causal_lm_dir))
    kept = trained(configured(tmp_path, causal_lm_dir, "sft.device_batch_size=2", "sft.gradient_checkpointing=true"))
    assert not kept.built and kept.revision == first.revision
    # Of the sampling only the system prompt is part of what is learnt.
    assert not trained(configured(tmp_path, causal_lm_dir, "sample.top_p=0.5", "generate.queries=3")).built
    prompted = trained(configured(tmp_path, causal_lm_dir, "sample.system_prompt=system.en"))
    assert prompted.built and prompted.reason == "prompt changed: system.en"
    assert prompted.revision.digest != first.revision.digest
    changed = trained(configured(tmp_path, causal_lm_dir, "sample.system_prompt=system.en", "sft.batch_size=5"))
    assert changed.reason == "configuration changed: sft.batch_size"


def test_seeds_without_a_document(tmp_path: Path, causal_lm_dir: Path) -> None:
    config = configured(tmp_path, causal_lm_dir, "seed.columns={query: query}")
    with pytest.raises(UserError, match=r"no seed has a reference document; set seed\.columns\.reference, or models"):
        trained(config)
    assert Store(Path(config.store)).refs("local/tiny-sft", "model") == {}


PLAIN = "# The quay\n\nThe quay is old. It leans.\n\nIt needs repair. Soon."


def test_plain_documents_are_refused_before_anything_is_trained(tmp_path: Path, causal_lm_dir: Path) -> None:
    """They were trained on as they were, so that the policy never learned the form."""
    config = with_documents(tmp_path, causal_lm_dir, [PLAIN, tagged("A."), PLAIN, None, PLAIN, PLAIN])
    with pytest.raises(
        UserError, match=r"^sft: 1 of 5 reference documents .* sft\.untagged=wrap .* sft\.untagged=drop"
    ):
        trained(config)
    assert Store(Path(config.store)).refs("local/tiny-sft", "model") == {}


def test_plain_documents_are_wrapped_or_left_out_and_the_card_says_so(tmp_path: Path, causal_lm_dir: Path) -> None:
    documents = [PLAIN, tagged("A."), "<summary>Broken.", None, PLAIN, tagged("B.")]
    wrapped = trained(with_documents(tmp_path, causal_lm_dir, documents, "sft.untagged=wrap")).revision
    assert wrapped.manifest is not None and wrapped.manifest.rows.written == 5
    assert wrapped.manifest.counts == {
        "documents with the form": 2,
        "documents wrapped": 2,
        "documents with broken tags": 1,
    }
    card = (wrapped.path / "README.md").read_text(encoding="utf-8")
    assert "- 2 as they were given, in the form" in card and "- 2 plain ones, wrapped by rule" in card
    assert "- 1 as they were given, with tags that break the form." in card
    dropped = trained(with_documents(tmp_path, causal_lm_dir, documents, "sft.untagged=drop"))
    assert dropped.reason == "configuration changed: sft.untagged" and dropped.revision.manifest is not None
    assert dropped.revision.manifest.counts == {"documents with the form": 2, "documents left out": 3}
    assert dropped.revision.manifest.rows.written == 2 and dropped.revision.digest != wrapped.digest
    card = (dropped.revision.path / "README.md").read_text(encoding="utf-8")
    assert "Left out because they do not have the form: 3." in card


def test_a_base_model_without_a_template_is_told_before_the_seeds_are_read(tmp_path: Path, causal_lm_dir: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(causal_lm_dir)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "base")
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(causal_lm_dir / name, tmp_path / "base" / name)
    config = configured(tmp_path, tmp_path / "base", "models.policy=sft")
    for stage in ("sft", "generate"):
        with pytest.raises(UserError, match=r"tokenizer of \S+/base: no chat template found"):
            build(config, stage)
    assert not list(Path(config.store).rglob("*.parquet"))


def test_the_worlds_base_model_learns_to_write_queries_too() -> None:
    sft = Node("sft", 0)
    world = needs(GRACE_KTO, load_config("tiny"), sft)
    assert world.parents == {"seed": Node("seed", 0), "exercises": Node("world:exercises", 0)}
    assert world.models == {"base": Node("world:base", 0)}
    pretrained = needs(GRACE_KTO, load_config("tiny", ["models.base=Qwen/Qwen2.5-0.5B-Instruct"]), sft)
    assert pretrained.parents == {"seed": Node("seed", 0)}
    assert pretrained.models == {"base": "Qwen/Qwen2.5-0.5B-Instruct"}


TRAIN = """
import sys
sys.path.insert(0, {root!r})
from training.cli import train_main

train_main()
"""


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path, causal_lm_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun, and `nproc`: the same optimizer batches of 8, also where the last one of an epoch has 5 rows."""
    texts = [tagged(f"Harbour {n}." + " Trade grew." * (n % 7)) for n in range(21)]
    lines = [json.dumps({"query": f"Report {n}", "reference": text}) + "\n" for n, text in enumerate(texts)]
    source = write_lines(tmp_path / "documents.jsonl", lines)
    options = ("sft.batch_size=8", "sft.epochs=2.0", "sft.steps=null", "sft.prompt_loss_weight=0.1")
    revisions = []
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    for name in ("one", "nproc", "two"):
        (tmp_path / name).mkdir()
        overrides = (*SMALL, f"seed.source={source}", *options)
        config = config_on(tmp_path / name, *overrides, policy=causal_lm_dir)
        if name != "two":
            revisions.append(trained(config.model_copy(update={"nproc": 1 if name == "one" else 2})).revision)
            continue
        build(config, "seed")
        script = tmp_path / "train.py"
        script.write_text(TRAIN.format(root=str(ROOT)))
        settings = [f"models.policy={causal_lm_dir}", f"models.base={causal_lm_dir}", *overrides]
        arguments = ["--sft", "--config", "tiny", "--store", config.store]
        arguments += [word for setting in settings for word in ("--set", setting)]
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
        done = subprocess.run([*launch, *arguments], cwd=tmp_path, capture_output=True, timeout=300)
        assert done.returncode == 0, done.stderr.decode()[-2000:]
        found = Store(Path(config.store)).find("local/tiny-sft", "main", "model")
        assert found is not None
        revisions.append(found)
    one, nproc, two = (revision.manifest for revision in revisions)
    assert one is not None and nproc is not None and two is not None
    assert nproc.results == two.results
    assert (two.results["steps"], two.rows.written) == (one.results["steps"], one.rows.written) == (6, 21)
    for name in ("loss", "train_loss"):
        # Sums of a few hundred float32 terms in another order, over six steps.
        assert two.results[name] == pytest.approx(one.results[name], rel=1e-5)
    assert not list(tmp_path.rglob(".*.part"))
