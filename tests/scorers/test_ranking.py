"""Ranks, rank sums and group rewards (eq. 5–7)."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.stats import rankdata

from scorers.ranking import TOLERANCE, Floats, group_blocks, group_rewards, mean_ranks, standardise

METRIC = st.integers(-3, 3).map(float)  # few values, so that ties are common
MATRICES = arrays.arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 9)), elements=METRIC)
GROUPS = st.lists(st.integers(0, 4), min_size=1, max_size=30).map(lambda g: np.array(g, np.int64))


def metrics_for(groups: np.ndarray, count: int = 3) -> Floats:
    return np.random.default_rng(len(groups)).integers(0, 4, (count, len(groups))).astype(np.float64)


def test_gold_ranks() -> None:
    values = np.array([[5.0, 7.0, 5.0, 9.0], [1.0, 1.0, 1.0, 1.0], [4.0, 3.0, 2.0, 1.0]])
    assert mean_ranks(values).tolist() == [[3.5, 2.0, 3.5, 1.0], [2.5, 2.5, 2.5, 2.5], [1.0, 2.0, 3.0, 4.0]]


def test_what_is_not_known_has_the_mean_rank_of_the_known() -> None:
    nan = math.nan
    values = np.array([[5.0, nan, 5.0, 9.0], [nan, nan, 3.0, nan], [nan, nan, nan, nan]])
    # Known 9 > 5 = 5: ranks 2.5, 2.5, 1, whose mean is 2; a single known one has rank 1; of none the middle is 2.5.
    assert mean_ranks(values).tolist() == [[2.5, 2.0, 2.5, 1.0], [1.0] * 4, [2.5] * 4]


@given(MATRICES, st.integers(0, 2**20))
def test_the_known_rank_among_themselves(values: np.ndarray, seed: int) -> None:
    unknown = np.random.default_rng(seed).random(values.shape) < 0.4
    ranks = mean_ranks(np.where(unknown, math.nan, values))
    for row, lost, found in zip(values, unknown, ranks, strict=True):
        assert (found[~lost] == rankdata(-row[~lost])).all()
        known = (~lost).sum() or len(row)
        assert (found[lost] == (1 + known) / 2).all()


def test_gold_rewards() -> None:
    # Rank sums 5, 7.5, 10: mean 7.5, population variance 25/6.
    z = standardise(np.array([[5.0, 7.5, 10.0], [3.0, 3.0, 3.0]]))
    assert z.tolist() == [pytest.approx([math.sqrt(1.5), 0.0, -math.sqrt(1.5)], rel=1e-15), [0.0, 0.0, 0.0]]


def test_gold_groups() -> None:
    # Group 7 holds rows 0 and 2, group 3 row 1. Metric 0 prefers row 0, metric 1 row 2, with twice the weight.
    groups = np.array([7, 3, 7])
    ranks, rho, z = group_rewards(groups, np.array([[9.0, 4.0, 1.0], [0.0, 4.0, 5.0]]), np.array([1.0, 2.0]))
    assert ranks.tolist() == [[1.0, 1.0, 2.0], [2.0, 1.0, 1.0]]
    assert rho.tolist() == [1 + 2 * 2, 1 + 2 * 1, 2 + 2 * 1]
    assert z.tolist() == [-1.0, 0.0, 1.0]


def test_rank_sums_within_the_tolerance_are_a_tie() -> None:
    assert standardise(np.array([[1.0, 1.0 + TOLERANCE / 2]])).tolist() == [[0.0, 0.0]]
    assert np.sign(standardise(np.array([[1.0, 1.0 + TOLERANCE * 2]]))).tolist() == [[1.0, -1.0]]


def test_no_rows() -> None:
    ranks, rho, z = group_rewards(np.empty(0, np.int64), np.empty((2, 0)), np.ones(2))
    assert ranks.shape == (2, 0) and rho.shape == z.shape == (0,)


@given(MATRICES)
def test_ranks_equal_scipys(values: np.ndarray) -> None:
    assert (mean_ranks(values) == rankdata(-values, axis=1)).all()


@given(GROUPS)
def test_blocks_hold_whole_groups_and_each_row_once(groups: np.ndarray) -> None:
    blocks = list(group_blocks(groups))
    assert sorted(row for block in blocks for row in block.ravel()) == list(range(len(groups)))
    members = [row for block in blocks for row in block]
    assert all(rows.tolist() == np.flatnonzero(groups == groups[rows[0]]).tolist() for rows in members)


@given(GROUPS)
def test_ranks_and_rewards_of_each_group(groups: np.ndarray) -> None:
    ranks, rho, z = group_rewards(groups, metrics_for(groups), np.array([1.0, 0.8, 0.2]))
    for group in np.unique(groups):
        rows = groups == group
        size = rows.sum()
        assert (ranks[:, rows].sum(axis=1) == size * (size + 1) / 2).all()
        assert abs(z[rows].sum()) < TOLERANCE
        assert not z[rows].any() or abs(z[rows].std() - 1) < TOLERANCE
        best, worst = rho[rows].argmin(), rho[rows].argmax()
        assert z[rows][best] == z[rows].max() and z[rows][worst] == z[rows].min()


@given(GROUPS, st.randoms(use_true_random=False))
def test_neither_scale_nor_order_matters(groups: np.ndarray, random: "object") -> None:
    """Ranks see the order of values only, and rows may stand anywhere."""
    metrics, coefficients = metrics_for(groups), np.array([1.0, 0.8, 0.2])
    expected = group_rewards(groups, metrics, coefficients)
    for one, other in zip(group_rewards(groups, np.exp(metrics), coefficients), expected, strict=True):
        assert (one == other).all()
    order = list(range(len(groups)))
    random.shuffle(order)  # type: ignore[attr-defined]
    ranks, rho, z = group_rewards(groups[order], metrics[:, order], coefficients)
    assert (ranks == expected[0][:, order]).all() and (rho == expected[1][order]).all()
    # Mean and deviation add up a group's rank sums in another order.
    np.testing.assert_allclose(z, expected[2][order], rtol=0, atol=TOLERANCE)


@given(GROUPS, st.integers(1, 7))
def test_the_size_of_a_block_changes_nothing(groups: np.ndarray, rows: int) -> None:
    metrics, coefficients = metrics_for(groups), np.array([1.0, 0.8, 0.2])
    expected = group_rewards(groups, metrics, coefficients)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scorers.ranking.CHUNK_ROWS", rows)
        for one, other in zip(group_rewards(groups, metrics, coefficients), expected, strict=True):
            assert (one == other).all()
