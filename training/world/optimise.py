"""A plain training loop for the generated world's tiny causal models: fixed steps, one schedule, reproducible.

A row is (token ids, weights), one weight for each token: what predicting that token counts in the loss, 0 for none.
"""

import math
from collections.abc import Iterator
from random import Random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Row = tuple[list[int], list[float]]
WARMUP_SHARE = 0.05


def batches(rows: list[Row], batch_size: int, steps: int, seed: int) -> Iterator[list[Row]]:
    """`steps` batches of rows of similar length; every epoch is shuffled anew, with the seed."""
    rng = Random(f"{seed}/batches")
    queue: list[list[Row]] = []
    for _ in range(steps):
        if not queue:
            order = sorted(rng.sample(rows, len(rows)), key=lambda row: len(row[0]))
            queue = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
            rng.shuffle(queue)
        yield queue.pop()


def pad(batch: list[Row], pad_token_id: int) -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
    """(input ids, attention mask, loss weights), each (B, T), padded on the right; the first token has weight 0."""
    import torch

    width = max(len(ids) for ids, _ in batch)
    ids = torch.full((len(batch), width), pad_token_id)
    mask = torch.zeros((len(batch), width), dtype=torch.long)
    weights = torch.zeros((len(batch), width))
    for i, (row, row_weights) in enumerate(batch):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
        weights[i, : len(row)] = torch.tensor(row_weights)
    weights[:, 0] = 0.0
    return ids, mask, weights


def weighted_loss(model: Any, batch: list[Row], pad_token_id: int) -> "torch.Tensor":
    """Weighted mean of the tokens' cross-entropy in nats; logits are computed only where the weight is not 0."""
    from torch.nn.functional import cross_entropy

    ids, mask, weights = pad(batch, pad_token_id)
    hidden = model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state[:, :-1]  # (B, T-1, H)
    wanted = weights[:, 1:] > 0
    losses = cross_entropy(model.lm_head(hidden[wanted]), ids[:, 1:][wanted], reduction="none")
    return (losses * weights[:, 1:][wanted]).sum() / weights.sum()


def rate(step: int, steps: int) -> float:
    """Share of the peak learning rate at a step: linear warm-up, then cosine to a tenth."""
    warmup = max(1, round(WARMUP_SHARE * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def train(model: Any, rows: list[Row], *, steps: int, batch_size: int, learning_rate: float, seed: int) -> float:
    """Train in place with AdamW for `steps` steps; returns the mean loss of the last tenth of them."""
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
