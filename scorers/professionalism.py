"""Professionalism P (GRACE-KTO, equation 3): how much likelier the domain model finds a document than the general one.

A text in the manner of the domain has a low perplexity under a model trained on the domain and a higher one under a
general model, so the weighted difference of the two perplexities is large.
"""

from collections.abc import Iterable


def professionalism(
    general: Iterable[float | None],
    domain: Iterable[float | None],
    general_weight: float = 1.0,
    domain_weight: float = 1.0,
) -> list[float | None]:
    """Return w_G · general − w_D · domain of each document; any real number, high is better.

    Args:
        general: perplexity of each document under the general model, at least 1; None where it has none.
        domain: perplexity of the same documents under the domain model; None where it has none.
        general_weight: w_G.
        domain_weight: w_D.

    A document that lacks a perplexity (fewer than two tokens) has no professionalism: None, not 0.

    Raises ValueError where the two differ in length.

    >>> professionalism([8.0, 12.5, None], [7.5, 20.0, 3.0])
    [0.5, -7.5, None]
    """
    return [
        None if g is None or d is None else general_weight * g - domain_weight * d
        for g, d in zip(general, domain, strict=True)
    ]
