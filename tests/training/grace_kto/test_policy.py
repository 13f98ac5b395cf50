"""The model stage `policy` through the runner: what it reads, what its revision says, and when it is stale."""

import json
import logging
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from datasets_factory import add_dataset, add_model, scores_frame, weights_frame
from real_configs import config_on

from builders.core.models import folder_digest
from builders.core.run import StageResult
from builders.grace_kto.settings import GraceKTOSettings
from builders.store.manifest import Model
from builders.store.store import Revision, Store
from scorers.errors import UserError
from training.grace_kto.policy import _name_base
from training.pipelines import build

SMALL = (
    "train={method: lora, lora_rank: 2, lora_alpha: 4, batch_size: 4, device_batch_size: 4, learning_rate: 1.0e-3}",
    "train.learning_rate_end=0.0",
    "loop.rounds=1",
)


def configured(folder: Path, policy: Path, *overrides: str) -> GraceKTOSettings:
    return config_on(folder, *SMALL, *overrides, policy=policy)


def add_weights(config: GraceKTOSettings, **columns: Any) -> Revision:
    """A weights dataset of somebody else's run: two queries of four responses, two of them unmatched."""
    frame = weights_frame(scores_frame()).with_columns(**columns)
    return add_dataset(Store(Path(config.store)), "calibrate", frame)


def trained(config: GraceKTOSettings, start: str) -> StageResult:
    (result,) = build(config, "policy", start=start)
    assert result.stage == "policy"
    return result


def test_a_policy_from_a_given_dataset(tmp_path: Path, causal_lm_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    config = configured(tmp_path, causal_lm_dir)
    weights = add_weights(config)
    result = trained(config, str(weights))
    assert f"policy: training on {weights.repo} at {weights.revision}" in caplog.messages
    revision, manifest = result.revision, result.revision.manifest
    assert result.built and manifest is not None
    assert (manifest.kind, manifest.stage, manifest.round, manifest.rows.written) == ("model", "policy", 1, 8)
    (parent,) = manifest.parents
    assert (parent.stage, parent.kind, parent.round, parent.repo) == ("calibrate", "dataset", 1, weights.repo)
    assert (parent.revision, parent.digest) == (weights.revision, weights.digest)
    base = manifest.models["base"]
    assert manifest.models == {"base": base, "policy": base}
    assert (base.id, base.revision) == (causal_lm_dir.name, folder_digest(causal_lm_dir))
    assert {"loss", "kl", "last_step"} <= manifest.results.keys() and manifest.results["last_step"] == 2
    assert set(manifest.configuration) == {"train", "engines.policy.chat_template_kwargs", "loop", "threads"}
    assert manifest.execution["train"]["device_batch_size"] == 4 and "batch_size" in manifest.configuration["train"]
    assert manifest.bytes_depend_on == ["kind of processor"]

    adapter = json.loads((revision.path / "adapter_config.json").read_text())
    # A folder is no name that stock PEFT could ask the Hub for; the manifest has it.
    assert (adapter["base_model_name_or_path"], adapter["revision"]) == (None, None)
    folders = (str(tmp_path).encode(), str(causal_lm_dir).encode())
    for path in revision.path.rglob("*"):
        assert path.is_dir() or not any(folder in path.read_bytes() for folder in folders), path
    # After the last round no checkpoint is of use.
    assert not list((tmp_path / "store" / ".work").rglob("*.safetensors"))
    assert not list((tmp_path / "store" / ".work").rglob("run-*"))


def test_an_adapter_names_a_base_of_the_hub_and_none_of_this_machine(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    made = add_model(store, "alice/demo-sft", round_=0)
    commit = "1" * 40
    cases = [
        (Model(id="Qwen/Qwen2.5-0.5B", revision=commit), True),
        (Model(id="local/demo-sft", revision=commit), False),
        (Model(id="alice/demo-sft", revision=made.revision), False),  # not on the Hub yet
        (Model(id="my-model", revision="1" * 64), False),
    ]
    for base, named in cases:
        (tmp_path / "adapter_config.json").write_text(f'{{"r": 4, "base_model_name_or_path": "{tmp_path}"}}')
        _name_base(tmp_path, base, store)
        found = json.loads((tmp_path / "adapter_config.json").read_text())
        wanted = (base.id, base.revision) if named else (None, None)
        assert (found["base_model_name_or_path"], found["revision"], found["r"]) == (*wanted, 4)


@pytest.mark.slow
def test_only_what_decides_the_weights_makes_it_stale(tmp_path: Path, causal_lm_dir: Path) -> None:
    start = str(add_weights(configured(tmp_path, causal_lm_dir)))
    first = trained(configured(tmp_path, causal_lm_dir), start)
    execution = ("train.device_batch_size=2", "train.gradient_checkpointing=true", "train.save_steps=1", "workers=3")
    kept = trained(configured(tmp_path, causal_lm_dir, *execution), start)
    assert not kept.built and kept.revision == first.revision
    changed = trained(configured(tmp_path, causal_lm_dir, "train.beta=0.2"), start)
    assert changed.built and changed.reason == "configuration changed: train.beta"
    assert changed.revision.digest != first.revision.digest
    other = add_weights(configured(tmp_path, causal_lm_dir), weight=pl.col("weight") * 0.5)
    assert trained(configured(tmp_path, causal_lm_dir, "train.beta=0.2"), str(other)).reason == (
        "parent changed: calibrate"
    )


def test_anybodys_dataset_with_the_four_columns_that_are_read(tmp_path: Path, causal_lm_dir: Path) -> None:
    frame = weights_frame(scores_frame()).select("prompt", "completion", "label", "weight")
    frame.write_parquet(tmp_path / "theirs.parquet")
    config = configured(tmp_path, causal_lm_dir)
    result = trained(config, str(tmp_path / "theirs.parquet"))
    assert result.revision.manifest is not None
    (parent,) = result.revision.manifest.parents
    assert (parent.stage, parent.repo, parent.round) == ("calibrate", "theirs", None)
    assert result.revision.manifest.rows.written == frame.height


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("weight", "missing weight; it needs weight, label, prompt, completion"),
        ("label", "label is Int8, not Boolean"),
        ("rows", "is empty; at least one row is needed"),
    ],
)
def test_a_dataset_that_does_not_fit_is_told_before_anything_is_built(
    tmp_path: Path, causal_lm_dir: Path, change: str, words: str
) -> None:
    frame = weights_frame(scores_frame()).select("prompt", "completion", "label", "weight")
    changed = {
        "weight": frame.drop("weight"),
        "label": frame.with_columns(pl.col("label").cast(pl.Int8)),
        "rows": frame.clear(),
    }
    path = tmp_path / "theirs.parquet"
    changed[change].write_parquet(path)
    # The first policy would have to be made, from a base that is not there.
    config = configured(tmp_path, causal_lm_dir, "models.policy=sft", "models.base=no/where")
    with pytest.raises(UserError, match=words):
        build(config, "policy", start=str(path))
    assert not Path(config.store).exists()


def test_a_warning_of_the_training_is_logged(
    tmp_path: Path, causal_lm_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = configured(tmp_path, causal_lm_dir)
    weights = add_weights(config, label=pl.lit(True))
    trained(config, str(weights))
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any(text.startswith(f"{weights}: all 8 rows are positive") for text in warned)
