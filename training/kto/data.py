"""Rows of a weights dataset for training: read, check, order, and pair them for the KL estimate.

A row, as `load_weights_dataset` hands it on:

    prompt       [{"role": "user", "content": "Please write a report titled …"}]
    completion   [{"role": "assistant", "content": "<summary>The report explains how the timber …</answer>"}]
    label        True
    weight       0.7756
    query_id     38c5d07044db690d
    response_id  38c5d07044db690d-5

Rows of one query are neighbours in the dataset. Training wants the opposite: an optimizer batch of different queries,
and, for z_ref, each query beside the completion of another query (KTO's mismatched pairs, Ethayarajh et al., 2024).
Order and pairs are fixed here, over the whole dataset, before the first step.
"""

import hashlib
import heapq
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from builders.store.columns import MESSAGES
from scorers.errors import UserError

if TYPE_CHECKING:
    import datasets
    from numpy.typing import NDArray

# Columns that training cannot do without, and their types; an integer weight is taken too.
REQUIRED: dict[str, pl.DataType] = {
    "prompt": MESSAGES,
    "completion": MESSAGES,
    "label": pl.Boolean(),
    "weight": pl.Float64(),
}


def load_weights_dataset(source: pl.DataFrame | Sequence[Path]) -> "tuple[datasets.Dataset, list[str]]":
    """Load a weights dataset in TRL's unpaired form, with the weight of each row.

    Args:
        source: the rows, or the Parquet files that hold them; columns other than those below are left out.

    Returns:
        The dataset with columns prompt and completion (messages), label (bool), weight (float), query_id and
        response_id (strings), and a list of one-line warnings. Where query_id is absent, rows with equal prompts count
        as one query, since a weights dataset holds several responses to each (`complete_rows` has another rule). Where
        response_id is absent, it is `row i`, i from 0.

    Raises:
        UserError: a column is missing or of another type, there is no row, a value is null, a weight is not finite.
    """
    import datasets

    frame = _read(source)
    _require(frame)
    frame = frame.with_columns(pl.col("weight").cast(pl.Float64), *_keys(frame))
    _require_values(frame)
    warnings = []
    if frame["label"].n_unique() == 1:
        only = "positive" if frame["label"][0] else "negative"
        warnings.append(f"all {len(frame)} rows are {only}: both class weights are 1 and nothing pulls the other way")
    columns = frame.select("prompt", "completion", "label", "weight", "query_id", "response_id")
    return datasets.Dataset.from_polars(columns), warnings


def _read(source: pl.DataFrame | Sequence[Path]) -> pl.DataFrame:
    """Read the columns that training uses, as far as they exist; the others stay on disk."""
    if isinstance(source, pl.DataFrame):
        return source
    if not source:
        raise UserError("the weights dataset has no Parquet file; build it with `build --stage calibrate`")
    try:
        scan = pl.scan_parquet(list(source))
        wanted = [*REQUIRED, "query_id", "response_id"]
        return scan.select([name for name in scan.collect_schema().names() if name in wanted]).collect()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise UserError(
            f"cannot read {source[0]} as Parquet ({str(error).splitlines()[0]}); rebuild or download the dataset"
        ) from error


def _require(frame: pl.DataFrame) -> None:
    """Check columns, types and number of rows; one message names all missing and wrong columns."""
    missing = [name for name in REQUIRED if name not in frame.columns]
    wrong = [
        f"{n} is {frame.schema[n]}, not {t}" for n, t in REQUIRED.items() if n not in missing and not _fits(frame, n)
    ]
    if missing or wrong:
        faults = ([f"missing {', '.join(missing)}"] if missing else []) + wrong
        raise UserError(
            f"the dataset cannot be trained on: {'; '.join(faults)}; "
            "give a weights dataset (`build --stage calibrate` makes one)"
        )
    if frame.is_empty():
        raise UserError("the weights dataset has 0 rows, training needs at least 1; look at the stages before it")


def _fits(frame: pl.DataFrame, name: str) -> bool:
    """Whether a column has the type of `REQUIRED`: any number for a float, messages with their fields in any order."""
    found, wanted = frame.schema[name], REQUIRED[name]
    if wanted.is_float():
        return found.is_numeric()
    if not isinstance(found, pl.List) or not isinstance(found.inner, pl.Struct):
        return found == wanted
    return {field.name: field.dtype for field in found.inner.fields} == {"role": pl.String, "content": pl.String}


def _keys(frame: pl.DataFrame) -> list[pl.Series]:
    """The columns query_id and response_id, as far as the dataset lacks them."""
    keys = []
    if "query_id" not in frame.columns:
        ids = [hashlib.sha256(repr(messages.to_list()).encode()).hexdigest()[:16] for messages in frame["prompt"]]
        keys.append(pl.Series("query_id", ids, dtype=pl.String))
    if "response_id" not in frame.columns:
        keys.append(pl.Series("response_id", [f"row {i}" for i in range(len(frame))], dtype=pl.String))
    return keys


def _require_values(frame: pl.DataFrame) -> None:
    """Check that no value is null, no list of messages is empty and every weight is finite."""
    for name in (*REQUIRED, "query_id", "response_id"):
        if frame[name].null_count():
            row = frame["response_id"][int(frame[name].is_null().arg_true()[0])]
            raise UserError(f"column {name} is null in {row}; every row needs a value: rebuild the dataset")
    for name in ("prompt", "completion"):
        empty = frame.filter(pl.col(name).list.len() == 0)
        if len(empty):
            raise UserError(f"column {name} of {empty['response_id'][0]} has no message; it needs at least one")
    bad = frame.filter(~pl.col("weight").is_finite())
    if len(bad):
        raise UserError(
            f"the weight of {bad['response_id'][0]} is {bad['weight'][0]} ({len(bad)} rows like it); "
            "weights must be finite: calibrate again"
        )


