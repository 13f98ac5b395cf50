"""The order of training rows, and the pairs for the KL estimate."""

import tracemalloc
from collections import Counter
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scorers.errors import UserError
from training.kto.order import mismatched_partner, order_rows

query_lists = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=60)


@given(query_lists, st.integers(1, 12), st.integers(0, 3))
@settings(max_examples=200)
def test_a_batch_repeats_a_query_only_when_no_other_has_rows_left(queries: Any, batch_size: int, seed: int) -> None:
    order = order_rows(queries, batch_size, seed)
    assert sorted(order) == list(range(len(queries)))
    left = Counter(queries)
    for start in range(0, len(queries), batch_size):
        batch = Counter(queries[row] for row in order[start : start + batch_size])
        size = sum(batch.values())
        # as many distinct queries as possible: all that have rows left, or one a row
        assert len(batch) == min(size, len(left))
        left -= batch


def test_the_order_is_deterministic_and_mixed() -> None:
    queries = [f"q{i // 8}" for i in range(256)]
    first = order_rows(queries, 16, 0)
    assert (first == order_rows(queries, 16, 0)).all()
    assert (first != order_rows(queries, 16, 1)).any()
    batches = {frozenset(queries[row] for row in first[start : start + 16]) for start in range(0, 256, 16)}
    assert len(batches) > 8  # not the same company every time
    assert all(len(batch) == 16 for batch in batches)


@given(query_lists, st.integers(1, 12))
@settings(max_examples=200)
def test_partners_are_of_another_query_and_in_the_batch_where_possible(queries: Any, batch_size: int) -> None:
    if len(set(queries)) == 1:
        with pytest.raises(UserError, match="belong to query"):
            mismatched_partner(queries, batch_size)
        return
    partner = mismatched_partner(queries, batch_size)
    for row, other in enumerate(partner):
        assert queries[row] != queries[other]
        start = row - row % batch_size
        stop = min(start + batch_size, len(queries))
        rotated = stop - 1 if row == start else row - 1
        if queries[rotated] != queries[row]:
            assert other == rotated
        else:
            following = (k % len(queries) for k in range(row + 1, row + 1 + len(queries)))
            assert other == next(k for k in following if queries[k] != queries[row])


def test_distinct_queries_rotate_as_in_trl() -> None:
    assert mismatched_partner(list("abcdefg"), 3).tolist() == [2, 0, 1, 5, 3, 4, 0]


def test_eight_million_rows_take_little_memory() -> None:
    """25 bytes a row are 0.2 GiB; with numbers of 8 bytes and one candidate for every row it was 73."""
    rows = 16_000
    queries = pl.Series([f"{i // 8:016x}" for i in range(rows)])
    order = order_rows(queries, 8, 0)
    queries = queries.gather(order)
    mismatched_partner(queries, 8)  # what the first call imports is not the rows'
    tracemalloc.start()
    partner = mismatched_partner(queries, 8)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * rows
    assert order.itemsize == partner.itemsize == 4


def test_queries_as_categories_give_the_same_order() -> None:
    queries = pl.Series([f"q{i % 37}" for i in range(500)])
    categories = queries.cast(pl.Categorical)
    order = order_rows(queries, 8, 3)
    assert (order == order_rows(categories, 8, 3)).all()
    assert (mismatched_partner(queries.gather(order), 8) == mismatched_partner(categories.gather(order), 8)).all()
    with pytest.raises(UserError, match="belong to query q0"):
        mismatched_partner(categories.filter(categories == "q0"), 8)
