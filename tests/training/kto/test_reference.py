"""The reference's log-probabilities: of which model, by whom, and in how much memory."""

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from kto_trainers import (
    independent_log_probabilities,
    logged,
    lora_config,
    make_dataset,
    row_names,
    weights_frame,
)

from scorers.errors import UserError
from training.kto.tokens import tokenized


def test_no_tensor_of_a_batch_is_kept(causal_lm_dir: Path, tmp_path: Path) -> None:
    """One tensor for each of a million batches would take a gigabyte beside the 32 MB of the numbers in them."""
    from datasets import Dataset

    from training.kto.trainer import GraceKTOConfig, GraceKTOTrainer

    columns = {"prompt": [f"Report {i}" for i in range(8)], "completion": [" river"] * 8, "label": [True, False] * 4}
    args = GraceKTOConfig(
        str(tmp_path), max_steps=1, per_device_train_batch_size=4, bf16=False, use_cpu=True, report_to="none"
    )
    trainer = GraceKTOTrainer(str(causal_lm_dir), args, Dataset.from_dict(columns))
    gather, most = trainer.accelerator.gather_for_metrics, 0
    kept: list[Any] = []

    def noted(values: Any) -> Any:
        nonlocal most
        gc.collect()
        most = max(most, sum(one() is not None for one in kept))
        kept.append(weakref.ref(values))
        return gather(values)

    trainer.accelerator.gather_for_metrics = noted
    before = trainer.train_dataset
    found = trainer._compute_reference(before.remove_columns(["ref_logps", "ref_KL_logps"]), batch_size=1)
    assert len(kept) == 16 and most <= 1
    for name, values in found.items():
        assert abs(values - before.with_format("numpy")[name][:]).max() < 1e-4


def test_reference_log_probabilities_are_the_models_own(make_trainer: Any, causal_lm_dir: Path) -> None:
    trainer = make_trainer()
    by_id = dict(zip(row_names(trainer), trainer.train_dataset["ref_logps"], strict=True))
    dataset = make_dataset()
    for response_id, logps in zip(
        dataset["response_id"], independent_log_probabilities(causal_lm_dir, dataset), strict=True
    ):
        assert by_id[response_id] == pytest.approx(sum(logps), abs=1e-3)


