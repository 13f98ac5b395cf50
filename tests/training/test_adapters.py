"""Adapters from round to round: trained on without a word of PEFT about the name of their base model."""

import json
import warnings
from pathlib import Path

import polars as pl

from builders.core.prompting import answer, chat
from builders.settings.kto import TrainSettings
from training.kto.rounds import train_round


def test_an_adapter_that_names_its_base_by_id_is_trained_on(tmp_path: Path, causal_lm_dir: Path) -> None:
    """PEFT warned that the adapter's base was renamed, from its id to the folder that it was loaded from."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    adapter = tmp_path / "adapter"
    model = AutoModelForCausalLM.from_pretrained(causal_lm_dir)
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")).save_pretrained(adapter)
    config = adapter / "adapter_config.json"
    named = {"base_model_name_or_path": "somebody/base", "revision": "0" * 40}
    config.write_text(json.dumps(json.loads(config.read_text()) | named))
    rows = [
        {"prompt": chat(f"River {n}?"), "completion": answer("Trade."), "label": n == 0, "weight": 1.0}
        for n in range(2)
    ]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train_round(
            policy=adapter,
            base_model=causal_lm_dir,
            output_dir=tmp_path / "policy",
            run_dir=tmp_path / "run",
            dataset=pl.DataFrame(rows),
            settings=TrainSettings(method="lora", lora_rank=2, batch_size=2, device_batch_size=2),
        )
    assert [str(warning.message) for warning in caught if "renamed" in str(warning.message)] == []
    assert (tmp_path / "policy" / "adapter_model.safetensors").is_file()
