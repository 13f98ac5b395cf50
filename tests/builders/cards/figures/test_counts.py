"""The numbers behind histograms, means and samples, by hand and for any numbers."""

import hashlib
import math
from itertools import pairwise

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.cards.figures.counts import (
    SAMPLE,
    Mean,
    Spread,
    counts_by,
    edges_of,
    finite,
    means_by,
    round_width,
    sampled,
    spreads,
    tenths,
)

ALL = {"rows": pl.lit(True)}


def spread_of(values: list[float | None]) -> Spread:
    return spreads(pl.LazyFrame({"x": pl.Series(values, dtype=pl.Float64)}), ["x"])["x"]


def test_where_numbers_lie_without_those_that_are_none() -> None:
    rows = pl.LazyFrame(
        {"x": [1.0, None, math.nan, math.inf, -math.inf, 1e300, 5.0, 3.0], "y": [None] * 8, "z": [7] * 8}
    )
    assert spreads(rows, ["x", "y", "z"]) == {
        "x": Spread(3, 1.0, 5.0, (2.0, 3.0, 4.0)),
        "z": Spread(8, 7.0, 7.0, (7.0, 7.0, 7.0)),
    }
    assert spreads(rows, []) == {}


def test_edges_are_multiples_of_a_round_width() -> None:
    assert edges_of(spread_of([-3.0, -1.0, 0.0, 1.0, 4.0]), 8) == [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0]
    # A percentage ends at 100, and not a bin above it.
    assert edges_of(spread_of([80.0, 90.0, 100.0]), 4) == [80.0, 85.0, 90.0, 95.0, 100.0]
    # But 0 divides the signs: a weight of 0 is a positive one's.
    assert edges_of(spread_of([-2.0, -1.0, 0.0]), 2) == [-2.0, -1.0, 0.0, 1.0]
    assert len(edges_of(spread_of([5.0, 5.0]))) == 2 and len(edges_of(spread_of([0.0]))) == 2


def test_what_lies_far_out_has_no_bins_of_its_own() -> None:
    values = [float(n % 10) for n in range(100)] + [1e6]
    edges = edges_of(spread_of([*values]), 10)
    assert edges[0] == 0 and edges[-1] < 40
    counts = counts_by(pl.LazyFrame({"x": values}), finite("x"), edges, ALL)["rows"]
    assert sum(counts) == 101 and counts[-1] >= 1


def test_numbers_are_counted_by_bin_and_series() -> None:
    rows = pl.LazyFrame(
        {"x": [0.0, 0.1, 0.3, 0.3, 0.9, None, math.nan], "label": [True, False, True, None, True, True, True]}
    )
    label = pl.col("label")
    counts = counts_by(rows, finite("x"), [0.1 * n for n in range(5)], {"yes": label, "no": ~label})
    # 0.3 / 0.1 is below 3 in floats; 0.9 lies beyond the last edge; a row without a label belongs to no series.
    assert counts == {"yes": [1, 0, 0, 2], "no": [0, 1, 0, 0]}


@given(
    st.lists(st.none() | st.floats(allow_nan=True, allow_infinity=True) | st.integers(-3, 3).map(float), max_size=40)
)
def test_every_finite_number_is_counted_once(values: list[float | None]) -> None:
    rows = pl.LazyFrame({"x": pl.Series(values, dtype=pl.Float64)})
    found = spreads(rows, ["x"])
    assert bool(found) == any(value is not None and abs(value) < 1e15 for value in values)
    for spread in found.values():
        edges = edges_of(spread)
        assert all(low < high for low, high in pairwise(edges)) and 2 <= len(edges) <= 40
        assert sum(counts_by(rows, finite("x"), edges, ALL)["rows"]) == spread.count


@given(st.floats(1e-12, 1e15))
def test_round_widths(least: float) -> None:
    width = round_width(least)
    assert least * (1 - 1e-8) <= width <= 2.5 * least * (1 + 1e-8)
    assert f"{width:e}"[0] in "125" and float(f"{width:.1e}") == pytest.approx(width)


def test_means_are_over_queries() -> None:
    rows = pl.LazyFrame(
        {
            "query_id": ["a", "a", "a", "b", "a", "c"],
            "policy": ["p", "p", "p", "p", "q", None],
            "x": [1.0, 2.0, 3.0, 4.0, 7.0, 9.0],
        }
    )
    # Of p the queries' means are 2 and 4, whose deviation is √2; q has one query, so no interval.
    found = means_by(rows, "x", "policy")
    assert [(mean.name, mean.value, mean.count) for mean in found] == [("p", 3.0, 2), ("q", 7.0, 1)]
    assert found[0].half == pytest.approx(1.96 * math.sqrt(2) / math.sqrt(2)) and found[1] == Mean("q", 7.0, None, 1)


def test_a_sample_is_of_whole_groups_in_the_order_of_their_hashes() -> None:
    groups = [f"q{n:05d}" for n in range(SAMPLE)]
    rows = pl.LazyFrame({"query_id": [group for group in groups for _ in range(3)], "x": range(3 * SAMPLE)})
    chosen, count = sampled(rows, "query_id")
    frame = chosen.collect()
    assert count == 3 * SAMPLE and frame.height == SAMPLE // 3 * 3
    first = sorted(groups, key=lambda name: hashlib.sha256(name.encode()).digest())[: SAMPLE // 3]
    assert set(frame["query_id"]) == set(first) and frame["query_id"].value_counts()["count"].unique().to_list() == [3]
    alone, _ = sampled(rows.with_columns(query_id=pl.lit("one")), "query_id")
    assert alone.collect()["x"].to_list() == list(range(SAMPLE)), "of a group that is too large the first rows"
    few, count = sampled(rows.head(5), "query_id")
    assert (few.collect().height, count) == (5, 5)
    without, count = sampled(rows, None)
    assert (without.collect()["x"].to_list()[:2], count) == ([0, 1], 3 * SAMPLE)


def test_tenths_and_rank_correlation() -> None:
    rows = pl.DataFrame({"length": [float(n) for n in range(20)], "reward": [float(n) ** 3 for n in range(20)]})
    means, rho = tenths(rows)
    assert means["length"].to_list() == [0.5 + 2 * n for n in range(10)] and means["reward"][0] == 0.5
    assert rho == pytest.approx(1)
    means, rho = tenths(pl.DataFrame({"length": [4.0, 4.0, 4.0], "reward": [1.0, 2.0, 6.0]}))
    assert means.to_dicts() == [{"tenth": 5.0, "length": 4.0, "reward": 3.0}] and rho is None
