"""Ranks within groups and the standardised group reward (GRACE-KTO, eq. 5–7), over all groups at once.

A rank is counted, not sorted: with `a` members of the group that are strictly better and `b` that are at least as good
(the row itself among them), the mean rank of ties is (a + b + 1) / 2. For groups of a few rows that is an order of
magnitude faster than sorting each group, because groups of one size are compared column against column.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Rank sums this close are a tie, and rewards this close to 0 are 0: both are sums of decimal coefficients times ranks,
#: exact in mathematics but not in floating point.
TOLERANCE = 1e-9

CHUNK_ROWS = 1 << 16  # rows of a block that stays in the processor's cache


def group_blocks(groups: Ints) -> Iterator[Ints]:
    """Yield row numbers as matrices, one row per group; each block holds whole groups of one size.

    Args:
        groups: (N,) group number of each row, in any order.

    Yields:
        (G, n) row numbers of G groups of n rows.
    """
    # Bring the rows of each group together; rows that are already sorted, as usual, need no sort.
    order = np.argsort(groups, kind="stable") if (np.diff(groups) < 0).any() else np.arange(len(groups))
    ordered = groups[order]
    # Groups are now runs of equal numbers.
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(groups) else np.empty(0, np.int64)
    sizes = np.diff(np.r_[starts, len(groups)])
    # Groups of one size form a matrix without padding; it is cut into blocks for the cache.
    for size in np.unique(sizes):
        first = starts[sizes == size]
        step = max(1, CHUNK_ROWS // int(size))
        for begin in range(0, len(first), step):
            yield order[first[begin : begin + step, None] + np.arange(size)]  # (G, n)


def mean_ranks(values: Floats) -> Floats:
    """Rank each value within its row of a matrix: 1 is the largest, ties share the mean rank.

    Args:
        values: (G, n) finite values, or NaN for one that is not known: it has the mean rank of the known ones, and
            the middle one, (n + 1) / 2, where none is.

    Returns:
        (G, n) ranks in [1, n], multiples of 1/2.

    >>> mean_ranks(np.array([[5.0, 7.0, 5.0]])).tolist()
    [[2.5, 1.0, 2.5]]
    """
    # Twice the rank, a + b + 1, in whole numbers.
    doubled = np.ones(values.shape, np.uint32)
    for column in range(values.shape[1]):
        other = values[:, column, None]  # (G, 1)
        doubled += other > values
        doubled += other >= values
    ranks = doubled.astype(np.float64) * 0.5
    # No comparison with NaN is true, so that the known ones have been ranked among themselves.
    unknown = np.isnan(values)
    if unknown.any():
        known = (~unknown).sum(axis=1, keepdims=True)
        known = np.where(known, known, values.shape[1])
        return np.where(unknown, (known + 1) * 0.5, ranks)
    return ranks


def group_rewards(groups: Ints, metrics: Floats, coefficients: Floats) -> tuple[Floats, Floats, Floats]:
    """Compute the ranks, the rank sum rho and the reward z of every row (eq. 5–7).

    Args:
        groups: (N,) group number of each row.
        metrics: (M, N) finite metrics, each with larger values better; NaN where one is not known, see `mean_ranks`.
        coefficients: (M,) weight of each metric's rank in rho.

    Returns:
        Ranks (M, N), 1 is best; rho (N,), low is better; z (N,) = (mean − rho) / population deviation over the group,
        high is better, 0 in a group whose rank sums are all equal.
    """
    ranks = np.empty_like(metrics)
    rho = np.empty(len(groups))
    z = np.empty(len(groups))
    for rows in group_blocks(groups):
        total = np.zeros(rows.shape)
        for index, coefficient in enumerate(coefficients):
            block = mean_ranks(metrics[index][rows])
            ranks[index][rows] = block
            total += coefficient * block
        rho[rows] = total
        z[rows] = standardise(total)
    return ranks, rho, z


def standardise(rho: Floats) -> Floats:
    """Standardise each rank sum within its row of a matrix (eq. 6–7).

    Args:
        rho: (G, n) rank sums, low is better.

    Returns:
        (G, n) rewards z, high is better; 0 in a row whose rank sums lie within `TOLERANCE`.
    """
    spread = rho.max(axis=1, keepdims=True) - rho.min(axis=1, keepdims=True)
    deviation = rho.std(axis=1, keepdims=True)
    # Divide by 1 where all rank sums tie: their deviation is rounding noise.
    z = (rho.mean(axis=1, keepdims=True) - rho) / np.where(spread > TOLERANCE, deviation, 1.0)
    z[np.abs(z) < TOLERANCE] = 0.0
    return np.where(spread > TOLERANCE, z, 0.0)