def complete_rows(dataset: "datasets.Dataset", name: str) -> "datasets.Dataset":
    """Add the columns that the loss and its messages need to a dataset in the form that TRL's users have.

    Args:
        dataset: columns prompt and completion (both strings, or both lists of messages) and label (bool). Used where
            present: weight (finite; only its absolute value enters the loss), query_id and response_id (strings).
        name: what messages call the dataset, such as train or eval.

    Returns:
        The dataset with the missing columns added. weight: 1 for a positive and −1 for a negative row, which is plain
        KTO. query_id: every row is a query of its own, also where prompts are equal, since nothing says that such rows
        belong together. response_id: `name row i`, i from 0.

    Raises:
        UserError: there is no row; a column is missing, of another type, or null in a row; a weight is not finite.
    """
    if not len(dataset):
        raise UserError(f"the {name} dataset has 0 rows; give at least 1")
    _require_columns(dataset, name)
    rows = [f"{name} row {i}" for i in range(len(dataset))]
    defaults: dict[str, list[str] | list[float]] = {"response_id": rows, "query_id": rows}
    if "weight" not in dataset.column_names:
        defaults["weight"] = [1.0 if label else -1.0 for label in dataset["label"]]
    for column, values in defaults.items():
        if column not in dataset.column_names:
            dataset = dataset.add_column(column, values)
    weights = np.asarray(dataset["weight"][:], dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(weights))
    if len(bad):
        raise UserError(
            f"the weight of {dataset['response_id'][int(bad[0])]} is {weights[bad[0]]} ({len(bad)} rows like it); "
            "weights must be finite"
        )
    return dataset


def _require_columns(dataset: "datasets.Dataset", name: str) -> None:
    missing = [column for column in ("prompt", "completion", "label") if column not in dataset.column_names]
    if missing:
        raise UserError(f"the {name} dataset has no column {', '.join(missing)}; it needs prompt, completion and label")
    # Features of nested lists have no dtype.
    label = getattr(dataset.features["label"], "dtype", "a list")
    if label != "bool":
        raise UserError(f"column label is {label}, not bool; cast it: dataset.cast_column('label', Value('bool'))")
    weight = getattr(dataset.features.get("weight"), "dtype", "float64")
    if not weight.startswith(("float", "int", "uint")):
        raise UserError(f"column weight is {weight}, not a number")
    known = [c for c in (*REQUIRED, "query_id", "response_id") if c in dataset.column_names]
    # Arrow keeps the null count of a column, so no row has to become a Python object.
    table = dataset.select_columns(known).with_format("arrow")[:]
    for column in known:
        if table.column(column).null_count:
            row = table.column(column).is_null().to_pylist().index(True)
            raise UserError(f"column {column} is null in {name} row {row}; every row needs a value")


def order_rows(query_ids: Sequence[str], batch_size: int, seed: int) -> "NDArray[np.int64]":
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
    # Rows left by query, each list in random order.
    rows: dict[str, list[int]] = {}
    for row in generator.permutation(len(query_ids)):
        rows.setdefault(query_ids[row], []).append(int(row))
    # A min-heap: the negative number of rows left brings the query with the most rows to the top.
    heap = [
        (-len(left), tie, query) for (query, left), tie in zip(rows.items(), generator.random(len(rows)), strict=True)
    ]
    heapq.heapify(heap)
    order: list[int] = []
    while heap:
        taken: list[tuple[int, float, str]] = []
        for _ in range(batch_size):
            if not heap:  # every query with rows left is in the batch: start a second turn
                _refill(heap, taken, rows, generator)
                taken = []
            if not heap:
                break
            # The query leaves the heap until the batch is full, so that it is not drawn twice.
            negative, tie, query = heapq.heappop(heap)
            order.append(rows[query].pop())
            taken.append((negative + 1, tie, query))
        _refill(heap, taken, rows, generator)
    return np.asarray(order, dtype=np.int64)


def _refill(
    heap: list[tuple[int, float, str]],
    taken: list[tuple[int, float, str]],
    rows: dict[str, list[int]],
    generator: np.random.Generator,
) -> None:
    """Put the queries of a finished turn back into the heap, as far as they have rows left."""
    for negative, _, query in taken:
        if rows[query]:
            # A new random tie each turn, else the same queries would meet in every batch.
            heapq.heappush(heap, (negative, float(generator.random()), query))


def mismatched_partner(query_ids: Sequence[str], batch_size: int) -> "NDArray[np.int64]":
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
    ids = np.asarray(query_ids, dtype=object)
    count = len(ids)
    if count and bool((ids == ids[0]).all()):
        raise UserError(
            f"all {count} rows belong to query {ids[0]}, so kl=mismatched has no other query's completion; "
            "use more queries, or kl=matched or kl=none"
        )
    # Rotate by one: each row borrows from the row before it, the first of a batch from the last.
    index = np.arange(count)
    start = index - index % batch_size
    last = np.minimum(start + batch_size, count) - 1
    partner = np.where(index == start, last, index - 1)
    following = _next_other(ids)
    return np.where(ids[partner] == ids, following, partner).astype(np.int64)


def _next_other(ids: "NDArray[np.object_]") -> "NDArray[np.int64]":
    """For each row the number of the next row, cyclically, whose query differs.

    Args:
        ids: (N,) query of each row; at least two queries, else there is no such row.
    """
    count = len(ids)
    following = np.empty(count, dtype=np.int64)
    changed = 0
    for step in range(2 * count - 1, -1, -1):  # backwards, twice round: the end sees the start
        here, after = step % count, (step + 1) % count
        if ids[here] != ids[after]:
            changed = after
        following[here] = changed
    return following
