"""The order of training rows, and the pairs for the KL estimate, fixed over the whole dataset before the first step.

Rows of one query are neighbours in the dataset. Training wants the opposite: an optimizer batch of different queries,
and, for z_ref, each query beside the completion of another query (KTO's mismatched pairs, Ethayarajh et al., 2024).
"""

import heapq
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from scorers.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

QueryIds = Sequence[str] | pl.Series
"""(N,) the query of each row, N below 2**31. A Series of categories takes 4 bytes a row and is not numbered again."""


def order_rows(query_ids: QueryIds, batch_size: int, seed: int) -> "NDArray[np.int32]":
    """Order rows for training, so that optimizer batches hold different queries.

    Each batch takes one row from each of the queries with the most rows left (ties are broken by `seed`), so it holds a
    query twice only when every query that has rows left is in it already. The last batch may be shorter.

    Args:
        query_ids: (N,) query of each row.
        batch_size: rows per optimizer step, over devices and accumulation steps.
        seed: the same seed gives the same order.

    Returns:
        (N,) a permutation of the row numbers.
    """
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(len(query_ids)).astype(np.int32)
    codes = _numbers(query_ids)[shuffled]
    # Rows of one query side by side, each query's in random order; numpy's sort keeps the order of equal numbers.
    by_query = np.argsort(codes, kind="stable").astype(np.int32)
    rows, codes = shuffled[by_query], codes[by_query]
    begins = np.flatnonzero(np.diff(codes, prepend=-1))  # of each query in `rows`
    left = np.diff(begins, append=len(rows))
    # Ties are drawn in the order in which the shuffled rows show the queries.
    ties = np.empty(len(begins))
    ties[np.argsort(by_query[begins])] = generator.random(len(begins))
    # A min-heap: the negative number of rows left brings the query with the most rows to the top.
    heap = list(zip((-left).tolist(), ties.tolist(), range(len(begins)), strict=True))
    heapq.heapify(heap)
    place = np.empty(len(rows), dtype=np.int32)  # of each row in `rows`
    filled = 0
    while heap:
        taken: list[tuple[int, float, int]] = []
        for _ in range(batch_size):
            if not heap:  # every query with rows left is in the batch: start a second turn
                _refill(heap, taken, generator)
                taken = []
            if not heap:
                break
            # The query leaves the heap until the batch is full, so that it is not drawn twice.
            negative, tie, query = heapq.heappop(heap)
            place[filled] = begins[query] - negative - 1
            filled += 1
            taken.append((negative + 1, tie, query))
        _refill(heap, taken, generator)
    return rows[place]


def _refill(
    heap: list[tuple[int, float, int]], taken: list[tuple[int, float, int]], generator: np.random.Generator
) -> None:
    """Put the queries of a finished turn back into the heap, as far as they have rows left."""
    for negative, _, query in taken:
        if negative:
            # A new random tie each turn, else the same queries would meet in every batch.
            heapq.heappush(heap, (negative, float(generator.random()), query))


def _numbers(query_ids: QueryIds) -> "NDArray[np.int32]":
    """Number the queries: (N,) equal ids have equal numbers."""
    series = query_ids if isinstance(query_ids, pl.Series) else pl.Series(list(query_ids), dtype=pl.String)
    return series.cast(pl.Categorical).to_physical().to_numpy().astype(np.int32)


def mismatched_partner(query_ids: QueryIds, batch_size: int) -> "NDArray[np.int32]":
    """Choose for each row the row whose completion it borrows for the estimate of z_ref, always one of another query.

    Within an optimizer batch completions rotate by one, as in TRL. Where that would pair rows of the same query (few
    queries are left, or the batch has one row), the next row of another query is taken, in training order and from the
    end back to the start.

    Args:
        query_ids: (N,) query of each row, in training order.
        batch_size: rows per optimizer step, over devices and accumulation steps.

    Returns:
        (N,) row numbers.

    Raises:
        UserError: all rows belong to one query.
    """
    ids = _numbers(query_ids)
    count = len(ids)
    if count and bool((ids == ids[0]).all()):
        raise UserError(
            f"all {count} rows belong to query {query_ids[0]}, so kl=mismatched has no other query's completion; "
            "use more queries, or kl=matched or kl=none"
        )
    # Rotate by one: each row borrows from the row before it, the first of a batch from the last.
    index = np.arange(count, dtype=np.int32)
    start = index - index % batch_size
    last = np.minimum(start + batch_size, count) - 1
    partner = np.where(index == start, last, index - 1)
    same = np.flatnonzero(ids[partner] == ids)
    if len(same):
        partner[same] = _next_other(ids, same)
    return partner


def _next_other(ids: "NDArray[np.int32]", rows: "NDArray[np.int64]") -> "NDArray[np.int64]":
    """For some rows the number of the next row, cyclically, whose query differs.

    Args:
        ids: (N,) number of each row's query; at least two queries, else there is no such row.
        rows: (M,) numbers of the rows.
    """
    # Where a run of one query begins; the row before row 0 is the last one.
    begins = np.flatnonzero(ids != np.roll(ids, 1))
    after = np.searchsorted(begins, rows, side="right")
    return begins[after % len(begins)]
