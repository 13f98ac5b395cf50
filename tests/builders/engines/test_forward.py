"""Real architectures at real lengths: the engine's log-probabilities against transformers' plain forward pass."""

from pathlib import Path
from typing import Any

import pytest
from tiny_models import CORPUS, make_tokenizer
from tolerances import log_likelihood

from builders.engines import Message, SamplingSettings, load_engine
from builders.engines.transformers_engine import TransformersEngine
from scorers.errors import UserError

pytestmark = pytest.mark.slow

NEW_TOKENS = 64
WORDS = " ".join(CORPUS).split()
# About 500, 480, 500 and 20 tokens: two rows share a prompt, another is padded, the last one by most of the window.
PROMPTS: list[list[Message]] = [
    [{"role": "user", "content": " ".join((WORDS * 9)[:count])}] for count in (255, 240, 255, 2)
]

SHAPE = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48, "head_dim": 8}
GEMMA = {**SHAPE, "sliding_window": 64, "query_pre_attn_scalar": 8}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": SHAPE,
    "qwen3": SHAPE,
    "gemma2": {**GEMMA, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0},
    "gemma3_text": {**GEMMA, "layer_types": ["sliding_attention", "full_attention"]},
    "mistral": {**SHAPE, "sliding_window": 64},
    "phi": {"num_attention_heads": 4, "intermediate_size": 48},
    "phi3": {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48, "sliding_window": 64},
    "gpt2": {"n_head": 4},
    "bloom": {"n_head": 4},
}


def save_model(family: str, folder: Path, **shape: Any) -> Path:
    """Save a random two-layer model of a family with a tokenizer; its weights make attention and answers peaked."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    make_tokenizer(folder)
    window = {} if family == "bloom" else {"max_position_embeddings": 1024}
    config = AutoConfig.for_model(
        family, vocab_size=512, hidden_size=32, num_hidden_layers=2, pad_token_id=0, bos_token_id=None, eos_token_id=2,
        **window, **shape,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3)
    model.save_pretrained(folder)
    return folder


def logprob_by_forward(folder: Path, ids: list[int], answer: list[int]) -> float:
    """Sum of the answer's log-probabilities from one forward pass with attention in plain Python."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32", attn_implementation="eager").eval()
    with torch.no_grad():
        scores = model(torch.tensor([ids + answer])).logits[0].double().log_softmax(-1)
    return float(sum(scores[len(ids) - 1 + i, token] for i, token in enumerate(answer)))


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probabilities_of_long_prompts(tmp_path: Path, family: str) -> None:
    folder = save_model(family, tmp_path, **FAMILIES[family])
    window = 1024 if family == "bloom" else None
    engine = TransformersEngine(str(folder), device="cpu", batch_size=3, context_window=window)
    completions = engine.generate(PROMPTS, range(4), SamplingSettings(NEW_TOKENS, temperature=0.9, top_p=0.95))
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        ids = engine.tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
        assert completion.token_ids is not None
        assert len(ids) > 450 or len(prompt[0]["content"]) < 20
        expected = logprob_by_forward(folder, ids, completion.token_ids)
        assert completion.logprob == pytest.approx(expected, abs=log_likelihood(NEW_TOKENS))


RECURRENT = {
    "mamba": {"state_size": 4},
    "recurrent_gemma": {"num_attention_heads": 4, "intermediate_size": 96, "lru_width": 32},
    "rwkv": {"attention_hidden_size": 32},
    "jamba": {**SHAPE, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 4, "num_experts": 2},
}


@pytest.mark.parametrize("family", RECURRENT)
@pytest.mark.parametrize("window", [None, 64])
def test_recurrent_models_are_refused(tmp_path: Path, family: str, window: int | None) -> None:
    from transformers import AutoConfig

    make_tokenizer(tmp_path)
    shape: dict[str, Any] = RECURRENT[family]
    AutoConfig.for_model(
        family, vocab_size=512, hidden_size=32, num_hidden_layers=2, architectures=["X"], **shape
    ).save_pretrained(tmp_path)
    with pytest.raises(UserError) as caught:
        load_engine("transformers", str(tmp_path), device="cpu", context_window=window)
    found = {"mamba": "linear_attention", "jamba": "linear_attention"}.get(family, "a recurrence")
    assert str(caught.value) == (
        f"model {tmp_path}: {family} has {found}, the engine transformers takes decoders of attention layers alone; "
        "use the engine vllm or another model"
    )


def test_a_model_without_a_stated_window_needs_one(tmp_path: Path) -> None:
    folder = save_model("bloom", tmp_path, n_head=4)
    with pytest.raises(
        UserError, match=r"states no max_position_embeddings; set engines.policy.context.window, in tok"
    ):
        load_engine("transformers", str(folder), device="cpu")
    assert load_engine("transformers", str(folder), device="cpu", context_window=77).context_window == 77
