"""4-bit QLoRA (NF4, double quantisation) on the CPU: it trains, resumes to the same bytes, continues its adapter."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from builders.settings.kto import TrainSettings
from training.kto.rounds import train_round

pytestmark = pytest.mark.slow

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


def train(folder: Path, policy: Any, number: Any, callbacks: Any = (), options: Any = SETTINGS) -> Any:
    return train_round(
        policy=policy,
        output_dir=folder / f"policy-{number}",
        run_dir=folder / f"run-{number}",
        dataset=weights_frame(),
        settings=options,
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
            if state.global_step == 1:
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


def moved(folder: Path, model: Path, method: Any) -> Any:
    """Shares of the entries of lora_A and of lora_B that 24 steps at the paper's learning rate have changed."""
    import torch
    from datasets import Dataset

    from training.kto.assembly import RoundModels, RoundPlan, build_trainer

    options = SETTINGS.model_copy(update={"method": method, "learning_rate": 5e-6, "learning_rate_end": 5e-6})
    plan = RoundPlan(folder, 0, 24, 24, "fingerprint", {})
    trainer = build_trainer(RoundModels(str(model)), Dataset.from_polars(weights_frame()), options, plan, ())
    before = {name: value.detach().clone() for name, value in trained(trainer)}
    assert {value.dtype for value in before.values()} == {torch.float32}
    trainer.train()
    shares = []
    for factor in ("lora_A", "lora_B"):
        changed = [(value != before[name]).flatten() for name, value in trained(trainer) if factor in name]
        shares.append(torch.cat(changed).double().mean().item())
    return shares


def trained(trainer: Any) -> Any:
    return [(name, value) for name, value in trainer.model.named_parameters() if value.requires_grad]


def test_both_factors_move_as_in_lora(causal_lm_dir: Path, tmp_path: Path) -> None:
    lora = moved(tmp_path / "lora", causal_lm_dir, "lora")
    qlora = moved(tmp_path / "qlora", causal_lm_dir, "qlora")
    assert min(lora) > 0.95
    assert qlora == pytest.approx(lora, abs=0.02)


def test_the_adapter_stays_float32_where_bf16_computes(causal_lm_dir: Path, tmp_path: Path) -> None:
    """On a CPU too; in the policy, in the checkpoint and after a resume, and the losses are those of float32."""
    import torch
    from safetensors.torch import load_file

    records = {}
    for precision in ("fp32", "bf16"):
        options = SETTINGS.model_copy(update={"precision": precision})
        for number in (1, 2):
            folder = tmp_path / precision
            policy = causal_lm_dir if number == 1 else folder / "policy-1"
            records[precision, number] = train(folder, policy, number, options=options)
            saved = [folder / f"policy-{number}", *(folder / "run").glob("checkpoint-*")]
            for path in saved:
                tensors = load_file(path / "adapter_model.safetensors").values()
                assert {value.dtype for value in tensors} == {torch.float32}
                # Not bf16 numbers in a wider type.
                assert any((value != value.bfloat16().float()).any() for value in tensors)
    for name in ("loss", "cross_entropy"):
        assert records["bf16", 2][name] == pytest.approx(records["fp32", 2][name], rel=0.05)


def test_a_given_adapter_is_not_rounded(causal_lm_dir: Path, tmp_path: Path) -> None:
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from training.kto.trainer import GraceKTOConfig, GraceKTOTrainer

    quantized = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(causal_lm_dir, quantization_config=quantized, dtype=torch.float32)
    adapted = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    before = {name: value.detach().clone() for name, value in adapted.named_parameters() if value.requires_grad}
    args = GraceKTOConfig(str(tmp_path), max_steps=1, use_cpu=True, report_to="none", dataloader_pin_memory=False)
    trainer = GraceKTOTrainer(adapted, args, Dataset.from_polars(weights_frame()))
    after = dict(trained(trainer))
    assert before.keys() == after.keys()
    assert all((value == after[name]).all() for name, value in before.items())


COLUMNS = ["row", "position", "partner", "label", "weight"]
