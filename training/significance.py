"""Whether one model is better than another on the same texts: paired bootstrap, and a one-tailed sign test over it.

Texts are drawn with replacement, the same ones for both models, and a metric of all is taken anew from the sums of the
texts' numbers. So a metric that is no mean over texts, as F0.5 and BLEU, has an uncertainty too.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RESAMPLES = 1_000
SIGNS = 100
"""Resamples whose signs the sign test counts."""


def resampled(rows: Sequence[Sequence[float]], score: Callable[[Sequence[float]], float], seed: int) -> Floats:
    """Return a metric over resamples of texts.

    Args:
        rows: numbers of each text, whose sums give the metric.
        score: the metric from the sums.
        seed: equal seeds draw the same texts.

    Returns:
        (RESAMPLES,) values.
    """
    values = np.asarray(rows, np.float64)  # (texts, numbers)
    generator = np.random.default_rng(seed)
    times = generator.multinomial(len(values), np.full(len(values), 1 / len(values)), size=RESAMPLES)
    return np.array([score(sums) for sums in (times @ values).tolist()])


def bootstrap_p(before: Floats, after: Floats) -> float:
    """Return the share of resamples in which the second model is not better than the first; ties count half."""
    worse = np.count_nonzero(after < before) + 0.5 * np.count_nonzero(after == before)
    return float(worse / len(before))


def sign_p(before: Floats, after: Floats) -> float:
    """Return p of a one-tailed sign test over the first `SIGNS` resamples: that the second model is the better one.

    Ties are left out; 1 where there are only ties.
    """
    from scipy.stats import binomtest

    difference = (after - before)[:SIGNS]
    wins, losses = int((difference > 0).sum()), int((difference < 0).sum())
    return float(binomtest(wins, wins + losses, 0.5, alternative="greater").pvalue) if wins + losses else 1.0


def interval(before: Floats, after: Floats) -> tuple[float, float]:
    """Return the 95 % interval of the difference over resamples."""
    low, high = np.quantile(after - before, [0.025, 0.975])
    return float(low), float(high)
