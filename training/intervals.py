"""Means and medians over answers to queries, their differences, and intervals by bootstrap over the queries.

Queries are drawn, not answers: several answers to one query are alike. Policies that answered the same queries are
compared query by query, so what makes a query hard or easy for both of them drops out of the difference.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
Statistic = Literal["mean", "median"]

RESAMPLES = 2_000
CONFIDENCE = 0.95
LEAST_QUERIES = 20
"""Of fewer a percentile interval is too narrow: of eight queries, one metric in nine differs where nothing does."""
_BATCH = 500  # resamples that are in memory together
_FLAT = 1e-12  # spread of log lengths that counts as none


@dataclass(frozen=True)
class Estimate:
    """A number with its uncertainty.

    Attributes:
        value: the mean, the median, or the difference of two; None where no answer has a value.
        error: its standard error, the deviation over the resamples; None for fewer than two queries.
        low: lower end of its 95 % interval, the 2.5 % quantile of the resamples; None as `error`.
        high: upper end.
        p: of a difference, how surprising it would be if there were none: twice the smaller share of resamples on
            either side of 0, in (0, 1]; None of fewer than `LEAST_QUERIES` queries, and of what is no difference.
    """

    value: float | None
    error: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None

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


def of_ragged(values: Sequence[Sequence[float]]) -> Estimate:
    """The mean over queries with different numbers of values; None of no query."""
    if not values:
        return Estimate(None)
    width = max(map(len, values))
    return estimate(np.array([[*row, *[np.nan] * (width - len(row))] for row in values]))


def difference(before: Floats, after: Floats, statistic: Statistic = "mean") -> Estimate:
    """The statistic after less that before, of two policies that answered the same queries.

    Queries of which one of the two has no value are left out, see `paired`: they may be the hard ones, which one policy
    answered in form and the other did not.

    Args:
        before: shape (queries, answers); NaN where an answer has no value.
        after: the same queries in the same order; the number of answers may be another.
        statistic: mean or median.

    Raises:
        ValueError: the numbers of queries differ.
    """
    before, after = paired(before, after)
    return _bootstrapped(
        lambda rows: _of(statistic, after[rows]) - _of(statistic, before[rows]), len(before), test=True
    )


def paired(before: Floats, after: Floats) -> tuple[Floats, Floats]:
    """The values of the queries for which both policies have one, as `difference` reads them.

    Raises:
        ValueError: the numbers of queries differ.
    """
    if len(before) != len(after):
        raise ValueError(f"{len(before)} and {len(after)} queries cannot be paired")
    there = ~(np.isnan(before).all(1) | np.isnan(after).all(1))
    return before[there], after[there]


def length_controlled(before: Floats, after: Floats, lengths: tuple[Floats, Floats]) -> Estimate:
    """The mean difference at equal length: what is left of it when longer answers are taken out of account.

    Over the queries, the difference of the means is fitted by least squares as a + b · (difference of the mean log
    lengths); a is what a query with answers of equal length would show. Answers without a length do not count. Where no
    length changed the difference is that of the means; where all changed alike, or of fewer than `LEAST_QUERIES`
    queries, there is nothing to fit, and no value.

    Args:
        before: a metric, shape (queries, answers); NaN where an answer has no value.
        after: the same queries in the same order.
        lengths: of both, such as tokens; below 1 counts as 1.

    Raises:
        ValueError: the numbers of queries differ.
    """
    if len(before) != len(after):
        raise ValueError(f"{len(before)} and {len(after)} queries cannot be paired")
    logs = [
        np.log(np.where(np.isnan(values), np.nan, np.maximum(length, 1)))
        for values, length in zip((before, after), lengths, strict=True)
    ]
    # Of each query, the means over its answers.
    change = _of("mean", after[:, None]) - _of("mean", before[:, None])
    growth = _of("mean", logs[1][:, None]) - _of("mean", logs[0][:, None])
    there = ~(np.isnan(change) | np.isnan(growth))
    change, growth = change[there], growth[there]
    if len(change) < LEAST_QUERIES:
        return Estimate(None)
    return _bootstrapped(lambda rows: _intercept(growth[rows], change[rows]), len(change), test=True)


def _intercept(x: Floats, y: Floats) -> Floats:
    """Where lines of least squares meet x = 0, over the last axis; NaN where x does not vary, but for 0 throughout."""
    deviation = x - x.mean(-1, keepdims=True)
    spread = (deviation**2).sum(-1)
    unknown = np.where((x**2).sum(-1) > _FLAT, np.nan, 0.0)
    slope = np.divide((deviation * y).sum(-1), spread, out=unknown, where=spread > _FLAT)
    found: Floats = y.mean(-1) - slope * x.mean(-1)
    return found


def corrected(p: Sequence[float]) -> list[float]:
    """Correct the p of several tests for their number (Holm, 1979): as many as are small by chance are let pass.

    The smallest is multiplied by the number of tests, the next by one less, and so on, none below the one before it.

    >>> corrected([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p)), key=p.__getitem__)
    found = [1.0] * len(p)
    least = 0.0
    for place, test in enumerate(order):
        least = max(least, min(1.0, (len(p) - place) * p[test]))
        found[test] = least
    return found


def _of(statistic: Statistic, values: Floats) -> Floats:
    """The statistic over the last two axes, queries and answers; NaN where no answer has a value."""
    flat = values.reshape(*values.shape[:-2], -1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # where there is no value
        found: Floats = np.nanmean(flat, axis=-1) if statistic == "mean" else np.nanmedian(flat, axis=-1)
    return found


def _bootstrapped(statistic: Callable[[Rows], Floats], queries: int, *, test: bool = False) -> Estimate:
    """A statistic of all queries, with standard error and percentile interval over resamples of them.

    The resamples are the same ones in every call, so equal values give equal intervals.

    Args:
        statistic: its value for rows of queries, shape (…, queries) to (…).
        queries: number of queries.
        test: whether it is a difference, of which p is asked for.
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
    # The observed value counts as one of the resamples: p is never 0.
    sides = [(1 + np.count_nonzero(side)) / (1 + len(drawn)) for side in (drawn <= 0, drawn >= 0)]
    p = min(1.0, 2 * min(sides)) if test and queries >= LEAST_QUERIES else None
    return Estimate(value, float(drawn.std(ddof=1)), float(low), float(high), p)
