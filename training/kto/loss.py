"""The weighted KTO loss (GRACE-KTO, eq. 11–12) as pure tensor functions.

Per row, with Δ = log π_θ(A|Q) − log π_ref(A|Q) and y = +1 for a positive row, −1 for a negative one:

    |W| · λ± · (1 − σ(β · y · (Δ − z_ref)))

With W = ±1 and λ± = 1 this is the KTO loss (Ethayarajh et al., 2024, eq. 7–8).
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def grace_kto_loss(
    policy_logps: "Tensor",
    reference_logps: "Tensor",
    weights: "Tensor",
    labels: "Tensor",
    z_ref: "Tensor | float",
    *,
    beta: float,
    lambda_positive: float,
    lambda_negative: float,
) -> "Tensor":
    """Compute the loss of each row; the rows are not averaged.

    Args:
        policy_logps: (B,) log π_θ of each completion, summed over its tokens, in nats, ≤ 0.
        reference_logps: (B,) log π_ref of the same completions, in nats, ≤ 0.
        weights: (B,) signed weight W; only |W| enters, since the label gives the direction.
        labels: (B,) bool, True for a positive row.
        z_ref: scalar estimate of KL(π_θ‖π_ref), in nats, ≥ 0, without gradient.
        beta: β > 0.
        lambda_positive: λ+ ≥ 0, factor of rows with label True (balanced: `scorers.class_weights`).
        lambda_negative: λ− ≥ 0, factor of rows with label False.

    Returns:
        (B,) losses in [0, |W|·λ]. The gradient flows into `policy_logps` only, as long as no other argument carries
        one.
    """
    import torch

    number = policy_logps.new_tensor  # a scalar of the same precision on the same device
    sign = torch.where(labels, number(1.0), number(-1.0))  # (B,)
    scale = torch.where(labels, number(lambda_positive), number(lambda_negative))  # (B,)
    # How far the completion moved beyond the policy's general drift, in the direction its label asks for.
    margin = sign * (policy_logps - reference_logps - z_ref)  # (B,)
    return weights.abs() * scale * (1 - torch.sigmoid(beta * margin))


def kl_estimate(policy_kl_logps: "Tensor", reference_kl_logps: "Tensor") -> "Tensor":
    """Estimate z_ref: the mean of log π_θ − log π_ref over some completions, clamped at 0 and detached.

    Args:
        policy_kl_logps: (B,) log π_θ of the completions that the estimate uses, over all devices, in nats.
        reference_kl_logps: (B,) log π_ref of the same completions, in nats.

    Returns:
        A scalar tensor ≥ 0 in nats.
    """
    # A sample mean can fall below 0, a KL divergence cannot; detached, so that it shifts the loss but is not trained
    # on.
    return (policy_kl_logps - reference_kl_logps).detach().mean().clamp(min=0)
