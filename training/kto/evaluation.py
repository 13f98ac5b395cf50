"""The metrics of an evaluation, as means over the rows of the evaluation set.

transformers averages the losses of device batches. That is exact for a mean over rows, but not for a mean over tokens,
and it counts twice the rows that fill up the last batch of several processes. So the numbers of each row are kept and
averaged once, at the end: the result depends on the data alone, except for z_ref, a statistic of its device batch.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def row_values(
    losses: "Tensor",
    z_ref: "Tensor",
    labels: "Tensor",
    tokens: "Tensor",
    rewards: "Tensor",
    policy_logps: "Tensor",
) -> "Tensor":
    """Collect the numbers of one device batch that `evaluation_means` averages.

    Args:
        losses: (B,) weighted KTO loss of each row.
        z_ref: scalar of the batch, in nats.
        labels: (B,) bool.
        tokens: (B,) number of completion tokens of each row.
        rewards: (B,) β·(log π_θ − log π_ref), in nats.
        policy_logps: (B,) log π_θ of each completion, in nats.

    Returns:
        (B, 6) float64, the columns in the order of the arguments.
    """
    import torch

    # One tensor, so that one gather brings the rows of all processes together; float64 holds every token count exactly.
    columns = (losses, z_ref.expand(len(losses)), labels, tokens, rewards, policy_logps)
    return torch.stack([column.detach().double() for column in columns], dim=-1)


def evaluation_means(values: "Tensor", mu: float) -> dict[str, float]:
    """Average the numbers of all rows of a dataset.

    Args:
        values: (N, 6) as from `row_values`, N ≥ 1.
        mu: weight μ of the cross-entropy, ≥ 0.

    Returns:
        loss: mean weighted KTO loss + μ · cross_entropy. kl: mean z_ref in nats. cross_entropy: mean over all tokens of
        the positive rows in nats per token, 0 without a positive row. rewards/chosen, rewards/rejected, logps/chosen
        and
        logps/rejected: means over the positive (chosen) and the negative (rejected) rows, absent where there is no such
        row.
    """
    losses, z_ref, positive, tokens, rewards, logps = values.unbind(-1)
    chosen = positive.bool()
    # A mean over tokens: long completions count more than short ones, as in the training loss.
    cross_entropy = float(-logps[chosen].sum() / tokens[chosen].sum().clamp(min=1))
    means = {
        "loss": float(losses.mean()) + mu * cross_entropy,
        "kl": float(z_ref.mean()),
        "cross_entropy": cross_entropy,
    }
    for name, rows in (("chosen", chosen), ("rejected", ~chosen)):
        if bool(rows.any()):
            means[f"rewards/{name}"] = float(rewards[rows].mean())
            means[f"logps/{name}"] = float(logps[rows].mean())
    return means
