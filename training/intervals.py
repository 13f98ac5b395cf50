"""Means and medians over answers to queries, their differences, and intervals by bootstrap over the queries.

Queries are drawn, not answers: several answers to one query are alike. Policies that answered the same queries are
compared query by query, so what makes a query hard or easy for both of them drops out of the difference.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
Statistic = Literal["mean", "median"]

RESAMPLES = 2_000
CONFIDENCE = 0.95
_BATCH = 500  # resamples that are in memory together


@dataclass(frozen=True)
class Estimate:
    """A number with its uncertainty.

    Attributes:
        value: the mean, the median, or the difference of two; None where no answer has a value.
        error: its standard error, the deviation over the resamples; None for fewer than two queries.
        low: lower end of its 95 % interval, the 2.5 % quantile of the resamples; None as `error`.
        high: upper end.
    """

    value: float | None
    error: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def sign(self) -> int:
        """1 where the whole interval is above 0, -1 where it is below, else 0: not to be told from no difference."""
        if self.low is None or self.high is None:
            return 0
        return int(self.low > 0) - int(self.high < 0)


def value_of(values: Floats, statistic: Statistic = "mean") -> float | None:
    """The mean or the median over all answers that have a value, without an interval; None where none has one."""
    found = float(_of(statistic, values))
    return None if np.isnan(found) else found


def estimate(values: Floats, statistic: Statistic = "mean") -> Estimate:
    """The mean or the median over all answers that have a value.

    Args:
        values: shape (queries, answers); NaN where an answer has no value.
        statistic: mean or median.
    """
    return _bootstrapped(lambda rows: _of(statistic, values[rows]), len(values))


def difference(before: Floats, after: Floats, statistic: Statistic = "mean") -> Estimate:
    """The statistic after less that before, of two policies that answered the same queries.

    Args:
        before: shape (queries, answers); NaN where an answer has no value.
        after: the same queries in the same order; the number of answers may be another.
        statistic: mean or median.

    Raises:
        ValueError: the numbers of queries differ.
    """
    if len(before) != len(after):
        raise ValueError(f"{len(before)} and {len(after)} queries cannot be paired")
    return _bootstrapped(lambda rows: _of(statistic, after[rows]) - _of(statistic, before[rows]), len(before))


def _of(statistic: Statistic, values: Floats) -> Floats:
    """The statistic over the last two axes, queries and answers; NaN where no answer has a value."""
    flat = values.reshape(*values.shape[:-2], -1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # where there is no value
        found: Floats = np.nanmean(flat, axis=-1) if statistic == "mean" else np.nanmedian(flat, axis=-1)
    return found


def _bootstrapped(statistic: Callable[[Rows], Floats], queries: int) -> Estimate:
    """A statistic of all queries, with standard error and percentile interval over resamples of them.

    The resamples are the same ones in every call, so equal values give equal intervals.

    Args:
        statistic: its value for rows of queries, shape (…, queries) to (…).
        queries: number of queries.
    """
    from scipy.stats import bootstrap

    every = np.arange(queries)
    value = float(statistic(every)) if queries else float("nan")
    if np.isnan(value):
        return Estimate(None)
    if queries < 2:
        return Estimate(value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy's, of an interval without width, which is one here
        drawn = bootstrap(
            (every,),
            lambda rows, axis: statistic(rows),
            n_resamples=RESAMPLES,
            batch=_BATCH,
            vectorized=True,
            method="percentile",
            rng=np.random.default_rng(0),
        ).bootstrap_distribution
    drawn = drawn[~np.isnan(drawn)]  # of few values a resample may hold none
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value, float(drawn.std(ddof=1)), float(low), float(high))
