"""`GraceKTOTrainer` against TRL's own trainer, an independent computation, and its own promises.

Learning rates here are far above practice, so that a difference would show within a few steps.
"""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from kto_trainers import (
    COMMON,
    independent_log_probabilities,
    logged,
    lora_config,
    make_dataset,
    row_names,
    weights_frame,
)

from scorers.errors import UserError

# The update is the gradient itself, so a wrong normalisation shows in the parameters.
PLAIN_SGD = {"optim": "sgd", "learning_rate": 0.05, "max_grad_norm": 0.0}


def parameters(trainer: Any) -> Any:
    return {name: value.detach().numpy().copy() for name, value in trainer.model.named_parameters()}


def assert_same_parameters(first: Any, second: Any, atol: Any) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_allclose(value, second[name], rtol=0, atol=atol, err_msg=name)


def count_forwards(trainer: Any) -> Any:
    calls: list[None] = []
    base = trainer.model.get_base_model() if hasattr(trainer.model, "get_base_model") else trainer.model
    base.model.register_forward_hook(lambda module, args, output: calls.append(None))
    return calls


@pytest.mark.parametrize("method", ["full", "lora"])
def test_equals_trl_with_unit_weights(
    method: Any, make_trainer: Any, causal_lm_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trl import KTOConfig, KTOTrainer

    from training.kto.order import order_rows

    # TRL's own head, since Adam makes a step of a rounding error where a gradient is nearly 0.
    monkeypatch.setattr("training.head.DIRECT_LOGITS", 0)
    peft = (lambda: lora_config()) if method == "lora" else (lambda: None)
    ours = make_trainer(peft_config=peft(), lambda_positive=1.0, lambda_negative=1.0)
    start = parameters(ours)
    ours.train()
    dataset = make_dataset()
    stock = KTOTrainer(
        str(causal_lm_dir),
        args=KTOConfig(
            str(tmp_path / "stock"),
            per_device_train_batch_size=4,
            max_steps=6,
            max_length=None,
            lr_scheduler_type="constant",
            seed=0,
            **COMMON,
        ),
        train_dataset=dataset.select(order_rows(dataset["query_id"][:], 4, 0)),
        peft_config=peft(),
    )
    stock.train()
    np.testing.assert_allclose(logged(ours, "loss"), logged(stock, "loss"), rtol=0, atol=1e-6)
    np.testing.assert_allclose(logged(ours, "kl"), logged(stock, "kl"), rtol=0, atol=1e-5)
    np.testing.assert_allclose(logged(ours, "grad_norm"), logged(stock, "grad_norm"), rtol=1e-4)
    assert max(logged(ours, "kl")) > 0
    assert_same_parameters(parameters(ours), parameters(stock), 1e-6)
    assert any((value != start[name]).any() for name, value in parameters(ours).items())


def test_weights_lambdas_and_cross_entropy_enter_the_loss(make_trainer: Any, causal_lm_dir: Path) -> None:
    dataset = make_dataset(unit=False, queries=5, responses=3)
    trainer = make_trainer(dataset, device_batch=15, mu=0.3, kl="none", max_steps=1)
    trainer.train()
    logps = independent_log_probabilities(causal_lm_dir, dataset)
    labels, weights = np.array(dataset["label"][:]), np.array(dataset["weight"][:])
    scale = np.where(labels, len(labels) / (2 * labels.sum()), len(labels) / (2 * (~labels).sum()))
    kto = np.mean(np.abs(weights) * scale * 0.5)  # policy = reference before the first step
    tokens = np.concatenate([row for row, label in zip(logps, labels, strict=True) if label])
    assert logged(trainer, "loss")[0] == pytest.approx(kto - 0.3 * tokens.mean(), abs=1e-5)
    assert logged(trainer, "cross_entropy")[0] == pytest.approx(-tokens.mean(), abs=1e-5)


@pytest.mark.parametrize(
    ("kl", "accumulation", "per_step"),
    [("none", 1, 1), ("matched", 1, 1), ("mismatched", 1, 2), ("none", 2, 2), ("matched", 2, 4), ("mismatched", 2, 4)],
)
def test_forward_passes_per_step(
    kl: Any, accumulation: Any, per_step: Any, make_trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Rows of like length pass together; here all of a batch do.
    monkeypatch.setattr("training.head._alike", lambda sizes: [sorted(range(len(sizes)), key=lambda i: -sizes[i])])
    trainer = make_trainer(kl=kl, max_steps=3, mu=0.1, device_batch=4 // accumulation, accumulation=accumulation)
    calls = count_forwards(trainer)
    trainer.train()
    assert len(calls) == 3 * per_step


def test_matched_uses_the_batchs_own_log_ratios(make_trainer: Any) -> None:
    trainer = make_trainer(kl="matched", max_steps=4)
    trainer.train()
    chosen, rejected = logged(trainer, "rewards/chosen"), logged(trainer, "rewards/rejected")
    z = logged(trainer, "kl")
    assert max(z) > 0
    labels = trainer.train_dataset["label"][:]
    for step in range(4):
        share = np.mean(labels[4 * step : 4 * step + 4])
        mean = 0.0
        if share > 0:
            mean += share * chosen.pop(0) / 0.05
        if share < 1:
            mean += (1 - share) * rejected.pop(0) / 0.05
        assert z[step] == pytest.approx(max(mean, 0), abs=1e-3)


def test_borrowed_completions_are_of_other_queries(make_trainer: Any) -> None:
    trainer = make_trainer(device_batch=1, accumulation=8)
    names = row_names(trainer)
    owner = {
        tuple(completion): name.split("-")[0] for name, (_, completion) in zip(names, _token_ids(trainer), strict=True)
    }
    batch = trainer.data_collator(list(trainer.train_dataset))
    for name, ids, mask in zip(names, batch["KL_input_ids"], batch["KL_completion_mask"], strict=True):
        assert owner[tuple(ids[mask == 1].tolist())] != name.split("-")[0]


@pytest.mark.slow
@pytest.mark.parametrize("kl", ["none", "matched", "mismatched"])
def test_accumulation_changes_nothing(kl: Any, make_trainer: Any) -> None:
    """z_ref and the logged means too are taken over the optimizer batch."""
    # Positives alone become likelier than under the reference, so that z_ref is above 0.
    dataset = make_dataset(weights_frame(unit=False).with_columns(label=pl.col("response_id") != "q0-0"))
    results = []
    for device_batch, accumulation in ((8, 1), (4, 2), (1, 8)):
        trainer = make_trainer(dataset, device_batch, accumulation, kl=kl, mu=0.2, max_steps=4, **PLAIN_SGD)
        trainer.train()
        series = [logged(trainer, name) for name in ("loss", "cross_entropy", "kl", "rewards/chosen", "logps/chosen")]
        results.append((parameters(trainer), series))
    assert (max(results[0][1][2]) > 0.1) == (kl != "none")
    for whole, split in ((results[0], results[1]), (results[0], results[2])):
        for first, second in zip(whole[1], split[1], strict=True):
            np.testing.assert_allclose(first, second, rtol=1e-3, atol=1e-5)
        assert_same_parameters(whole[0], split[0], 2e-6)


@pytest.mark.slow
def test_a_ragged_last_batch_is_the_mean_over_its_rows(make_trainer: Any) -> None:
    dataset = make_dataset(unit=False, queries=7, responses=3)  # 21 rows: 12 and 9
    results = []
    for device_batch, accumulation in ((12, 1), (4, 3), (2, 6)):
        trainer = make_trainer(dataset, device_batch, accumulation, mu=0.2, max_steps=2, **PLAIN_SGD)
        trainer.train()
        results.append(parameters(trainer))
    assert_same_parameters(results[0], results[1], 2e-6)
    assert_same_parameters(results[0], results[2], 2e-6)


def test_nothing_is_cut(make_trainer: Any) -> None:
    with pytest.raises(UserError, match=r"q\d-\d has \d+ tokens with its prompt, the limit is 60 \(\d+ rows"):
        make_trainer(make_dataset(length=40), max_length=60)


def test_a_borrowed_completion_is_cut_to_the_window(make_trainer: Any) -> None:
    frame = weights_frame(queries=2, responses=2)
    long_prompt = [{"role": "user", "content": "Please " * 100}]
    frame = frame.with_columns(prompt=pl.Series([long_prompt, long_prompt, *frame["prompt"].to_list()[2:]]))
    dataset = make_dataset(frame)
    longest = max(len(p) + len(c) for p, c in _token_ids(make_trainer(dataset)))
    trainer = make_trainer(dataset, max_length=longest)
    batch = trainer.data_collator(list(trainer.train_dataset))
    assert batch["KL_input_ids"].shape[1] <= longest


def _token_ids(trainer: Any) -> Any:
    """Prompt and completion ids of each training row, in training order."""
    rows = trainer.data_collator.tokens.select(trainer.train_dataset["row"])
    return list(zip(rows["prompt_ids"], rows["completion_ids"], strict=True))


def test_log_probabilities_that_are_not_finite_name_the_row(
    make_trainer: Any, causal_lm_dir: Path, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    broken = AutoModelForCausalLM.from_pretrained(causal_lm_dir)
    with torch.no_grad():
        broken.model.norm.weight.fill_(float("nan"))
    broken.save_pretrained(tmp_path / "broken")
    AutoTokenizer.from_pretrained(causal_lm_dir).save_pretrained(tmp_path / "broken")
    with pytest.raises(UserError, match=r"reference ref_logps of q\d-\d is nan"):
        make_trainer(model=tmp_path / "broken")

    trainer = make_trainer(kl="none", save_strategy="steps", save_steps=1)
    with torch.no_grad():
        trainer.model.model.norm.weight.fill_(float("inf"))
    with pytest.raises(UserError, match=r"policy log-probability of q\d-\d is nan at step 0"):
        trainer.train()
    with pytest.raises(UserError, match=r"weight model\.norm\.weight is not finite"):
        trainer.require_finite_weights()
    assert not list((tmp_path / "ours").glob("checkpoint-*"))


def test_one_query_and_one_row_device_batches(make_trainer: Any) -> None:
    with pytest.raises(UserError, match="kl=mismatched has no other query"):
        make_trainer(make_dataset(queries=1))
    with pytest.raises(UserError, match="kl=matched with 1 row per batch"):
        make_trainer(device_batch=1, kl="matched")
    make_trainer(device_batch=1, accumulation=2, kl="matched")
    with pytest.raises(UserError, match="kl is 'sibling'"):
        make_trainer(kl="sibling")


def test_one_label_leaves_lambda_at_one(make_trainer: Any) -> None:
    frame = weights_frame().with_columns(label=pl.lit(False), weight=pl.lit(-1.0))
    trainer = make_trainer(make_dataset(frame), mu=0.1, max_steps=1)
    trainer.train()
    assert trainer.desirable_weight == trainer.undesirable_weight == 1.0
    assert logged(trainer, "loss")[0] == pytest.approx(0.5, abs=1e-6)


@pytest.mark.slow
def test_gradient_checkpointing_gives_the_same_parameters(make_trainer: Any) -> None:
    results = []
    for checkpointing in (False, True):
        trainer = make_trainer(max_steps=2, gradient_checkpointing=checkpointing)
        trainer.train()
        results.append(parameters(trainer))
    assert_same_parameters(results[0], results[1], 1e-6)


def with_dropout(source: Path, folder: Path, kind: Any, rate: Any) -> Path:
    """A copy of a model, or a new GPT-2 of random weights, whose configuration has dropouts of a rate."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GPT2Config

    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    if kind == "qwen2":
        config = AutoConfig.from_pretrained(source, attention_dropout=rate)
        model = AutoModelForCausalLM.from_pretrained(source, config=config, dtype=torch.float32)
    else:
        dropouts = {"attn_pdrop": rate, "resid_pdrop": rate, "embd_pdrop": rate}
        shape = {"vocab_size": len(tokenizer), "n_positions": 256, "n_embd": 32, "n_layer": 2, "n_head": 4}
        config = GPT2Config(**shape, initializer_range=0.2, **dropouts)
        model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["qwen2", "gpt2"])
@pytest.mark.parametrize("lora_dropout", [None, 0.0, 0.1])
def test_the_base_models_dropout_stays_off(
    kind: Any, lora_dropout: Any, make_trainer: Any, causal_lm_dir: Path, tmp_path: Path
) -> None:
    """Also where the adapter has one (None: no adapter): equal bits from equal weights, whatever the configuration."""
    results = []
    for rate in (0.0, 0.5):
        model = with_dropout(causal_lm_dir, tmp_path / f"{kind}-{rate}", kind, rate)
        peft = None if lora_dropout is None else lora_config(lora_dropout)
        trainer = make_trainer(model=model, peft_config=peft, disable_dropout=not lora_dropout, max_steps=2)
        trainer.train()
        results.append(parameters(trainer))
    assert all((value == results[1][name]).all() for name, value in results[0].items())


@pytest.mark.parametrize("kl", ["matched", "mismatched"])
def test_z_ref_is_estimated_without_dropout(kl: Any, make_trainer: Any) -> None:
    """The adapter's dropout changes the loss of the first step, but not its z_ref."""
    series = []
    for rate in (0.0, 0.5):
        trainer = make_trainer(
            peft_config=lora_config(rate), disable_dropout=False, kl=kl, device_batch=4, accumulation=2, max_steps=1
        )
        for name in ("ref_logps", "ref_KL_logps"):  # a reference far below the policy, so that the estimate is above 0
            if name in trainer.train_dataset.column_names:
                lowered = [value - 200 for value in trainer.train_dataset[name]]
                trainer.train_dataset = trainer.train_dataset.remove_columns(name).add_column(name, lowered)
        trainer.train()
        series.append([logged(trainer, name)[0] for name in ("kl", "loss")])
    assert series[0][0] > 0
    assert series[0][0] == pytest.approx(series[1][0], rel=1e-6)
    assert series[0][1] != pytest.approx(series[1][1], rel=1e-3)


def test_the_policy_is_not_hashed(make_trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL would read every weight at each start, for a cache that is not used here."""
    import trl.trainer.kto_trainer

    def refuse(module: object) -> None:
        raise AssertionError("hashed")

    monkeypatch.setattr(trl.trainer.kto_trainer, "hash_module", refuse)
    assert "ref_logps" in make_trainer().train_dataset.column_names


def test_a_batch_keeps_its_precision_under_deepspeed(make_trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers casts a batch's floats to the type of DeepSpeed's engine: bfloat16 knows −1000, but not −1001."""
    import torch

    class Engine:
        def dtype(self) -> torch.dtype:
            return torch.bfloat16

    class Plugin:
        hf_ds_config = Engine()

    trainer = make_trainer()
    # Only what transformers asks before it casts; the engine itself needs a compiler and another process.
    monkeypatch.setattr(trainer, "is_deepspeed_enabled", True)
    monkeypatch.setattr(type(trainer.accelerator.state), "deepspeed_plugin", Plugin(), raising=False)
    batch = {"ref_logps": torch.tensor([-1001.0]), "weight": torch.tensor([1.001])}
    prepared = trainer._prepare_inputs(batch)
    assert {name: value.tolist() for name, value in prepared.items()} == {n: v.tolist() for n, v in batch.items()}
