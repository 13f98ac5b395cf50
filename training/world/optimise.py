"""A plain training loop for the generated world's tiny causal models: fixed steps, one schedule, reproducible.

A row is (token ids, weights), with one weight per token: how much the prediction of this token counts in the loss. A
weight of 0 leaves the token out.
"""

import math
from collections.abc import Iterator
from random import Random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Row = tuple[list[int], list[float]]
WARMUP_SHARE = 0.05  # share of the steps


def batches(rows: list[Row], batch_size: int, steps: int, seed: int) -> Iterator[list[Row]]:
    """Draw batches of rows of similar length; every epoch is shuffled anew.

    Args:
        rows: all rows.
        batch_size: rows per batch; the last batch of an epoch may be shorter.
        steps: number of batches.
        seed: the same seed gives the same batches.
    """
    rng = Random(f"{seed}/batches")
    queue: list[list[Row]] = []
    for _ in range(steps):
        if not queue:
            # A stable sort of a shuffled list: rows of equal length meet others in every epoch.
            order = sorted(rng.sample(rows, len(rows)), key=lambda row: len(row[0]))
            queue = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
            rng.shuffle(queue)
        yield queue.pop()


def pad(batch: list[Row], pad_token_id: int) -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
    """Pad a batch on the right.

    Returns:
        input ids, attention mask and loss weights, each (B, T); the first token of a row has weight 0.
    """
    import torch

    width = max(len(ids) for ids, _ in batch)
    ids = torch.full((len(batch), width), pad_token_id)
    mask = torch.zeros((len(batch), width), dtype=torch.long)
    weights = torch.zeros((len(batch), width))
    for i, (row, row_weights) in enumerate(batch):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
        weights[i, : len(row)] = torch.tensor(row_weights)
    # The first token has nothing before it to be predicted from.
    weights[:, 0] = 0.0
    return ids, mask, weights


def weighted_loss(model: Any, batch: list[Row], pad_token_id: int) -> "torch.Tensor":
    """The weighted mean of the tokens' cross-entropy.

    Args:
        model: a causal language model.
        batch: rows.
        pad_token_id: id that fills up short rows.

    Returns:
        A scalar tensor in nats per token.
    """
    from torch.nn.functional import cross_entropy

    ids, mask, weights = pad(batch, pad_token_id)
    hidden = model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state[:, :-1]  # (B, T-1, H)
    # Logits only where the weight is not 0, which saves most of the projection to the vocabulary.
    wanted = weights[:, 1:] > 0
    losses = cross_entropy(model.lm_head(hidden[wanted]), ids[:, 1:][wanted], reduction="none")
    return (losses * weights[:, 1:][wanted]).sum() / weights.sum()


def rate(step: int, steps: int) -> float:
    """The share of the peak learning rate at a step, in (0, 1]: linear warm-up, then a cosine down to a tenth."""
    warmup = max(1, round(WARMUP_SHARE * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def train(model: Any, rows: list[Row], *, steps: int, batch_size: int, learning_rate: float, seed: int) -> float:
    """Train a model in place with AdamW.

    Args:
        model: a causal language model.
        rows: all rows.
        steps: optimizer steps.
        batch_size: rows per step.
        learning_rate: peak learning rate.
        seed: seed of the batches.

    Returns:
        The mean loss of the last tenth of the steps, in nats per token.
    """
    import torch

    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    model.train()
    losses = []
    for step, batch in enumerate(batches(rows, batch_size, steps, seed)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * rate(step, steps)
        loss = weighted_loss(model, batch, model.config.pad_token_id)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.detach().item())
    tail = losses[-max(1, steps // 10) :]
    return sum(tail) / len(tail)
