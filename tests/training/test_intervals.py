"""Intervals by bootstrap over queries: against hand computations, scipy, and the coverage that they promise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from training.intervals import (
    LEAST_QUERIES,
    RESAMPLES,
    Estimate,
    corrected,
    difference,
    estimate,
    length_controlled,
    paired,
)

NAN = float("nan")


def column(*values: float) -> np.ndarray:
    return np.array(values, np.float64)[:, None]


def test_means_and_medians_leave_out_what_has_no_value() -> None:
    values = np.array([[1.0, NAN], [3.0, 8.0], [NAN, NAN]])
    assert estimate(values).value == 4.0
    assert estimate(values, "median").value == 3.0
    # The second query alone has values on both sides: 3 - (3 + 8) / 2.
    assert difference(values, np.array([[NAN], [3.0], [8.0]])).value == pytest.approx(-2.5)


def test_without_a_value_and_of_a_single_query() -> None:
    assert estimate(np.full((3, 2), NAN)) == Estimate(None)
    assert estimate(np.empty((0, 1))) == Estimate(None)
    assert estimate(np.array([[1.0, 2.0]])) == Estimate(1.5)
    assert difference(column(1, 2), np.full((2, 1), NAN)) == Estimate(None)
    with pytest.raises(ValueError, match="3 and 2 queries cannot be paired"):
        difference(column(1, 2, 3), column(1, 2))


def test_queries_that_one_policy_alone_answered_do_not_hide_what_the_other_does_better() -> None:
    rng = np.random.default_rng(7)
    hardness = np.where(np.arange(100) < 30, -3.0, 0.0)[:, None]
    before, after = hardness + rng.normal(0, 0.3, (100, 1)), hardness + 0.3 + rng.normal(0, 0.3, (100, 1))
    before[:30] = NAN  # the hard ones it did not answer in form
    found = difference(before, after)
    assert found.value == pytest.approx(0.3, abs=0.1) and found.sign == 1
    assert float(np.nanmean(after) - np.nanmean(before)) < -0.4
    one, other = paired(before, after)
    assert one.shape == other.shape == (70, 1) and found.value == pytest.approx(float(other.mean() - one.mean()))


@pytest.mark.parametrize(("queries", "told"), [(2, False), (LEAST_QUERIES - 1, False), (LEAST_QUERIES, True)])
def test_few_queries_have_no_p(queries: int, told: bool) -> None:
    before = column(*np.random.default_rng(0).normal(0, 1, queries))
    assert (difference(before, before + 9).p is not None) is told
    lengths = (np.exp(before), np.exp(before[::-1]))
    assert (length_controlled(before, before + 9, lengths).value is not None) is told


def test_a_constant_difference_has_an_interval_without_width() -> None:
    before = column(*np.random.default_rng(0).normal(50, 20, 40))
    found = difference(before, before + 0.25)
    assert (found.value, found.error, found.low, found.high) == pytest.approx((0.25, 0, 0.25, 0.25), abs=1e-12)
    assert found.sign == 1 and difference(before + 0.25, before).sign == -1 and difference(before, before).sign == 0
    # The two means alone are known to 20 / sqrt(40) = 3.2 each: only the pairing shows the difference.
    alone = estimate(before).error
    assert alone is not None and alone == pytest.approx(20 / np.sqrt(40), rel=0.25)


def test_the_interval_is_scipys() -> None:
    before, after = np.random.default_rng(1).normal(0, 1, (2, 200))
    found = difference(before[:, None], after[:, None])
    paired = stats.bootstrap(
        (after - before,), np.mean, n_resamples=2_000, method="percentile", rng=np.random.default_rng(0)
    )
    # The same resamples; sums in another order.
    assert (found.low, found.high) == pytest.approx(tuple(paired.confidence_interval), abs=1e-12)
    assert found.error == pytest.approx(paired.standard_error, abs=1e-12)
    # And near the textbook's standard error, deviation / sqrt(n); over 2,000 resamples it is known to 1 / sqrt(4,000).
    assert found.error == pytest.approx(stats.sem(after - before), rel=0.08)


def test_answers_to_one_query_are_not_counted_as_queries() -> None:
    values = column(*np.random.default_rng(2).normal(0, 1, 100))
    once, often = estimate(values), estimate(np.repeat(values, 8, axis=1))
    assert (often.value, often.error) == pytest.approx((once.value, once.error), abs=1e-12)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(200):
        found = estimate(rng.normal(1.0, 2.0, (60, 1)))
        assert found.low is not None and found.high is not None
        covered += found.low <= 1.0 <= found.high
    # 95 % of 200 is 190, with a deviation of 3.1; percentile intervals of 60 values are a little narrow.
    assert 178 <= covered <= 199


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=12), st.floats(-10, 10), st.sampled_from(["mean", "median"]))
def test_the_value_lies_in_the_interval_of_a_shifted_copy(values: list[float], by: float, statistic: str) -> None:
    before = column(*values)
    found = difference(before, before + by, "median" if statistic == "median" else "mean")
    assert found.value == pytest.approx(by, abs=1e-9)
    assert found.low == pytest.approx(by, abs=1e-9) and found.high == pytest.approx(by, abs=1e-9)


def test_p_of_a_difference() -> None:
    rng = np.random.default_rng(3)
    before = column(*rng.normal(0, 1, 200))
    assert difference(before, before + 1).p == pytest.approx(2 / (1 + RESAMPLES))
    assert difference(before, before).p == 1.0 and estimate(before).p is None
    # A difference of z standard errors has the p of a normal distribution, to what 2,000 resamples tell.
    change = rng.normal(0, 1, 400)
    after = column(*(change - change.mean() + 2.0 / np.sqrt(400)))
    assert difference(np.zeros((400, 1)), after).p == pytest.approx(2 * stats.norm.sf(2.0), abs=0.02)


def test_holms_correction_by_hand() -> None:
    # 4 · 0.01, 3 · 0.02, 2 · 0.025 below the one before it, 1 · 0.5.
    assert corrected([0.02, 0.01, 0.5, 0.025]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert corrected([0.6, 0.7]) == [1.0, 1.0] and corrected([]) == [] and corrected([0.3]) == [0.3]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_a_correction_keeps_the_order_and_never_lowers(p: list[float]) -> None:
    found = corrected(p)
    assert all(a <= b <= 1 for a, b in zip(p, found, strict=True))
    assert all(found[i] <= found[j] for i in range(len(p)) for j in range(len(p)) if p[i] < p[j])
    assert min(found) == pytest.approx(min(1.0, len(p) * min(p)))


def test_what_length_explains_is_taken_out() -> None:
    rng = np.random.default_rng(4)
    lengths = np.exp(rng.normal(6, 0.5, (2, 300, 3)))
    quality = rng.normal(0, 0.1, (2, 300, 3))
    # The metric is the log of the length, and the second policy writes a third more.
    longer = (lengths[0], lengths[1] * 4 / 3)
    raw = [np.log(length) + own for length, own in zip(longer, quality, strict=True)]
    assert difference(raw[0], raw[1]).value == pytest.approx(np.log(4 / 3), abs=0.1)
    found = length_controlled(raw[0], raw[1], longer)
    assert found.value is not None and abs(found.value) < 0.05 and found.sign == 0
    # What is better at any length stays.
    better = length_controlled(raw[0], raw[1] + 0.5, longer)
    assert better.value == pytest.approx(0.5 + found.value, abs=1e-12) and better.sign == 1


def test_a_length_controlled_difference_is_the_intercept_of_least_squares() -> None:
    rng = np.random.default_rng(5)
    before, after = rng.normal(0, 1, (2, 50, 2))
    lengths = tuple(np.exp(rng.normal(5, 1, (2, 50, 2))))
    before[0], after[1, 0] = NAN, NAN
    change = np.nanmean(after[1:], 1) - before[1:].mean(1)
    logs = [np.log(lengths[0][1:]), np.where(np.isnan(after[1:]), NAN, np.log(lengths[1][1:]))]
    _, intercept = np.polyfit(np.nanmean(logs[1], 1) - logs[0].mean(1), change, 1)
    assert length_controlled(before, after, (lengths[0], lengths[1])).value == pytest.approx(intercept, rel=1e-9)


def test_an_answer_without_a_length_does_not_count() -> None:
    rng = np.random.default_rng(6)
    before, after = rng.normal(0, 1, (2, 60, 1))
    lengths = np.exp(rng.normal(5, 1, (2, 60, 1)))
    without = length_controlled(before[1:], after[1:], (lengths[0, 1:], lengths[1, 1:]))
    lengths[1, 0] = NAN  # a judge grades what does not match, but its document has no length
    assert length_controlled(before, after, (lengths[0], lengths[1])) == without and without.value is not None


def test_lengths_that_all_change_alike_leave_nothing_to_fit_and_equal_ones_the_difference() -> None:
    values = column(*range(LEAST_QUERIES))
    same = np.full_like(values, 100.0)
    assert length_controlled(values, values + 1, (same, 2 * same)).value is None
    assert length_controlled(values, values + 1, (same, same)).value == pytest.approx(1)
    assert length_controlled(values, np.full_like(values, NAN), (same, same)) == Estimate(None)
    values, same = values[:5], same[:5]
    with pytest.raises(ValueError, match="5 and 4 queries cannot be paired"):
        length_controlled(values, values[1:], (same, same[1:]))
