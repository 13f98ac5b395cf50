"""Professionalism (eq. 3)."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tolerances import sum64

from scorers.professionalism import professionalism

PERPLEXITIES = st.lists(st.tuples(*[st.none() | st.floats(1, 1e6)] * 2), max_size=20)
WEIGHT = st.floats(-4, 4)


def test_gold() -> None:
    assert professionalism([8.0, 12.5, 3.0], [7.5, 20.0, 3.0]) == [0.5, -7.5, 0.0]
    assert professionalism([8.0, 12.5], [7.5, 20.0], 0.5, -2.0) == [4.0 + 15.0, 6.25 + 40.0]
    assert professionalism([], []) == []


def test_a_document_without_a_perplexity_has_none() -> None:
    assert professionalism([None, 8.0, None, 2.0], [3.0, None, None, 1.0]) == [None, None, None, 1.0]


def test_unequal_numbers() -> None:
    with pytest.raises(ValueError, match="longer than"):
        professionalism([1.0], [1.0, 2.0])


@given(PERPLEXITIES, WEIGHT, WEIGHT)
def test_equals_exact_arithmetic(pairs: list[tuple[float | None, float | None]], up: float, down: float) -> None:
    general, domain = [g for g, _ in pairs], [d for _, d in pairs]
    for value, g, d in zip(professionalism(general, domain, up, down), general, domain, strict=True):
        if g is None or d is None:
            assert value is None
        else:
            exact = Fraction(up) * Fraction(g) - Fraction(down) * Fraction(d)
            assert value == pytest.approx(float(exact), abs=sum64(2, abs(up) * g + abs(down) * d))


@given(PERPLEXITIES, WEIGHT, WEIGHT)
def test_changing_sides_changes_the_sign(
    pairs: list[tuple[float | None, float | None]], up: float, down: float
) -> None:
    general, domain = [g for g, _ in pairs], [d for _, d in pairs]
    turned = professionalism(domain, general, down, up)
    assert professionalism(general, domain, up, down) == [None if value is None else -value for value in turned]
