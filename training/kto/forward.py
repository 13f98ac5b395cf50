"""One forward pass of a policy or a reference: log-probabilities of completion tokens.

This module imports torch, so import it inside functions.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch  # noqa: TID253

from training.head import label_logps


def token_logps(model: Any, batch: dict[str, Any], prefix: str = "", *, mixed: bool) -> torch.Tensor:
    """Compute the log-probability of each completion token given the tokens before it.

    Args:
        model: a causal language model with TRL's fused head (`trl.trainer.utils.add_fused_lm_head`).
        batch: tensors of shape (B, T) from the collator: input_ids, attention_mask, completion_mask.
        prefix: "" for the rows' own completions, "KL_" for the borrowed ones.
        mixed: whether the trainer computes in another precision than the weights'.

    Returns:
        (B, T-1) in nats, at most 0; exactly 0 at prompt tokens and padding, so a plain sum is that of the completion.
    """
    ids, attended, wanted = (batch[f"{prefix}{name}"] for name in ("input_ids", "attention_mask", "completion_mask"))
    return label_logps(model, ids, attended, ids.masked_fill(wanted == 0, -100), mixed=mixed)


def evaluation_mode(model: torch.nn.Module) -> None:
    """Put a model into evaluation mode, where no dropout acts; 4-bit layers stay in training mode.

    On CPUs with AVX512-BF16, bitsandbytes repacks a 4-bit layer at its first forward pass in evaluation mode. That
    loses precision for good, and fails for layers narrower than its block of 64.
    """
    model.eval()
    if getattr(model, "is_loaded_in_4bit", False):
        from bitsandbytes.nn import Linear4bit

        for module in model.modules():
            if isinstance(module, Linear4bit):
                module.training = True


@contextlib.contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; on leaving every module is in the mode that it was in before."""
    modes = [(module, module.training) for module in model.modules()]
    evaluation_mode(model)
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def switch_off_dropout(model: torch.nn.Module) -> None:
    """Set every dropout of a model to 0 for good, except that of an adapter.

    Layers of `transformers` hold a dropout either as a module or as a plain number (such as `attention_dropout`), which
    they hand to the attention function in training mode.

    Args:
        model: a model, also a `PeftModel`, whose adapter keeps its `lora_dropout`.
    """
    for name, module in model.named_modules():
        if "lora_dropout" in name.split("."):
            continue
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for attribute, value in list(vars(module).items()):
            if "drop" in attribute and isinstance(value, float):
                setattr(module, attribute, 0.0)
