"""The model stage `policy` through the runner: what it reads, what its revision says, and when it is stale."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from datasets_factory import add_dataset, add_model, model_of, scores_frame, weights_frame
from real_configs import config_on
from tiny_models import CHAT_TEMPLATE

from builders.core.models import LocalModel
from builders.core.runner import StageResult
from builders.grace_kto.ready import sample_ready
from builders.grace_kto.settings import GraceKTOSettings
from builders.store.adapter import name_base
from builders.store.manifest import Model
from builders.store.revision import Revision
from builders.store.store import Store
from scorers.errors import UserError
from training.grace_kto.policy import _require_base, ready
from training.loop import run_loop
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
    assert (base.id, base.revision) == (causal_lm_dir.name, Store(tmp_path).digest_of(causal_lm_dir))
    assert {"loss", "kl", "last_step"} <= manifest.results.keys() and manifest.results["last_step"] == 2
    assert set(manifest.configuration) == {
        "train",
        "engines.policy.chat_template",
        "engines.policy.chat_template_kwargs",
        "loop",
        "threads",
    }
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
        name_base(tmp_path, base, store)
        found = json.loads((tmp_path / "adapter_config.json").read_text())
        wanted = (base.id, base.revision) if named else (None, None)
        assert (found["base_model_name_or_path"], found["revision"], found["r"]) == (*wanted, 4)


@pytest.mark.slow
def test_integer_weights_of_several_widths_in_a_folder(tmp_path: Path, causal_lm_dir: Path) -> None:
    """Weights of ±1 as integers, rows in files of two integer widths: what other people's datasets look like."""
    data = tmp_path / "theirs" / "data"
    data.mkdir(parents=True)
    frame = weights_frame(scores_frame(), binary=True)
    for number, dtype in enumerate((pl.Int32, pl.Int64)):
        part = frame.slice(4 * number, 4).with_columns(pl.col("weight", "round").cast(dtype))
        part.write_parquet(data / f"train-0000{number}-of-00002.parquet")
    frame.write_parquet(data / "test-00000-of-00001.parquet")
    (result,) = build(configured(tmp_path, causal_lm_dir), "policy", start=str(tmp_path / "theirs"))
    assert result.revision.manifest is not None and result.revision.manifest.rows.written == 8


