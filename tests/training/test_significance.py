"""Paired bootstrap and sign test: against hand computations, the textbook, and models whose difference is known."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.significance import RESAMPLES, SIGNS, Floats, bootstrap_p, interval, resampled, sign_p

VALUES = st.lists(st.integers(-5, 5), min_size=1, max_size=2 * SIGNS)


def mean(sums: Sequence[float]) -> float:
    return sums[0] / sums[1]


def rows_of(values: Floats) -> list[tuple[float, float]]:
    """What a mean is taken from: values, and how many they are."""
    return [(float(value), 1.0) for value in values]


def floats(*values: float) -> Floats:
    return np.array(values, np.float64)


@pytest.fixture(scope="module")
def values() -> Floats:
    return np.random.default_rng(0).normal(50, 20, 400)


def test_equal_seeds_draw_the_same_texts(values: Floats) -> None:
    found = resampled(rows_of(values), mean, 3)
    assert found.shape == (RESAMPLES,) and len(np.unique(found)) > RESAMPLES / 2
    np.testing.assert_array_equal(resampled(rows_of(values), mean, 3), found)
    assert not np.array_equal(resampled(rows_of(values), mean, 4), found)
    # So does another model, whatever its numbers are.
    np.testing.assert_allclose(resampled(rows_of(2 * values - 1), mean, 3), 2 * found - 1, rtol=1e-12)


def test_each_resample_has_as_many_texts_with_replacement() -> None:
    drawn: list[Sequence[float]] = []

    def keep(sums: Sequence[float]) -> float:
        drawn.append(sums)
        return sum(sums)

    assert (resampled(np.eye(5).tolist(), keep, 0) == 5).all()
    counts = np.array(drawn)  # (resamples, texts), how often each text was drawn
    assert counts.shape == (RESAMPLES, 5)
    assert counts.min() == 0 and counts.max() > 1
    # Each text is in a resample once, with a deviation of sqrt(4 / 5), over 1,000 resamples 0.028.
    assert counts.mean(axis=0) == pytest.approx(1.0, abs=0.12)


def test_the_resamples_of_a_mean_lie_around_it(values: Floats) -> None:
    found = resampled(rows_of(values), mean, 0)
    error = values.std() / np.sqrt(len(values))  # the textbook's; over 1,000 resamples it is known to 2.2 %
    assert found.std() == pytest.approx(error, rel=0.1)
    assert found.mean() == pytest.approx(values.mean(), abs=4 * error / np.sqrt(RESAMPLES))


def test_the_metric_is_taken_of_the_sums() -> None:
    # Twice the first text: 0² / 2; each once: 2² / 2; twice the second: 4² / 2. A mean over texts would give 4.
    found = resampled([(0.0, 1.0), (2.0, 1.0)], lambda sums: sums[0] ** 2 / sums[1], 0)
    assert sorted(set(found.tolist())) == [0.0, 2.0, 8.0]
    assert (found == 2.0).mean() == pytest.approx(0.5, abs=0.07)


def test_bootstrap_p_by_hand(values: Floats) -> None:
    before = resampled(rows_of(values), mean, 0)
    assert bootstrap_p(before, resampled(rows_of(values + 0.5), mean, 0)) == 0.0
    assert bootstrap_p(before, resampled(rows_of(values - 0.5), mean, 0)) == 1.0
    assert bootstrap_p(before, before) == 0.5
    # Better, worse, equal, better.
    assert bootstrap_p(floats(1, 2, 3, 4), floats(2, 1, 3, 5)) == (1 + 0.5) / 4


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        # 7 of 10: (120 + 45 + 10 + 1) ways of 1,024.
        ([1] * 7 + [-1] * 3, 176 / 1024),
        ([1] * 3 + [-1] * 7, 1 - 56 / 1024),
        # Ties are left out: 3 of 3.
        ([0, 0, 0.5, 2, 0, 9], 1 / 8),
        ([-1, -1], 1.0),
        ([0, 0, 0], 1.0),
        # No more than the first ones count.
        ([1] * SIGNS + [-1] * 900, 0.5**SIGNS),
    ],
)
def test_sign_p_by_hand(differences: list[float], p: float) -> None:
    before = floats(*range(len(differences)))
    assert sign_p(before, before + floats(*differences)) == pytest.approx(p, rel=1e-9)


@given(VALUES)
def test_what_holds_of_any_difference(differences: list[int]) -> None:
    before, after = np.zeros(len(differences)), floats(*differences)
    assert bootstrap_p(before, after) + bootstrap_p(after, before) == pytest.approx(1.0)
    wins, losses = sum(d > 0 for d in differences[:SIGNS]), sum(d < 0 for d in differences[:SIGNS])
    # One half at most just where the second model wins more often than it loses.
    assert (sign_p(before, after) < 0.5 + 1e-9) == (wins > losses)
    low, high = interval(before, after)
    assert min(differences) <= low <= np.median(after) <= high <= max(differences)
    assert interval(after, before) == pytest.approx((-high, -low))


def test_intervals_by_hand(values: Floats) -> None:
    before = resampled(rows_of(values), mean, 0)
    shifted = resampled(rows_of(values + 0.25), mean, 0)
    assert interval(before, shifted) == pytest.approx((0.25, 0.25), abs=1e-9)
    # Of 0, 1, …, 1000 one in forty lies below 25, and one above 975.
    assert interval(np.zeros(1001), floats(*range(1001))) == pytest.approx((25, 975))
