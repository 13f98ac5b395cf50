"""Strengths of policies: by hand where there is a closed form, against scipy's optimiser, and their intervals."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import beta

from training.bradley_terry import Judged, strengths


def repeated(share: float, times: int, first: int = 0, second: int = 1, start: int = 0) -> list[Judged]:
    return [Judged(f"q{start + n}", first, second, share) for n in range(times)]


def test_two_policies_by_hand() -> None:
    # 7 wins and 1 loss, and a tie added: 7.5 to 1.5, so the log odds are log 5.
    found = strengths([*repeated(1.0, 7), *repeated(0.0, 1, start=7)], 2)
    assert [one.value for one in found] == pytest.approx([math.log(5) / 2, -math.log(5) / 2], abs=1e-5)
    # Ties count half for each, and so does nothing at all.
    assert [one.value for one in strengths(repeated(0.5, 9), 2)] == pytest.approx([0, 0], abs=1e-6)


def test_a_policy_that_always_wins_has_a_strength() -> None:
    first, second = strengths(repeated(1.0, 50), 2)
    assert first.value == pytest.approx(math.log(50.5 / 0.5) / 2, abs=1e-4) and second.value == -first.value
    assert first.low is not None and first.low <= first.value


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(list(combinations(range(4), 2))), st.sampled_from([0.0, 0.5, 1.0])), min_size=1)
)
def test_the_likelihood_is_greatest(pairs: list[tuple[tuple[int, int], float]]) -> None:
    """The negative log-likelihood, ties and the added tie as half wins, minimised by another method."""
    judged = [Judged("q", *policies, share) for policies, share in pairs]  # of one query there are no resamples

    def cost(values: NDArray[np.float64]) -> float:
        terms = [(one.first, one.second, one.share) for one in judged]
        terms += [(first, second, 0.5) for first, second in combinations(range(4), 2)]
        odds = ((share, float(values[first] - values[second])) for first, second, share in terms)
        return sum(float(share * np.logaddexp(0, -x) + (1 - share) * np.logaddexp(0, x)) for share, x in odds)

    other = minimize(cost, np.zeros(4), method="BFGS", tol=1e-10).x
    found = np.array([one.value for one in strengths(judged, 4)])
    assert found == pytest.approx(other - other.mean(), abs=2e-3)
    assert found.sum() == pytest.approx(0, abs=1e-9)


def test_intervals_are_over_queries() -> None:
    few = strengths([*repeated(1.0, 6), *repeated(0.0, 4, start=6)], 2)[0]
    many = strengths([*repeated(1.0, 65), *repeated(0.0, 35, start=65)], 2)[0]
    assert few.low is not None and few.high is not None and many.low is not None and many.high is not None
    assert few.low < 0 < few.high and 0 < many.low < many.value < many.high
    assert many.high - many.low < few.high - few.low
    # One that always wins is no surer than a share of Beta(n + 1/2, 1/2); one that was never judged is anywhere.
    ends = beta.ppf([0.025, 0.975], 20.5, 0.5)
    always, _, never = strengths(repeated(1.0, 20), 3)
    assert always.low is not None and always.high is not None and never.low is not None and never.high is not None
    two = strengths(repeated(1.0, 20), 2)[0]
    assert two.low == pytest.approx(np.log(ends[0] / (1 - ends[0])) / 2, rel=0.15)
    assert never.high - never.low > 1 and always.low < always.value < always.high
    # A query that is repeated a hundred times is one query.
    again = strengths([Judged("q", 0, 1, 1.0)] * 100, 2)[0]
    assert again.low is None and again.high is None
    assert strengths(repeated(1.0, 6), 2) == strengths(repeated(1.0, 6), 2)


@pytest.mark.parametrize(("policies", "judged"), [(1, repeated(1.0, 1)), (2, [])])
def test_too_few(policies: int, judged: list[Judged]) -> None:
    with pytest.raises(ValueError, match="two policies and a pair are needed"):
        strengths(judged, policies)
