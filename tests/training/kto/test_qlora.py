"""4-bit QLoRA (NF4, double quantisation) on the CPU: it trains, resumes to the same bytes, continues its adapter."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from builders.settings.kto import TrainSettings
from training.kto.rounds import train_round

SETTINGS = TrainSettings(
    method="qlora",
    batch_size=6,
    device_batch_size=3,
    learning_rate=1e-3,
    learning_rate_end=1e-4,
    lora_rank=4,
    lora_alpha=8,
    save_steps=1,
    precision="fp32",
)


def weights_frame() -> Any:
    rows = []
    for q in range(4):
        for j in range(3):
            label = bool((q + j) % 2)
            rows.append(
                {
                    "prompt": [{"role": "user", "content": f"Please write report {q}"}],
                    "completion": [{"role": "assistant", "content": "the harbour grew " * (j + 1)}],
                    "label": label,
                    "weight": 1.0 if label else -0.5,
                }
            )
    return pl.DataFrame(rows)


def train(folder: Path, policy: Any, number: Any, callbacks: Any = ()) -> Any:
    return train_round(
        policy=policy,
        output_dir=folder / f"policy-{number}",
        run_dir=folder / "run",
        dataset=weights_frame(),
        settings=SETTINGS,
        round=number,
        total_rounds=2,
        callbacks=callbacks,
    )


def adapter(folder: Path) -> Any:
    from safetensors.torch import load_file

    return {name: value.float().numpy() for name, value in load_file(folder / "adapter_model.safetensors").items()}


def test_it_trains_resumes_and_continues(causal_lm_dir: Path, tmp_path: Path) -> None:
    from transformers import TrainerCallback

    class Stop(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 4:
                raise KeyboardInterrupt

    for run in ("whole", "broken"):
        train(tmp_path / run, causal_lm_dir, 1)
        if run == "broken":
            with pytest.raises(KeyboardInterrupt):
                train(tmp_path / run, tmp_path / run / "policy-1", 2, [Stop()])
        train(tmp_path / run, tmp_path / run / "policy-1", 2)
    first, second = adapter(tmp_path / "whole/policy-1"), adapter(tmp_path / "whole/policy-2")
    assert all(np.isfinite(value).all() for value in second.values())
    assert any((first[name] != second[name]).any() for name in first)
    assert any(value.any() for name, value in first.items() if "lora_B" in name)  # lora_B starts at 0
    again = adapter(tmp_path / "broken/policy-2")
    assert all((second[name] == again[name]).all() for name in second)


def test_weights_are_4_bit_and_the_reference_is_the_base(causal_lm_dir: Path, tmp_path: Path) -> None:
    import bitsandbytes
    import torch
    from datasets import Dataset

    from training.kto.assembly import RoundModels, RoundPlan, build_trainer

    plan = RoundPlan(tmp_path, 0, 2, 2, "fingerprint", {})
    rows = Dataset.from_polars(weights_frame())
    trainer = build_trainer(RoundModels(str(causal_lm_dir)), rows, SETTINGS, plan, ())
    layer = trainer.model.get_base_model().model.layers[0].mlp.up_proj
    assert isinstance(layer.base_layer, bitsandbytes.nn.Linear4bit)
    assert layer.base_layer.weight.quant_type == "nf4"
    assert layer.base_layer.weight.quant_state.nested
    before = list(trainer.train_dataset["ref_logps"])
    with torch.no_grad():
        layer.lora_B["default"].weight.fill_(1.0)
    batch_size = SETTINGS.device_batch_size
    again = trainer._compute_reference(trainer.train_dataset.select_columns(COLUMNS), batch_size)["ref_logps"]
    assert again.tolist() == before


COLUMNS = ["row", "partner", "label", "weight"]
