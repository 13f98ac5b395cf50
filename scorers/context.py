"""How many tokens a language model takes at once, and how a window above its own is reached (GRACE-KTO, §3.6).

A model with rotary position embeddings (RoPE, Su et al., 2021) turns each pair i of the d rotated dimensions of a head
by the angle position · θ^(−2i/d). Its window grows from L to s·L tokens by other angles:

- yarn (Peng et al., 2024): pairs that turn less than once within L tokens are slowed down by s, those that turn more
  than 32 times stay, those between are interpolated; and what enters the attention is scaled by 0.1·ln s + 1.
- dynamic (NTK-aware scaling, emozilla): the base θ becomes θ·(s² − s + 1)^(d/(d−2)), as transformers and vLLM have it
  for a text that fills the window. transformers applies the formula anew as a text grows, so that new keys turn by
  other angles than those in the cache; vLLM applies it once, for the whole window. So does this module: all engines
  agree, and a text's probability does not depend on how it was read.
- extrapolation: the angles stay and positions run on beyond L. This is what the others have to beat (table 3).

Both yarn and dynamic change a model for short texts too. Within its own window a model therefore stays as it is,
whatever the method.
"""

from typing import Any, Literal, NamedTuple

from scorers.errors import UserError, did_you_mean
from scorers.model_loading import window_in

Method = Literal["none", "dynamic", "yarn", "extrapolation"]
METHODS: tuple[Method, ...] = ("none", "dynamic", "yarn", "extrapolation")


class Stretched(NamedTuple):
    """A window, and how a model gets there.

    Attributes:
        window: tokens that the model may take at once.
        entries: entries of the model's configuration to replace before it is made; empty within its own window.
    """

    window: int
    entries: dict[str, Any]


def own_window(config: Any) -> int | None:
    """Return the tokens that a model's configuration allows without any change; None where it states no number.

    They are `max_position_embeddings`, or what YaRN in the configuration itself reaches, as published models have it.
    """
    stated, rope = window_in(config), _rope(config)
    if stated is None or rope.get("rope_type") != "yarn" or not rope.get("factor"):
        return stated
    return max(stated, int(rope["factor"] * rope.get("original_max_position_embeddings", stated)))


def stretch(model: str, config: Any, method: str, window: int | None, setting: str) -> Stretched:
    """Return the window that a model is given, and the entries of its configuration that bring it there.

    Args:
        model: the model, as the user named it.
        config: its configuration, of transformers.
        method: one of `METHODS`: how a window above the model's own is reached.
        window: tokens; None for `max_position_embeddings`.
        setting: path of the section that says method and window, for messages.

    Raises:
        UserError: an unknown method; a method without a window; a window below 2, unknown, or above what the model's
            rope settings allow with this method.
    """
    if method not in METHODS:
        raise UserError(
            f"{setting}.method {method!r} is unknown{did_you_mean(method, METHODS)}; allowed are {', '.join(METHODS)}"
        )
    if window is None:
        return Stretched(_stated(model, config, method, setting), {})
    if window < 2:
        raise UserError(f"{setting}.window is {window}; set it to at least 2 tokens, or leave it out")
    own, stated = own_window(config), window_in(config)
    if own is not None and stated is not None and window <= own:
        # A configuration that reaches further by YaRN of its own often still states the window before that.
        return Stretched(window, {} if window <= stated else {"max_position_embeddings": window})
    if method == "none":
        if own is None:
            return Stretched(window, {})
        raise UserError(
            f"{setting}.window is {window}, and the rope settings of model {model} allow {own} tokens; set it to at "
            f"most {own}, or {setting}.method to yarn or dynamic"
        )
    fault = _fault(config)
    if own is None or fault is not None:
        way_out = "" if own is None else f" and {setting}.window to at most {own}"
        raise UserError(
            f"{setting}.method {method} cannot bring model {model} to {window} tokens: "
            f"{fault or 'its configuration states no window'}; set {setting}.method to none{way_out}, or choose "
            "another model"
        )
    return Stretched(window, _entries(config, method, window, own))


def _stated(model: str, config: Any, method: str, setting: str) -> int:
    """Return the window that a configuration states."""
    stated = window_in(config)
    if method != "none":
        raise UserError(f"{setting}.method {method} needs {setting}.window, the tokens to reach, such as 32768")
    if stated is None:
        raise UserError(
            f"model {model} ({config.model_type}): its configuration states no max_position_embeddings; set "
            f"{setting}.window, in tokens"
        )
    return stated


def _rope(config: Any) -> dict[str, Any]:
    """Return the rope settings of a configuration; empty for a model without any."""
    return getattr(config.get_text_config(), "rope_parameters", None) or {}


def _fault(config: Any) -> str | None:
    """Say why other rope settings cannot take the place of a model's own; None for a model with plain RoPE."""
    rope = _rope(config)
    if not rope or getattr(config, "alibi", False):
        return f"{config.model_type} has no rotary positions"
    if config.get_text_config() is not config:
        return f"{config.model_type} has its rope settings in a part of its configuration"
    if "rope_theta" not in rope:
        return f"its rope settings differ by layer ({', '.join(rope)})"
    found = rope.get("rope_type", "default")
    return None if found == "default" else f"its rope settings are scaled already ({found})"


def _entries(config: Any, method: str, window: int, own: int) -> dict[str, Any]:
    """Return the entries of a model with plain RoPE."""
    rope, factor = _rope(config), window / own
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    entries: dict[str, Any] = {"max_position_embeddings": window}
    # transformers' YaRN cannot do without the number, which some configurations leave to be computed.
    if getattr(config, "head_dim", dim) is None:
        entries["head_dim"] = dim
    # All of the model's own entries are repeated: of those left out, both libraries take their own default.
    if method == "yarn":
        yarn = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": own}
        return {**entries, "rope_parameters": {**rope, **yarn}}
    if method == "dynamic":
        rotated = int(dim * rope.get("partial_rotary_factor", 1.0))
        theta = rope["rope_theta"] * (factor**2 - factor + 1) ** (rotated / (rotated - 2))
        return {**entries, "rope_parameters": {**rope, "rope_theta": theta}}
    return entries
