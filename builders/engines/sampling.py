"""Choosing the next token of many rows at once, by inverse-CDF sampling with each row's own random numbers.

Temperature and top-p (nucleus sampling, Holtzman et al., 2020) shape the distribution; the log-probability is that of
the unshaped one. Rows draw from Philox, a counter-based generator keyed by the row's seed, so what a row draws does not
depend on its neighbours.
"""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch


def row_uniforms(seed: int, count: int) -> npt.NDArray[np.float64]:
    """`count` numbers in [0, 1) that belong to this seed alone (0 <= seed < 2**63)."""
    return np.random.Generator(np.random.Philox(key=seed)).random(count)


def shaped_probabilities(logits: "torch.Tensor", temperature: float, top_p: float) -> "torch.Tensor":
    """Float64 weights (rows, vocabulary) after temperature and top-p, not renormalised; `temperature` above 0."""
    import torch

    probabilities = torch.softmax(logits.double() / temperature, dim=-1)
    if top_p >= 1.0:
        return probabilities
    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
    # A token stays when the more probable ones before it sum to less than top_p: the smallest set that reaches it.
    ordered.masked_fill_(ordered.cumsum(dim=-1) - ordered >= top_p, 0.0)
    return torch.zeros_like(probabilities).scatter_(-1, order, ordered)


def draw(weights: "torch.Tensor", uniforms: "torch.Tensor") -> "torch.Tensor":
    """Token ids (rows,) by inverting the cumulative weights (rows, vocabulary) at the uniforms (rows,)."""
    import torch

    # In id order, not by probability: a rounding error then moves a boundary slightly and never reorders tokens.
    cumulative = weights.cumsum(dim=-1)
    total = cumulative[:, -1:]
    # Strictly below the total, so that the search ends on a token of positive weight.
    target = torch.minimum(uniforms.unsqueeze(-1) * total, torch.nextafter(total, torch.zeros_like(total)))
    index = torch.searchsorted(cumulative, target, right=True).squeeze(-1)
    return index.clamp_(max=weights.shape[-1] - 1)  # NaN weights search past the end; the caller rejects the row


def choose(
    logits: "torch.Tensor", uniforms: "torch.Tensor | None", temperature: float, top_p: float
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Token ids and their unshaped log-probabilities, both (rows,), from logits (rows, vocabulary).

    `uniforms` None is greedy. Rows whose logits hold NaN or +inf get a log-probability that is not finite.
    """
    logits = logits.float()
    if uniforms is None:
        tokens = logits.argmax(dim=-1)
    else:
        tokens = draw(shaped_probabilities(logits, temperature, top_p), uniforms)
    chosen = logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    return tokens, chosen - logits.logsumexp(dim=-1)
