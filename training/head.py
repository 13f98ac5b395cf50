"""Log-probabilities of given tokens: the last step of a forward pass, for all trainings.

This module imports torch, so import it inside functions.
"""

from collections.abc import Sequence
from typing import Any

import torch  # noqa: TID253
from peft import PeftModel  # noqa: TID253
from transformers import PreTrainedModel  # noqa: TID253

# Largest number of logits (batch positions × vocabulary) that are held in memory at once: 64 MiB in float32.
DIRECT_LOGITS = 2**24
# What TRL's head does to logits where a configuration has one of these; `_direct` does none of it.
SCALES = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")


def label_logps(
    model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor, *, mixed: bool
) -> torch.Tensor:
    """Compute the log-probability of each labelled token given the tokens before it.

    TRL's fused head never holds all logits. On a CPU it projects every position, and in training twice, which doubles
    the time of a small model's step; where all logits are few, they are computed at the labelled positions instead.

    Args:
        model: a causal language model with TRL's fused head (`trl.trainer.utils.add_fused_lm_head`), or what a trainer
            has wrapped around one.
        input_ids: (B, T).
        attention_mask: (B, T).
        labels: (B, T), the token ids; -100 where none is wanted.
        mixed: whether the trainer computes in another precision than the weights'.

    Returns:
        (B, T-1) in nats, at most 0; exactly 0 where no label is.
    """
    if not mixed and _is_small(model, labels):
        return _direct(model, input_ids, attention_mask, labels)
    logps: torch.Tensor = model(
        input_ids=input_ids, attention_mask=attention_mask, labels=labels, use_cache=False, fused_lm_head=True
    ).log_probs
    return logps


def _is_small(model: Any, labels: torch.Tensor) -> bool:
    """Whether `_direct` fits: on a CPU in float32, few logits, and logits as the head has them."""
    # A wrapped or sharded model (DDP, DeepSpeed, FSDP) must be called as a whole, else its parts stay apart.
    # A group of one process shares nothing: a model that vLLM keeps in this process has such a group.
    shared = torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
    if shared or not isinstance(model, PreTrainedModel | PeftModel):
        return False
    config = model.config.get_text_config()
    plain = all(getattr(config, name, None) is None for name in SCALES)
    few = labels.numel() * config.vocab_size <= DIRECT_LOGITS
    return plain and few and labels.device.type == "cpu" and model.dtype is torch.float32


def _direct(model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """What `label_logps` returns, from logits at the labelled positions, in passes of rows of like length."""
    causal = model.get_base_model() if isinstance(model, PeftModel) else model
    # (B,) columns up to each row's last token; a row without any counts as full.
    lengths = (labels.shape[1] - attention_mask.flip(1).argmax(1)).tolist()
    logps = torch.zeros(labels[:, 1:].shape, dtype=model.dtype)  # (B, T-1)
    for rows in _alike(lengths):
        part = slice(None, lengths[rows[0]])
        ids, attended, targets = (values[rows, part] for values in (input_ids, attention_mask, labels))
        targets = targets[:, 1:]  # (rows, t-1)
        # The last position predicts nothing.
        hidden = causal.base_model(ids, attention_mask=attended, use_cache=False).last_hidden_state[:, :-1]
        wanted = targets != -100
        logits = causal.get_output_embeddings()(hidden[wanted])  # (tokens, V)
        losses = torch.nn.functional.cross_entropy(logits, targets[wanted], reduction="none")
        # Scattered, so that a batch without any label is still connected to the model and can be trained on.
        found = hidden.new_zeros(targets.shape).masked_scatter(wanted, -losses)
        padded = torch.nn.functional.pad(found, (0, logps.shape[1] - found.shape[1]))
        logps = logps.index_add(0, torch.tensor(rows), padded)
    return logps


def _alike(lengths: Sequence[int]) -> list[list[int]]:
    """Group rows, longest first, so that none is padded by more than a quarter of its group's longest."""
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if groups and lengths[row] >= 0.75 * lengths[groups[-1][0]]:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups
