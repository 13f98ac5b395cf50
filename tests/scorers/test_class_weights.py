"""Class weights: gold values, the balance they promise, and what an absent label means."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorers.class_weights import class_weights
from scorers.errors import UserError


def test_gold_values() -> None:
    assert class_weights(1, 3) == (2.0, 4 / 6)
    assert class_weights(4, 4) == (1.0, 1.0)


@given(st.integers(1, 10_000), st.integers(1, 10_000))
def test_both_labels_have_the_same_total_weight(positive: int, negative: int) -> None:
    up, down = class_weights(positive, negative)
    assert up * positive == pytest.approx(down * negative)
    assert up * positive + down * negative == pytest.approx(positive + negative)
    assert min(up, down) > 0.5


def test_an_absent_label_leaves_both_at_one() -> None:
    assert class_weights(5, 0) == (1.0, 1.0)
    assert class_weights(0, 5) == (1.0, 1.0)


def test_no_rows_is_an_error() -> None:
    with pytest.raises(UserError, match="no rows"):
        class_weights(0, 0)
