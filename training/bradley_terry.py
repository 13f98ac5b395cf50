"""Strengths of several policies from choices between two of them (Bradley and Terry, 1952), with intervals.

The log odds that one is preferred to another is the difference of their strengths; a tie is half a choice for each.
The strengths of all sum to 0. To every pair of policies one tie is added, so that one who always wins has one too.

Intervals are by the Bayesian bootstrap (Rubin, 1981) over queries: each has a weight from the exponential
distribution, and each half of the added tie one from Gamma(1/2). So a policy that won every time has an interval with
a width, that of Jeffreys' for a share, and one of which nothing is known has a wide one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from training.intervals import CONFIDENCE

RESAMPLES = 500
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Judged:
    """One pair that was judged.

    Attributes:
        query: what both were asked.
        first: number of the policy that stands as a.
        second: number of the other.
        share: 1 where the first is preferred, 0 where the second is, 0.5 for a tie.
    """

    query: str
    first: int
    second: int
    share: float


@dataclass(frozen=True)
class Strength:
    """The strength of a policy, in log odds, with the ends of its 95 % interval; these are None for a single query."""

    value: float
    low: float | None
    high: float | None


def strengths(judged: Sequence[Judged], policies: int) -> list[Strength]:
    """Return the strength of each policy, with 95 % intervals.

    Args:
        judged: the pairs, of any policies and in any number.
        policies: how many there are, two at least.

    Raises:
        ValueError: fewer than two policies, or no pair.
    """
    if policies < 2 or not judged:
        raise ValueError(f"{policies} policies and {len(judged)} pairs; two policies and a pair are needed")
    queries = sorted({one.query for one in judged})
    places = {query: place for place, query in enumerate(queries)}
    # By query, how often each policy was preferred to each other one.
    wins = np.zeros((len(queries), policies, policies))
    for one in judged:
        wins[places[one.query], one.first, one.second] += one.share
        wins[places[one.query], one.second, one.first] += 1 - one.share
    added = np.full((policies, policies), 0.5)
    values = _fitted(wins.sum(0) + added)
    if len(queries) < 2:
        return [Strength(float(value), None, None) for value in values]
    random = np.random.default_rng(0)
    drawn = [
        _fitted(np.tensordot(random.exponential(size=len(queries)), wins, 1) + random.gamma(added))
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    return [Strength(*map(float, found)) for found in zip(values, low, high, strict=True)]


def _fitted(wins: Floats) -> Floats:
    """Return strengths of maximum likelihood: logistic regression on which policy stands where, without intercept."""
    from sklearn.linear_model import LogisticRegression

    policies = len(wins)
    rows, weights = [], []
    for first, second in combinations(range(policies), 2):
        for winner, loser in ((first, second), (second, first)):
            row = np.zeros(policies)
            row[winner], row[loser] = 1, -1
            rows.append(row)
            weights.append(wins[winner, loser])
    # A row and its mirror image stand for the same: a model needs both classes.
    x, y = np.concatenate([rows, -np.array(rows)]), np.repeat([1, 0], len(rows))
    model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-8, max_iter=1_000)
    model.fit(x, y, np.tile(weights, 2))
    found: Floats = model.coef_[0] - model.coef_[0].mean()
    return found
