"""Choosing the next token of many rows at once, by inverse-CDF sampling with each row's own random numbers.

Temperature and top-p (nucleus sampling, Holtzman et al., 2020) shape the distribution; the log-probability is that of
the unshaped one. Rows draw from Philox, a counter-based generator (Salmon et al., 2011) keyed by the row's seed, so
that a row's draws do not depend on its neighbours.
"""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from builders.engines import SamplingSettings

if TYPE_CHECKING:
    import torch

LARGEST = 64
"""The most probable tokens among which a nucleus is looked for first."""


def row_uniforms(seed: int, count: int) -> npt.NDArray[np.float64]:
    """Return the random numbers of one seed.

    Args:
        seed: in [0, 2**63).
        count: how many.

    Returns:
        (count,) numbers in [0, 1); a larger count begins with the same numbers.
    """
    return np.random.Generator(np.random.Philox(key=seed)).random(count)


def shaped_probabilities(
    logits: "torch.Tensor", temperature: float, top_p: float, top_k: int | None = None
) -> "torch.Tensor":
    """Return the weights of all tokens after temperature, top-k and top-p.

    Args:
        logits: (rows, vocabulary).
        temperature: above 0; divides the logits.
        top_p: in (0, 1].
        top_k: at least 1; None for all tokens. Tokens as probable as the k-th stay.

    Returns:
        (rows, vocabulary) float64, not renormalised; 0 for tokens that are left out.
    """
    import torch

    if top_k is not None and top_k < logits.shape[-1]:
        least = logits.topk(top_k, dim=-1).values[:, -1:]  # (rows, 1)
        logits = logits.masked_fill(logits < least, -torch.inf)
    # float64: cumulative sums over a large vocabulary lose digits in float32 that decide the draw.
    probabilities = torch.softmax(logits.double() / temperature, dim=-1)
    if top_p >= 1.0:
        return probabilities
    # To find the largest few costs a fraction of sorting a vocabulary, and the nucleus is mostly among them.
    count = min(LARGEST, probabilities.shape[-1])
    largest = probabilities.topk(count, dim=-1).values  # (rows, count), descending
    kept = _in_nucleus(largest, top_p).sum(dim=-1, keepdim=True).clamp(min=1)  # (rows, 1)
    inside = probabilities >= largest.gather(-1, kept - 1)
    weights = probabilities.masked_fill(~inside, 0.0)
    # Rows whose nucleus may be larger, and rows with equal probabilities at its end, of which the first by id stay.
    larger = (kept == count) & (count < probabilities.shape[-1])
    unsure = (larger | (inside.sum(dim=-1, keepdim=True) != kept)).squeeze(-1)  # (rows,)
    if bool(unsure.any()):
        ordered, order = probabilities[unsure].sort(dim=-1, descending=True, stable=True)
        ordered.masked_fill_(~_in_nucleus(ordered, top_p), 0.0)
        weights[unsure] = torch.zeros_like(ordered).scatter_(-1, order, ordered)
    return weights


def _in_nucleus(ordered: "torch.Tensor", top_p: float) -> "torch.Tensor":
    """Which of (rows, tokens) descending probabilities stay: those before which the sum is less than top_p."""
    return ordered.cumsum(dim=-1) - ordered < top_p


def draw(weights: "torch.Tensor", uniforms: "torch.Tensor") -> "torch.Tensor":
    """Draw one token per row by inverting the cumulative weights.

    Args:
        weights: (rows, vocabulary), at least 0; their sum need not be 1.
        uniforms: (rows,) in [0, 1).

    Returns:
        Token ids (rows,), each of positive weight.
    """
    import torch

    # In id order, not by probability: a rounding error then moves a boundary slightly and never reorders tokens.
    cumulative = weights.cumsum(dim=-1)  # (rows, vocabulary)
    total = cumulative[:, -1:]  # (rows, 1)
    # Strictly below the total, so that the search ends on a token of positive weight.
    target = torch.minimum(uniforms.unsqueeze(-1) * total, torch.nextafter(total, torch.zeros_like(total)))
    index = torch.searchsorted(cumulative, target, right=True).squeeze(-1)
    return index.clamp_(max=weights.shape[-1] - 1)  # NaN weights lead past the end; the caller rejects the row


def choose(
    logits: "torch.Tensor",
    uniforms: "torch.Tensor | None",
    settings: SamplingSettings,
    seen: "torch.Tensor | None" = None,
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Choose the next token of each row.

    Args:
        logits: (rows, vocabulary).
        uniforms: (rows,) in [0, 1); None for greedy decoding.
        settings: how to draw; the temperature is above 0, unless greedy.
        seen: (rows, vocabulary) bool, the tokens that a row has already; None where there is no penalty on them.

    Returns:
        Token ids (rows,), and their log-probabilities (rows,) in nats under the model's own distribution. A row whose
        logits hold NaN or +inf gets a log-probability that is not finite.
    """
    logits = logits.float()
    shaped = logits if seen is None else logits - settings.presence_penalty * seen
    if uniforms is None:
        tokens = shaped.argmax(dim=-1)
    else:
        tokens = draw(shaped_probabilities(shaped, settings.temperature, settings.top_p, settings.top_k), uniforms)
    chosen = logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    return tokens, chosen - logits.logsumexp(dim=-1)
