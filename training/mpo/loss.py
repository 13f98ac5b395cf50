"""The loss of margin-based preference optimisation (RationAlign, eq. 1c and 2) as pure tensor functions.

Per pair of a winner y_w and a loser y_l, with the rewards r that a reward model gives them:

    L_M = −log σ(β · [log π(y_w|x) − log π(y_l|x) − γ · (r_w − r_l)])        L = λ · L_M + CE(y_w)

There is no reference model. Log-probabilities are sums over tokens. With γ = 0 this is CPO's loss, with a margin that
is the same for all pairs SimPO's, apart from its mean over tokens.
"""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor


def margin_loss(
    winner_logps: "Tensor", loser_logps: "Tensor", margins: "Tensor", *, beta: float, gamma: float
) -> "Tensor":
    """Compute L_M of each pair (eq. 1c); the pairs are not averaged.

    Args:
        winner_logps: (B,) log π of each winner, summed over its tokens, in nats, ≤ 0.
        loser_logps: (B,) log π of each loser, the same way.
        margins: (B,) r_w − r_l, without gradient; ≥ 0 where the winner is the one with the higher reward.
        beta: β > 0.
        gamma: γ ≥ 0; 0 leaves the margin out.

    Returns:
        (B,) losses > 0.
    """
    from torch.nn.functional import logsigmoid

    return -logsigmoid(beta * (winner_logps - loser_logps - gamma * margins))


def cross_entropy(winner_logps: "Tensor", tokens: "Tensor", kind: Literal["mean", "sum"] = "mean") -> "Tensor":
    """Compute CE(y_w) of a batch.

    Args:
        winner_logps: (B,) as for `margin_loss`.
        tokens: (B,) tokens of each winner.
        kind: mean: over the tokens of all winners, as the library does that the method was built on; sum: of each
            winner, averaged over the winners, which is eq. 2 as it is written.

    Returns:
        A scalar ≥ 0, in nats.
    """
    return -winner_logps.sum() / tokens.sum() if kind == "mean" else -winner_logps.mean()


def mpo_loss(
    winner_logps: "Tensor",
    loser_logps: "Tensor",
    margins: "Tensor",
    tokens: "Tensor",
    *,
    beta: float,
    gamma: float,
    weight: float,
    kind: Literal["mean", "sum"] = "mean",
) -> "Tensor":
    """Compute the loss of a batch (eq. 2).

    Args:
        winner_logps: (B,) as for `margin_loss`.
        loser_logps: (B,) likewise.
        margins: (B,) likewise.
        tokens: (B,) tokens of each winner.
        beta: β > 0.
        gamma: γ ≥ 0.
        weight: λ ≥ 0, the weight of L_M; 0 is supervised fine-tuning on the winners.
        kind: of the cross-entropy, see there.

    Returns:
        A scalar, λ times the mean of L_M over the pairs plus the cross-entropy.
    """
    pairs = margin_loss(winner_logps, loser_logps, margins, beta=beta, gamma=gamma)
    return weight * pairs.mean() + cross_entropy(winner_logps, tokens, kind)
