"""The learning rate over all rounds."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.kto.schedule import learning_rate_factor


def test_gold_values() -> None:
    factors = [learning_rate_factor(step, 2, 10, 0.2) for step in (0, 1, 2, 6, 10, 11)]
    assert factors == pytest.approx([0, 0.5, 1, 0.6, 0.2, 0.2])


def test_without_warm_up_it_starts_at_the_peak() -> None:
    assert learning_rate_factor(0, 0, 10, 0.0) == 1


@given(st.integers(1, 200), st.integers(1, 400), st.floats(0, 1))
def test_it_rises_then_falls_to_the_floor(warmup: Any, rest: Any, floor: Any) -> None:
    factors = [learning_rate_factor(step, warmup, warmup + rest, floor) for step in range(warmup + rest + 1)]
    assert factors[warmup] == pytest.approx(1)
    assert all(a < b for a, b in itertools.pairwise(factors[: warmup + 1]))
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(factors[warmup:]))
    assert factors[-1] == pytest.approx(floor)
