"""What an evaluation reports, as means over the rows of the evaluation set.

transformers averages the losses of device batches, which is exact for a mean over rows, but not for one over tokens,
and which counts the rows twice that fill up the last batch of several processes. So the numbers of each row are kept
and averaged once, at the end: the result depends on the data alone, save for z_ref, a statistic of its device batch.
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
    """The numbers of a device batch that `evaluation_means` averages.

    Args:
        losses: (B,) weighted KTO loss of each row.
        z_ref: scalar of the batch, in nats.
        labels: (B,) bool.
        tokens: (B,) completion tokens of each row.
        rewards: (B,) β·(log π_θ − log π_ref).
        policy_logps: (B,) log π_θ of each completion, in nats.

    Returns:
        (B, 6) float64, the columns in the order of the arguments.
    """
    import torch

    columns = (losses, z_ref.expand(len(losses)), labels, tokens, rewards, policy_logps)
    return torch.stack([column.detach().double() for column in columns], dim=-1)


def evaluation_means(values: "Tensor", mu: float) -> dict[str, float]:
    """Means over the rows of a dataset.

    Args:
        values: (N, 6) as of `row_values`, N ≥ 1.
        mu: weight of the cross-entropy, ≥ 0.

    Returns:
        loss: mean weighted KTO loss + μ · cross_entropy; kl: mean z_ref; cross_entropy: of all tokens of the positive
        rows, in nats a token, 0 without a positive row; rewards/… and logps/…: means over the positive (chosen) and
        the negative (rejected) rows, left out where there is none.
    """
    losses, z_ref, positive, tokens, rewards, logps = values.unbind(-1)
    chosen = positive.bool()
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
