"""The loss of margin-based preference optimisation (RationAlign, eq. 1c and 2) as pure tensor functions.

Per pair of a winner y_w and a loser y_l, with the rewards r that a reward model gives them:

    L_M = −log σ(β · [log π(y_w|x) − log π(y_l|x) − γ · (r_w − r_l)])        L = λ · L_M + CE(y_w)

There is no reference model. Log-probabilities are sums over tokens. With γ = 0 this is CPO's loss, with a margin that
is the same for all pairs SimPO's, apart from its mean over tokens.
"""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

    Whole = tuple[Tensor, Tensor]


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


CrossEntropy = Literal["mean", "sum", "none"]


def cross_entropy(
    winner_logps: "Tensor", tokens: "Tensor", kind: CrossEntropy = "mean", whole: "Whole | None" = None
) -> "Tensor":
    """Compute CE(y_w) of a batch, or of a part of one.

    Args:
        winner_logps: (B,) as for `margin_loss`.
        tokens: (B,) tokens of each winner.
        kind: mean: over the tokens of all winners, as the library does that the method was built on; sum: of each
            winner, averaged over the winners, which is eq. 2 as it is written; none: 0.
        whole: pairs and winners' tokens of the whole batch, of which these are a part; None: of these.

    Returns:
        A scalar ≥ 0, in nats.
    """
    pairs, counted = (winner_logps.new_tensor(len(winner_logps)), tokens.sum()) if whole is None else whole
    if kind == "none":
        return winner_logps.sum() * 0.0
    return -winner_logps.sum() / (counted if kind == "mean" else pairs)


def mpo_loss(
    winner_logps: "Tensor",
    loser_logps: "Tensor",
    margins: "Tensor",
    tokens: "Tensor",
    *,
    beta: float,
    gamma: float,
    weight: float,
    kind: CrossEntropy = "mean",
    whole: "Whole | None" = None,
) -> "Tensor":
    """Compute the loss of a batch (eq. 2), or what a part of it adds to that.

    Args:
        winner_logps: (B,) as for `margin_loss`.
        loser_logps: (B,) likewise.
        margins: (B,) likewise.
        tokens: (B,) tokens of each winner.
        beta: β > 0.
        gamma: γ ≥ 0.
        weight: λ ≥ 0, the weight of L_M; 0 is supervised fine-tuning on the winners.
        kind: of the cross-entropy, see there.
        whole: as for `cross_entropy`; the parts of a batch add up to its loss.

    Returns:
        A scalar, λ times the mean of L_M over the pairs plus the cross-entropy.
    """
    losses = margin_loss(winner_logps, loser_logps, margins, beta=beta, gamma=gamma)
    pairs = losses.new_tensor(len(losses)) if whole is None else whole[0]
    return weight * losses.sum() / pairs + cross_entropy(winner_logps, tokens, kind, whole)