@pytest.mark.slow
def test_only_what_decides_the_weights_makes_it_stale(
    tmp_path: Path, causal_lm_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    start = str(add_weights(configured(tmp_path, causal_lm_dir)))
    first = trained(configured(tmp_path, causal_lm_dir), start)
    execution = ("train.device_batch_size=2", "train.gradient_checkpointing=true", "train.save_steps=1", "workers=3")
    kept = trained(configured(tmp_path, causal_lm_dir, *execution), start)
    assert not kept.built and kept.revision == first.revision
    changed = trained(configured(tmp_path, causal_lm_dir, "train.beta=0.2"), start)
    assert changed.built and changed.reason == "configuration changed: train.beta"
    said = [line for line in caplog.messages if line.startswith("policy: training") and " on " not in line]
    assert said == ["policy: training", "policy: training, configuration changed: train.beta"]
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


# A prompt that changes once it is answered, and a template without a place for a system prompt.
REWRITING = (
    "{% for m in messages %}{% if loop.last and m.role == 'user' %}<last>{% endif %}{{ m.content }}<|im_end|>"
    "{% endfor %}"
)
DEAF = (
    "{% for m in messages if m.role != 'system' %}[{{ m.role }}]{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
THINKING = CHAT_TEMPLATE.replace("{% if add", "{% if think is not defined %}{% set think = true %}{% endif %}{% if add")
THINKING = THINKING.replace(
    "{{ m['content'] }}", "{% if m['role'] == 'assistant' %}<think></think>{% endif %}{{ m['content'] }}"
).replace("assistant\n{% endif", "assistant\n{% if not think %}<think></think>{% endif %}{% endif")


def with_template(model: Path, folder: Path, template: str | None) -> Path:
    """A copy of a model with another chat template."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(model / name, folder / name)
    return folder


def nothing_made(config: GraceKTOSettings) -> bool:
    return not list(Path(config.store).rglob("*.parquet"))


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (
            REWRITING,
            r"the chat template of \S+ renders an answered prompt otherwise than the prompt followed",
        ),
        (THINKING, r"a template that thinks needs engines\.policy\.chat_template_kwargs"),
        (DEAF, r"system prompt: the chat template of \S+ leaves it out; set sample\.system_prompt: null"),
        (None, r"tokenizer of \S+: no chat template found; set engines\.policy\.chat_template=FILE"),
    ],
)
def test_a_chat_template_that_cannot_be_trained_on_is_told_before_any_data_is_made(
    tmp_path: Path, causal_lm_dir: Path, template: str | None, words: str
) -> None:
    """It was told after the first round's data was made."""
    policy = with_template(causal_lm_dir, tmp_path / "policy", template)
    config = configured(tmp_path, policy, "sample.system_prompt=system")
    wanted: tuple[Callable[[], object], ...] = (
        lambda: run_loop(config),
        lambda: build(config, "policy"),
        lambda: build(config, "generate", round_=2),  # which the policy of round 1 writes
    )
    for command in wanted:
        with pytest.raises(UserError, match=words):
            command()
        assert nothing_made(config)


def test_a_template_is_checked_with_the_variables_and_prompts_of_the_configuration(
    tmp_path: Path, causal_lm_dir: Path
) -> None:
    for template, setting, refused_by in (
        (THINKING, "engines.policy.chat_template_kwargs={think: false}", ready),
        (DEAF, "sample.system_prompt=null", sample_ready),
    ):
        policy = with_template(causal_lm_dir, tmp_path / "policy", template)
        config = configured(tmp_path, policy, setting)
        model = LocalModel(Model(id="policy", revision="0"), policy)
        for check in (ready, sample_ready):
            check(config, {config.models.policy: model}.get)
        with pytest.raises(UserError, match="template"):  # without the setting
            refused_by(configured(tmp_path, policy, "sample.system_prompt=system"), {str(policy): model}.get)
    # A policy that a stage makes has the template that its own training was checked with.
    ready(config, lambda _: None)


def test_who_only_builds_data_or_trains_on_given_data_is_not_refused(tmp_path: Path, causal_lm_dir: Path) -> None:
    policy = tmp_path / "policy"
    shutil.copytree(causal_lm_dir, policy)
    with_template(causal_lm_dir, policy, THINKING)
    config = configured(tmp_path, policy, "sample={responses: 2, system_prompt: null, max_new_tokens: 3}")
    row = {"query_id": "a", "query": "Write.", "language": "en", "round": 1, "example_ids": ["b"], "generator": "m@r"}
    pl.DataFrame([row]).write_parquet(tmp_path / "queries.parquet")
    assert build(config, "sample", start=str(tmp_path / "queries.parquet"))[-1].built
    # Rows without a system prompt, whatever the configuration says of one.
    with_template(causal_lm_dir, policy, DEAF)
    config = configured(tmp_path, policy, "sample.system_prompt=system")
    assert trained(config, str(add_weights(config))).built


def test_the_first_policy_of_later_rounds_is_that_of_the_rounds_before(tmp_path: Path) -> None:
    """An adapter was recorded as one of the new first policy, over which it samples nonsense."""
    store = Store(tmp_path)
    first, other = (add_model(store, f"local/{name}-sft", round_=0) for name in ("tiny", "other"))
    made = add_model(store, "local/tiny-policy", models={"base": model_of(first)})
    old, new = (LocalModel(model_of(revision), revision.path) for revision in (first, other))
    adapter = LocalModel(model_of(made), first.path, made.path)
    full = LocalModel(model_of(made), made.path)
    copy = tmp_path / "copy"
    shutil.copytree(first.path, copy)
    for policy in (adapter, full):
        _require_base(policy, old, 2, store)
        _require_base(policy, LocalModel(Model(id="alice/tiny-sft", revision="0" * 40), copy), 2, store)
        with pytest.raises(
            UserError, match=rf"policy {made} was made from {first}, and the first policy .* is {other}"
        ):
            _require_base(policy, new, 2, store)
    _require_base(old, new, 1, store)  # before the first round there is nothing to go on from
