"""Rows of a weights dataset in memory, the KTO trainer on them, and their log-probabilities computed another way."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

WORDS = ["river", "trade", "harbour", "grew", "prices", "fell", "decade", "report", "background", "results"]


def weights_frame(queries: Any = 8, responses: Any = 4, unit: Any = True, seed: int = 0, length: Any = 12) -> Any:
    generator = np.random.default_rng(seed)
    rows = []
    for q in range(queries):
        for j in range(responses):
            label = bool((q + j) % 2)
            size = 1.0 if unit else float(generator.uniform(0.1, 2))
            text = " ".join(generator.choice(WORDS, length + 3 * j))
            rows.append(
                {
                    "query_id": f"q{q}",
                    "response_id": f"q{q}-{j}",
                    "prompt": [{"role": "user", "content": f"Please write report {q}"}],
                    "completion": [{"role": "assistant", "content": text}],
                    "label": label,
                    "weight": size if label else -size,
                }
            )
    return pl.DataFrame(rows)


def make_dataset(frame: Any = None, **kwargs: Any) -> Any:
    from datasets import Dataset

    return Dataset.from_polars(weights_frame(**kwargs) if frame is None else frame)


def lora_config(dropout: Any = 0.0) -> Any:
    from peft import LoraConfig

    # With both factors random the adapter is not zero, so policy and reference differ from the first step.
    return LoraConfig(
        r=4, target_modules="all-linear", init_lora_weights=False, lora_dropout=dropout, task_type="CAUSAL_LM"
    )


COMMON = {
    "learning_rate": 1e-3,
    "bf16": False,
    "use_cpu": True,
    "report_to": "none",
    "disable_tqdm": True,
    "logging_steps": 1,
    "save_strategy": "no",
    "beta": 0.05,
    "gradient_checkpointing": False,
    "dataloader_pin_memory": False,
}


def trainer_on(
    causal_lm_dir: Path,
    folder: Path,
    dataset: Any = None,
    device_batch: Any = 4,
    accumulation: Any = 1,
    peft_config: Any = None,
    model: Any = None,
    **options: Any,
) -> Any:
    """A trainer on a model's folder; `options` are those of `GraceKTOConfig`."""
    from training.kto.trainer import GraceKTOConfig, GraceKTOTrainer

    settings = (
        {"mu": 0.0, "learning_rate_end": options.get("learning_rate", 1e-3), "max_steps": 6, "seed": 0}
        | COMMON
        | options
    )
    config = GraceKTOConfig(
        str(folder / "ours"),
        per_device_train_batch_size=device_batch,
        gradient_accumulation_steps=accumulation,
        **settings,
    )
    rows = make_dataset() if dataset is None else dataset
    return GraceKTOTrainer(str(model or causal_lm_dir), config, rows, peft_config=peft_config)


def independent_log_probabilities(model_dir: Any, rows: Any) -> Any:
    """Per token log-probabilities of the completions, one row at a time, from the full logits."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    result = []
    for row in rows:
        prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=True)["input_ids"]
        whole = tokenizer.apply_chat_template(row["prompt"] + row["completion"], return_dict=True)["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([whole])).logits[0]
        logps = torch.log_softmax(logits.double(), -1)
        result.append([logps[t - 1, whole[t]].item() for t in range(len(prompt), len(whole))])
    return result


def row_names(trainer: Any) -> list[str]:
    """The response_id of each training row, in training order."""
    return [trainer.data_collator.name_of(row) for row in trainer.train_dataset["row"]]


def logged(trainer: Any, name: str) -> Any:
    return [entry[name] for entry in trainer.state.log_history if name in entry]