def test_reference_of_an_adapter(make_trainer: Any, causal_lm_dir: Path, tmp_path: Path) -> None:
    """initial: the base model; round: the adapter as loaded; a named model: that model."""
    from safetensors.torch import save_file
    from tiny_models import make_causal_lm

    plain = make_trainer(peft_config=lora_config(), reference="initial")
    base = make_trainer()
    assert plain.train_dataset["ref_logps"][:] == base.train_dataset["ref_logps"][:]

    adapter = tmp_path / "adapter"
    plain.model.save_pretrained(adapter)
    loaded = make_trainer(peft_config=lora_config(), reference="round", initial_adapter=str(adapter), max_steps=1)
    loaded.train()
    assert loaded.train_dataset["ref_logps"][:] != base.train_dataset["ref_logps"][:]
    assert logged(loaded, "rewards/chosen")[0] == pytest.approx(0, abs=1e-6)  # policy = reference at the first step

    other = make_causal_lm(tmp_path / "other", seed=5)
    named = make_trainer(peft_config=lora_config(), reference_model=str(other))
    direct = make_trainer(model=other)
    assert named.train_dataset["ref_logps"][:] == direct.train_dataset["ref_logps"][:]

    save_file({"base_model.model.elsewhere": plain.model.get_input_embeddings().weight}, tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").rename(adapter / "adapter_model.safetensors")
    with pytest.raises(UserError, match="does not fit this model"):
        make_trainer(peft_config=lora_config(), initial_adapter=str(adapter))
    with pytest.raises(UserError, match=r"has no adapter_model\.safetensors"):
        make_trainer(peft_config=lora_config(), initial_adapter=str(causal_lm_dir))


def test_the_cache_spares_the_reference_passes(
    make_trainer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.kto.trainer import GraceKTOTrainer

    cache = {"reference_cache": str(tmp_path / "reference.npz"), "reference_key": "one"}
    first = make_trainer(**cache).train_dataset

    def refuse(*args: Any) -> None:
        raise AssertionError("computed again")

    with monkeypatch.context() as patch:
        patch.setattr(GraceKTOTrainer, "_compute_reference", refuse)
        second = make_trainer(**cache).train_dataset
        with pytest.raises(AssertionError, match="computed again"):
            make_trainer(**(cache | {"reference_key": "two"}))
    assert first["ref_logps"][:] == second["ref_logps"][:]
    assert first["ref_KL_logps"][:] == second["ref_KL_logps"][:]


def sampled_rows(model: Path, folder: Path, off: float = 0.0) -> tuple[Any, Any]:
    """Tokenized rows as the stage `sample` leaves them, with the log-probabilities that a forward pass would give.

    Every third row is told to have one token more than it has, as where a text is tokenized otherwise than sampled.

    Returns:
        The rows, and (N,) the log-probabilities by row.
    """
    frame = weights_frame()
    plain = tokenized(frame, str(model), folder)
    lengths = [len(ids) for ids in plain["completion_ids"]]
    logps = np.array([sum(row) for row in independent_log_probabilities(model, frame.to_dicts())])
    counts = [length + (row % 3 == 0) for row, length in enumerate(lengths)]
    sampled = frame.with_columns(pl.Series("logprob", logps + off), pl.Series("num_tokens", counts))
    return tokenized(sampled, str(model), folder), logps


@pytest.mark.parametrize("kl", ["matched", "mismatched"])
def test_the_samplers_log_probability_spares_the_forward_pass(
    kl: str, make_trainer: Any, causal_lm_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 32 rows 21 have the sampler's tokens; 4 of them are checked, and 11 others need a pass."""
    from training.kto.trainer import GraceKTOTrainer

    rows, logps = sampled_rows(causal_lm_dir, tmp_path)
    passes: list[tuple[int, tuple[str, ...]]] = []
    forward = GraceKTOTrainer._forward_reference

    def noted(self: Any, dataset: Any, batch_size: int, prefixes: tuple[str, ...]) -> Any:
        passes.append((len(dataset), tuple(prefixes)))
        return forward(self, dataset, batch_size, prefixes)

    monkeypatch.setattr(GraceKTOTrainer, "_forward_reference", noted)
    monkeypatch.setattr("training.kto.reference.CHECKED", 4)
    trainer = make_trainer(dataset=rows, kl=kl, reference="round", sampler_reference=True)
    assert passes == [(4, ("",)), (11, ("",)), *([(32, ("KL_",))] if kl == "mismatched" else [])]
    found = trainer.train_dataset
    np.testing.assert_allclose(found["ref_logps"][:], logps[found["row"][:]], atol=1e-4)
    passes.clear()
    plain = make_trainer(dataset=rows, kl=kl, reference="round").train_dataset
    np.testing.assert_allclose(found["ref_logps"][:], plain["ref_logps"][:], atol=1e-4)
    assert len(passes) == 1


def test_a_sampler_that_disagrees_is_told_and_not_taken(
    make_trainer: Any, causal_lm_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At β = 0.05 a difference of 0.2 nats is the most."""
    for off, taken in ((0.15, True), (0.25, False)):
        rows, logps = sampled_rows(causal_lm_dir, tmp_path, off)
        caplog.clear()
        with caplog.at_level("INFO", "training.kto.reference"):
            found = make_trainer(dataset=rows, kl="none", reference="round", sampler_reference=True).train_dataset
        truth = logps[found["row"][:]]
        same = np.isclose(found["ref_logps"][:], truth, atol=1e-4)
        assert same.all() != taken
        (line,) = (record.getMessage() for record in caplog.records)
        assert f"within {off:.2g} nats of a forward pass" in line
        assert ("taken for 21 of 32 rows" in line) == taken and ("all 32 rows get a forward pass" in line) != taken
