"""Global weights, labels and totals (eq. 8–10)."""

from fractions import Fraction

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tolerances import sum64

from scorers.forms import FORMS, Form
from scorers.weighting import CLIP, Totals, global_weights, totals_of

# Rewards below 1e-9 in magnitude do not occur: the ranking sets them to 0.
SIZE = st.floats(1e-9, 10)
REWARDS = st.lists(st.one_of(st.none(), st.just(0.0), SIZE, SIZE.map(lambda z: -z)), max_size=40)


def series(values: list[float | None]) -> pl.Series:
    return pl.Series(values, dtype=pl.Float64)


def weights(values: list[float | None], totals: Totals | None = None) -> list[float]:
    return global_weights(series(values), totals)["weight"].to_list()


def test_gold() -> None:
    # Ω+ has z = 1.5, 0, 0.5: three rows, sum 2, factor 1.5. Ω− has −0.5, −1.5: two rows, sum −2, factor 1.
    frame = global_weights(series([1.5, 0.0, -0.5, None, 0.5, -1.5]))
    assert frame.schema == {"weight": pl.Float64, "label": pl.Boolean}
    assert frame["weight"].to_list() == [2.25, 0.0, -0.5, -1.0, 0.75, -1.5]
    assert frame["label"].to_list() == [True, True, False, False, True, False]


def test_gold_totals() -> None:
    assert totals_of(series([1.5, 0.0, -0.5, None, 0.5, -1.5])) == Totals(2.0, 3, -2.0, 2)
    assert totals_of(series([None])) == totals_of(series([])) == Totals()
    assert Totals(1.0, 2, -3.0, 4) + Totals(0.5, 1, -0.25, 1) == Totals(1.5, 3, -3.25, 5)


def test_a_part_takes_the_totals_of_the_whole() -> None:
    # Of the whole, Ω+ has 4 rows and sum 2, Ω− has 6 rows and sum −3: both factors are 2.
    assert weights([1.0, -1.0, None], Totals(2.0, 4, -3.0, 6)) == [2.0, -2.0, -1.0]


def test_rewards_that_sum_to_zero_weigh_nothing() -> None:
    frame = global_weights(series([0.0, 0.0, None]))
    assert frame["weight"].to_list() == [0.0, 0.0, -1.0]
    assert frame["label"].to_list() == [True, True, False]


def test_binary_replaces_the_weights_only() -> None:
    frame = global_weights(series([1.5, 0.0, -0.5, None]), binary=True)
    assert frame["weight"].to_list() == [1.0, 1.0, -1.0, -1.0]
    assert frame["label"].to_list() == [True, True, False, False]


def test_gold_of_the_other_forms() -> None:
    rewards = series([2.25, 0.0, 0.25, -1.0, -0.25, None])
    # √|z| is 1.5, 0, 0.5 and 1, 0.5: sums 2 over three rows and 1.5 over two.
    assert totals_of(rewards, "root") == Totals(2.0, 3, -1.5, 2)
    root = global_weights(rewards, form="root")["weight"].to_list()
    assert root == pytest.approx([2.25, 0.0, 0.75, -4 / 3, -2 / 3, -1.0])
    # Linear: factors 3 / 2.5 and 2 / 1.25, so 2.7 is clipped.
    clipped = global_weights(rewards, form="clipped")["weight"].to_list()
    assert clipped == pytest.approx([2.0, 0.0, 0.3, -1.6, -0.4, -1.0])
    assert global_weights(rewards, form="local")["weight"].to_list() == [2.25, 0.0, 0.25, -1.0, -0.25, -1.0]


@given(REWARDS, st.sampled_from(FORMS))
def test_a_form_keeps_labels_signs_and_order(values: list[float | None], form: Form) -> None:
    linear, other = (global_weights(series(values), form=f) for f in ("linear", form))
    assert other["label"].equals(linear["label"])
    scored = other.with_columns(z=series(values)).drop_nulls().sort("z")
    assert (scored["weight"] * scored["z"] >= 0).all() and scored["weight"].is_sorted()
    assert form != "clipped" or scored["weight"].abs().max() in (None, *scored["weight"].abs().clip(upper_bound=CLIP))


def test_no_rewards_give_no_weights() -> None:
    assert global_weights(series([])).shape == (0, 2)


@given(REWARDS)
def test_equals_exact_arithmetic(values: list[float | None]) -> None:
    scored = [z for z in values if z is not None]
    up, down = [Fraction(z) for z in scored if z >= 0], [Fraction(z) for z in scored if z < 0]
    for z, weight in zip(values, weights(values), strict=True):
        if z is None:
            assert weight == -1.0
        elif z >= 0:
            exact = Fraction(z) * len(up) / sum(up) if sum(up) else Fraction(0)
            assert weight == pytest.approx(float(exact), rel=sum64(len(up), 1))
        else:
            assert weight == pytest.approx(float(-Fraction(z) * len(down) / sum(down)), rel=sum64(len(down), 1))


@given(REWARDS)
def test_weights_sum_to_the_rows_of_each_polarity(values: list[float | None]) -> None:
    frame = global_weights(series(values)).with_columns(z=series(values)).drop_nulls()
    for label, sign in ((True, 1), (False, -1)):
        rows = frame.filter(pl.col("label") == label)
        expected = sign * rows.height if (rows["z"] != 0).any() else 0
        assert rows["weight"].sum() == pytest.approx(expected, abs=sum64(2 * rows.height, rows.height))


@given(REWARDS, st.integers(-20, 20))
def test_the_unit_of_the_rewards_does_not_matter(values: list[float | None], exponent: int) -> None:
    scaled = [None if z is None else z * 2.0**exponent for z in values]
    assert weights(scaled) == weights(values)


@given(st.lists(REWARDS, min_size=1, max_size=5))
def test_totals_of_parts_add_up(parts: list[list[float | None]]) -> None:
    whole = totals_of(series([z for part in parts for z in part]))
    added = sum((totals_of(series(part)) for part in parts), start=Totals())
    assert (added.positive_rows, added.negative_rows) == (whole.positive_rows, whole.negative_rows)
    for one, other, rows in (
        (added.positive_sum, whole.positive_sum, whole.positive_rows),
        (added.negative_sum, whole.negative_sum, whole.negative_rows),
    ):
        assert one == pytest.approx(other, abs=sum64(2 * rows, abs(other)))
