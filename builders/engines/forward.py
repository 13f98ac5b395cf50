"""Forward passes of a transformers causal LM for decoding: prefill of prompts, and steps of one token per row.

The network is transformers' own. Two things around it are chosen here. Where every layer attends to the whole past, the
additive mask is made once per step instead of by the model's mask code. And one-token queries of grouped-query
attention (Ainslie et al., 2023) read the cached keys in place instead of repeating them for every head of a group.
"""

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

    from builders.engines.kv_cache import WindowCache

GROUPED = "grouped_sdpa"
"""Name under which the attention function below is registered with transformers."""


def grouped_attention(
    module: Any,
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    attention_mask: "torch.Tensor | None",
    **kwargs: Any,
) -> "tuple[torch.Tensor, None]":
    """Attend as transformers' `sdpa` does, without repeating keys and values for the heads of a group.

    For a one-token query the heads that share a key head are passed as if they were its query positions. Longer
    queries, and masks that differ between heads, go to transformers' own function.

    Args:
        module: the attention layer.
        query: (rows, heads, positions, dim).
        key: (rows, key heads, columns, dim).
        value: (rows, key heads, columns, dim).
        attention_mask: (rows, 1 or heads, positions, columns), boolean or additive.
        kwargs: what transformers hands to every attention function, such as `scaling`.

    Returns:
        (rows, positions, heads, dim), and None in place of attention weights.
    """
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    rows, heads, positions, dim = query.shape
    shared = attention_mask is not None and attention_mask.shape[1] == 1
    if positions != 1 or not shared or kwargs.get("position_bias") is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)  # type: ignore[no-any-return]
    # The mask's one position is broadcast over the heads of a group: all of them see the same columns.
    grouped = query.view(rows, key.shape[1], heads // key.shape[1], dim)  # (rows, key heads, group, dim)
    output = torch.nn.functional.scaled_dot_product_attention(
        grouped, key, value, attn_mask=attention_mask, dropout_p=0.0, scale=kwargs.get("scaling")
    )
    return output.reshape(rows, 1, heads, value.shape[-1]), None


def use_grouped_attention(model: Any) -> None:
    """Switch a model from transformers' `sdpa` attention to `grouped_attention`; others stay as they are.

    A model whose scores have a soft cap comes with `eager` attention (`attention_for`) and keeps it.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    if model.config._attn_implementation != "sdpa":
        return
    AttentionInterface.register(GROUPED, grouped_attention)
    # Without a mask function of the same name transformers would make no mask at all.
    AttentionMaskInterface.register(GROUPED, sdpa_mask)
    model.set_attn_implementation(GROUPED)


class Forward:
    """The two forward passes of decoding with one model: `prefill` and `step`."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.device = model.device
        config = model.config.get_text_config()
        accepted = inspect.signature(model.forward).parameters
        self.takes_positions = "position_ids" in accepted
        # Only the last position's logits: those of a whole prompt would fill gigabytes.
        self.options = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        # One ready-made mask serves all layers only where each sees the whole past and positions come by RoPE. Other
        # models make their own masks (sliding windows, ALiBi) from the padding mask.
        whole_past = set(getattr(config, "layer_types", None) or ("full_attention",)) == {"full_attention"}
        bounded = getattr(config, "sliding_window", None) or getattr(config, "attention_chunk_size", None)
        rope = getattr(config, "rope_parameters", None)
        implementation = model.config._attn_implementation
        self.ready_mask = bool(
            whole_past
            and not bounded
            and rope
            and self.takes_positions
            and implementation in ("sdpa", "eager", GROUPED)
        )

    def prefill(self, prompts: Sequence[Sequence[int]]) -> "tuple[torch.Tensor, Any]":
        """Run whole prompts through the model.

        Returns:
            Logits after each prompt (prompts, vocabulary), and the left-padded cache of all prompt tokens.
        """
        import torch
        from transformers import DynamicCache

        longest = max(len(prompt) for prompt in prompts)
        ids = torch.zeros(len(prompts), longest, dtype=torch.long)  # (prompts, tokens)
        mask = torch.zeros(len(prompts), longest, dtype=torch.long)  # 1 on tokens, 0 on padding
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        # Positions count from each prompt's own first token; those of the padding do not matter.
        positions = (mask.cumsum(dim=-1) - 1).clamp_(min=0)
        # Made without the model's configuration, the cache keeps the whole past in every layer, sliding ones too.
        return self._run(ids, mask, positions, DynamicCache())

    def step(self, tokens: "torch.Tensor", starts: npt.NDArray[np.int64], cache: "WindowCache") -> "torch.Tensor":
        """Run one more token per row through the model; its keys and values go into the column at the cache's cursor.

        Args:
            tokens: (rows,) newest token of each row.
            starts: (rows,) cache columns where the rows begin.
            cache: the cache of the live rows.

        Returns:
            Logits (rows, vocabulary).
        """
        import torch

        window = cache.window
        columns = np.arange(window.low, window.cursor + 1)  # (columns,) of the cache that take part
        positions = torch.from_numpy(window.cursor - starts).unsqueeze(-1)  # (rows, 1)
        if self.ready_mask:
            # The lowest finite number, as in transformers' own masks: softmax over -inf alone would give NaN.
            lowest = max(torch.finfo(self.model.dtype).min, torch.finfo(torch.float32).min)
            hidden = (columns < starts[:, None]).astype(np.float32) * np.float32(lowest)
            mask = torch.from_numpy(hidden)[:, None, None].to(self.model.dtype)  # (rows, 1, 1, columns), additive
        else:
            mask = torch.from_numpy((columns >= starts[:, None]).astype(np.int64))  # (rows, columns), 1 on tokens
        return self._run(tokens.unsqueeze(-1), mask, positions, cache)[0]

    def _run(
        self, ids: "torch.Tensor", mask: "torch.Tensor", positions: "torch.Tensor", cache: Any
    ) -> "tuple[torch.Tensor, Any]":
        """Return the last position's logits (rows, vocabulary) and the cache."""
        place = {"position_ids": positions.to(self.device)} if self.takes_positions else {}
        output = self.model(
            input_ids=ids.to(self.device), attention_mask=mask.to(self.device), past_key_values=cache, use_cache=True,
            **place, **self.options,
        )  # fmt: skip
        return output.logits[:, -1], output.past_key_values
