"""Memory of a training step: what autograd keeps, counted by hooks on a real model."""

from typing import Any

import pytest

from builders.settings.kto import TrainSettings
from training.costs.shapes import Found, shape_of
from training.costs.training import Step, head_bytes, row_work, training_memory
from training.memory import Zero, count_in

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
ROWS, TOKENS = 2, 96


def kept_by(model: Any) -> int:
    """Bytes of the distinct tensors that autograd keeps of one forward pass, weights left out."""
    import torch

    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.ones(ROWS, TOKENS, dtype=torch.long)
    mask = torch.ones_like(ids)
    mask[0, -3:] = 0  # padded, as rows of a batch are
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        hidden = model(ids, attention_mask=mask, use_cache=False).last_hidden_state
    del hidden
    return sum(kept.values())


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("family", ["qwen2", "llama", "mistral"])
def test_activations_are_what_autograd_keeps(family: str, method: Any) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    torch.manual_seed(0)
    config = CONFIG_MAPPING[family](**SHAPE)
    settings = TrainSettings(method=method, lora_rank=8)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").train()
    if method == "lora":
        model = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
        model = model.base_model.model
    shape, sizes = shape_of(family, Found(config, "here")), count_in(config, settings, family)
    step = Step(ROWS, TOKENS, TOKENS, accumulates=False, device="cpu", bf16=False)
    counted = training_memory(shape, sizes, settings, Zero(), 1, step)["activations"].value
    assert counted == pytest.approx(kept_by(model.model), rel=0.1)


def test_gradient_checkpointing_keeps_one_layer_and_the_inputs_of_the_others() -> None:
    from transformers import Qwen2Config

    config = Qwen2Config(**SHAPE)
    shape = shape_of("qwen2", Found(config, "here"))
    found = {}
    for on in (False, True):
        settings = TrainSettings(method="full", gradient_checkpointing=on)
        step = Step(ROWS, TOKENS, TOKENS, accumulates=False, device="cpu", bf16=False)
        parts = training_memory(shape, count_in(config, settings, "m"), settings, Zero(), 1, step)
        work = row_work(shape, count_in(config, settings, "m"), settings, step, Zero())
        found[on] = (parts["activations"].value, work.flops)
    ends = ROWS * TOKENS * 96 * 16
    layer = (found[False][0] - ends) / 4
    assert found[True][0] == pytest.approx(ends + layer + 4 * ROWS * TOKENS * 96 * 4)
    assert found[True][1] > 1.2 * found[False][1]


def test_logits_are_held_where_they_are_few_and_tiled_elsewhere() -> None:
    from transformers import Qwen2Config

    shape = shape_of("qwen2", Found(Qwen2Config(**SHAPE), "here"))
    settings = TrainSettings(method="lora")
    few = Step(ROWS, TOKENS, 50, accumulates=False, device="cpu", bf16=False)
    assert head_bytes(shape, settings, few).value == 3 * 4 * ROWS * 50 * 64
    wide = shape_of("qwen2", Found(Qwen2Config(**SHAPE | {"vocab_size": 151_936}), "here"))
    gpu = Step(1, 8_192, 8_000, accumulates=False, device="cuda", bf16=True)
    assert head_bytes(wide, settings, gpu).value == 4_096 * 32_768 * 2 + 8 * 8_000 * 96
