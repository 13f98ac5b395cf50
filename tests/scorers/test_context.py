"""Windows above a model's own: angles against the formulas by hand, and what cannot be stretched."""

import math
from pathlib import Path
from typing import Any

import pytest
from tiny_models import make_causal_lm

from scorers.context import METHODS, own_window, stretch
from scorers.errors import UserError
from scorers.perplexity import Perplexity

OWN = 128
SHAPE = {
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": OWN, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
GROUPED = {**SHAPE, "num_key_value_heads": 1}
# By family: what it needs besides, and the dimensions of a head that it turns.
FAMILIES: dict[str, tuple[dict[str, Any], int]] = {
    "qwen2": (GROUPED, 32),
    "llama": ({**GROUPED, "head_dim": 16}, 16),
    "mistral": ({**GROUPED, "sliding_window": 64}, 32),
    "mixtral": ({**GROUPED, "num_local_experts": 2}, 32),  # leaves head_dim to be computed
    "gemma2": ({**GROUPED, "head_dim": 32, "sliding_window": 64, "query_pre_attn_scalar": 32}, 32),
    "phi": (SHAPE, 16),  # turns half of each head
    "gpt_neox": (SHAPE, 8),  # and a quarter
}


def config_of(family: str, **changes: Any) -> Any:
    from transformers import AutoConfig

    return AutoConfig.for_model(family, **FAMILIES[family][0], **changes)


def made(config: Any) -> Any:
    """A random model whose attention is peaked, so that angles matter."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
    return model


def logits(model: Any, tokens: int) -> Any:
    import torch

    ids = torch.arange(tokens)[None] * 37 % 95
    with torch.no_grad():
        return model(ids).logits[0]


def yarn_by_hand(theta: float, dim: int, factor: float) -> tuple[list[float], float]:
    """Angles per position and the scale of cosine and sine, as the authors of YaRN compute them.

    A pair of dimensions turns OWN / wavelength times in the model's own window. The pairs where that is 32 and 1 bound
    the ramp, rounded outwards to whole pairs.
    """
    angles = [theta ** (-2 * pair / dim) for pair in range(dim // 2)]

    def pair_that_turns(times: float) -> float:
        return dim * math.log(OWN / (times * 2 * math.pi)) / (2 * math.log(theta))

    low, high = max(math.floor(pair_that_turns(32)), 0), min(math.ceil(pair_that_turns(1)), dim - 1)
    slowed = [min(max((pair - low) / (high - low), 0.0), 1.0) for pair in range(dim // 2)]
    mixed = [angle * (1 - share) + angle / factor * share for angle, share in zip(angles, slowed, strict=True)]
    return mixed, 0.1 * math.log(factor) + 1


def dynamic_by_hand(theta: float, dim: int, factor: float) -> tuple[list[float], float]:
    base = theta * (factor * factor - (factor - 1)) ** (dim / (dim - 2))
    return [base ** (-2 * pair / dim) for pair in range(dim // 2)], 1.0


BY_HAND = {"yarn": yarn_by_hand, "dynamic": dynamic_by_hand}


def rotary(model: Any) -> Any:
    return next(module for module in model.modules() if hasattr(module, "inv_freq"))


@pytest.mark.parametrize("method", BY_HAND)
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_those_with_angles_by_hand(family: str, method: str) -> None:
    import torch

    window = 320
    plain = made(config_of(family))
    expected = made(config_of(family))
    config = config_of(family)
    found, entries = stretch("m", config, method, window, "context")
    config.update(entries)
    assert found == window == config.max_position_embeddings
    angles, scale = BY_HAND[method](plain.config.rope_parameters["rope_theta"], FAMILIES[family][1], window / OWN)
    turning = rotary(expected)
    assert turning.inv_freq.shape == (len(angles),)
    turning.inv_freq.copy_(torch.tensor(angles))
    turning.attention_scaling = scale
    got, wanted, before = logits(made(config), window), logits(expected, window), logits(plain, window)
    size = float(wanted.abs().max())
    # An angle is off by 2⁻²⁴ of it, at position 320 by 320 · 2⁻²⁴ = 2e-5 radians; the sharp attention of two layers
    # makes some ten times that of it.
    assert torch.allclose(got, wanted, rtol=0, atol=1e-3 * size)
    assert float((got - before).abs().max()) > 0.05 * size


@pytest.mark.parametrize("window", [129, 200, 512])
def test_dynamic_is_that_of_transformers_for_a_text_that_fills_the_window(window: int) -> None:
    import torch
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = config_of("qwen2")
    dynamic = config_of(
        "qwen2", rope_parameters={**config.rope_parameters, "rope_type": "dynamic", "factor": window / OWN}
    )
    theirs, scale = ROPE_INIT_FUNCTIONS["dynamic"](dynamic, torch.device("cpu"), seq_len=window)
    config.update(stretch("m", config, "dynamic", window, "context").entries)
    assert torch.allclose(rotary(made(config)).inv_freq, theirs, rtol=1e-5) and scale == 1.0


def test_extrapolation_lets_positions_run_on() -> None:
    import torch

    config = config_of("llama")
    entries = stretch("m", config, "extrapolation", 320, "context").entries
    assert entries == {"max_position_embeddings": 320}
    config.update(entries)
    assert torch.equal(logits(made(config), 320), logits(made(config_of("llama")), 320))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("window", [2, 100, OWN])
def test_within_its_own_window_a_model_stays_as_it_is(method: str, window: int) -> None:
    assert stretch("m", config_of("qwen2"), method, window, "context") == (window, {})


def test_without_a_window_it_is_the_models() -> None:
    assert stretch("m", config_of("qwen2"), "none", None, "context") == (OWN, {})


def test_the_entries_keep_the_models_own() -> None:
    config = config_of(
        "phi", rope_parameters={"rope_type": "default", "rope_theta": 77.0, "partial_rotary_factor": 0.25}
    )
    assert stretch("m", config, "yarn", 192, "context").entries == {
        "max_position_embeddings": 192,
        "rope_parameters": {
            "rope_type": "yarn", "rope_theta": 77.0, "partial_rotary_factor": 0.25, "factor": 1.5,
            "original_max_position_embeddings": OWN,
        },
    }  # fmt: skip


def test_yarn_of_the_configuration_itself_reaches_as_far_as_it_says() -> None:
    """As the models of Qwen2.5 are stretched by hand: the stated window stays that of before."""
    rope = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": OWN}
    config = config_of("qwen2", rope_parameters=rope)
    assert own_window(config) == 512
    assert stretch("m", config, "none", None, "context") == (OWN, {})
    assert stretch("m", config, "none", 512, "context") == (512, {"max_position_embeddings": 512})
    with pytest.raises(UserError, match=r"the rope settings of model m allow 512 tokens; set it to at most 512"):
        stretch("m", config, "none", 513, "context")


SCALED = {
    "rope_type": "llama3", "rope_theta": 1e4, "factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
CANNOT = "score.context.method yarn cannot bring model m to 1024 tokens: "


@pytest.mark.parametrize(
    ("family", "changes", "method", "window", "message"),
    [
        (
            "qwen2", {}, "none", 1024,
            "score.context.window is 1024, and the rope settings of model m allow 128 tokens; set it to at most 128, "
            "or score.context.method to yarn or dynamic",
        ),
        (
            "llama", {"rope_parameters": SCALED}, "yarn", 1024,
            f"{CANNOT}its rope settings are scaled already (llama3); set score.context.method to none and "
            "score.context.window to at most 128, or choose another model",
        ),
        ("gemma3_text", {}, "yarn", 1024, f"{CANNOT}its rope settings differ by layer (sliding_attention, full_"),
        ("gpt2", {}, "yarn", 1024, f"{CANNOT}gpt2 has no rotary positions; set score.context.method to none"),
        ("falcon", {"alibi": True}, "yarn", 1024, f"{CANNOT}falcon has no rotary positions"),
        (
            "bloom", {}, "yarn", 1024,
            f"{CANNOT}bloom has no rotary positions; set score.context.method to none, or choose another model",
        ),
        ("qwen2", {}, "yarn", None, "score.context.method yarn needs score.context.window, the tokens"),
        ("qwen2", {}, "yarm", 64, "score.context.method 'yarm' is unknown, did you mean yarn?; allowed are "),
        ("qwen2", {}, "none", 1, "score.context.window is 1; set it to at least 2 tokens, or leave it out"),
        (
            "bloom", {}, "none", None,
            "model m (bloom): its configuration states no max_position_embeddings; set score.context.window, in",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_done(
    family: str, changes: dict[str, Any], method: str, window: int | None, message: str
) -> None:
    from transformers import AutoConfig

    config = AutoConfig.for_model(family, **({} if family == "bloom" else {"max_position_embeddings": OWN}), **changes)
    with pytest.raises(UserError) as error:
        stretch("m", config, method, window, "score.context")
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_rope_settings_in_a_part_of_the_configuration() -> None:
    from transformers import AutoConfig

    config = AutoConfig.for_model("qwen3_5")
    with pytest.raises(UserError, match="qwen3_5 has its rope settings in a part of its configuration"):
        stretch("m", config, "yarn", 2 * (own_window(config) or 0), "context")


def test_perplexity_reads_in_the_window(tmp_path: Path) -> None:
    """One text of some 500 tokens: in windows of 128 by halves, or at once in one of 512 by each method."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder = make_causal_lm(tmp_path, window=OWN)
    text = "The harbour grew within a decade, and trade doubled; prices fell by a third. " * 20
    ids = torch.tensor([AutoTokenizer.from_pretrained(folder)(text)["input_ids"]])
    assert 400 < ids.shape[1] <= 512
    found = {"short": Perplexity(folder).score([text])[0]}
    for method in ("dynamic", "yarn", "extrapolation"):
        scorer = Perplexity(folder, window=512, method=method)
        assert scorer.window == 512
        found[method] = scorer.score([text])[0]
        config = AutoConfig.from_pretrained(folder)
        config.update(stretch("m", config, method, 512, "context").entries)
        model = AutoModelForCausalLM.from_pretrained(folder, config=config, attn_implementation="eager")
        with torch.no_grad():
            mean = model(ids, labels=ids).loss
        assert found[method] == pytest.approx(math.exp(mean), rel=1e-4)
    values = [value for value in found.values() if value is not None]
    assert len({round(value, 2) for value in values}) == 4
