"""What a model's configuration says of its attention, its window and its layers."""

from typing import Any

import pytest

from scorers.errors import UserError
from scorers.model_loading import attention_for, check_attention_only, window_in


def config_of(family: str, **values: Any) -> Any:
    from transformers import AutoConfig

    return AutoConfig.for_model(family, **values)


@pytest.mark.parametrize("wanted", [None, "sdpa", "flash_attention_2", "eager"])
def test_a_soft_cap_needs_eager_attention(wanted: str | None) -> None:
    assert attention_for(config_of("gemma2"), wanted) == "eager"
    assert attention_for(config_of("gemma2", attn_logit_softcapping=None), wanted) == wanted
    # The text part of a model that also reads pictures.
    assert attention_for(config_of("gemma3"), wanted) == wanted
    assert attention_for(config_of("gemma3", text_config={"attn_logit_softcapping": 50.0}), wanted) == "eager"
    assert attention_for(config_of("llama"), wanted) == attention_for(config_of("gpt2"), wanted) == wanted


def test_a_window_has_several_names_or_none() -> None:
    assert window_in(config_of("llama", max_position_embeddings=77)) == 77
    assert window_in(config_of("gpt2", n_positions=78)) == 78
    assert window_in(config_of("gemma3", text_config={"max_position_embeddings": 79})) == 79
    assert window_in(config_of("mamba")) is window_in(config_of("bloom")) is None


@pytest.mark.parametrize(
    ("family", "found"),
    [
        ("mamba", "linear_attention"),
        ("qwen3_next", "linear_attention"),
        ("recurrent_gemma", "a recurrence"),
        ("rwkv", "a recurrence"),
        ("t5", "an encoder and a decoder"),
    ],
)
def test_other_models_than_decoders_of_attention_layers_are_refused(family: str, found: str) -> None:
    with pytest.raises(UserError) as caught:
        check_attention_only(config_of(family), "m", "training", "use another model")
    expected = f"model m: {family} has {found}, training takes decoders of attention layers alone; use another model"
    assert str(caught.value) == expected


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3", "mistral", "qwen3", "gpt2", "bloom", "gpt_oss"])
def test_decoders_of_attention_layers_are_taken(family: str) -> None:
    check_attention_only(config_of(family), "m", "training", "use another model")
