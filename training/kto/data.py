"""The rows that KTO trains on: which columns count, and what is checked before the first step.

A row of a weights dataset, of which other columns stay on disk:

    prompt         [{"role": "user", "content": "Please write a report titled …"}]
    completion     [{"role": "assistant", "content": "<summary>The report explains how the timber …</answer>"}]
    label          True
    weight         0.7756
    query_id       38c5d07044db690d
    response_id    38c5d07044db690d-5
    finish_reason  stop
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

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
FINISH_REASON = "finish_reason"
SAMPLED = ("logprob", "num_tokens")
READ = (*REQUIRED, "query_id", "response_id", FINISH_REASON, *SAMPLED)
"""The columns that training reads; those after `REQUIRED` where they are there."""


def require_columns(schema: "pl.Schema", rows: int) -> None:
    """Check a weights dataset's columns, their types and its number of rows; one message names all faults.

    Raises:
        UserError: a column is missing or of another type, or there is no row.
    """
    missing = [name for name in REQUIRED if name not in schema]
    wrong = [
        f"{n} is {schema[n]}, not {t}" for n, t in REQUIRED.items() if n not in missing and not _fits(schema[n], t)
    ]
    if missing or wrong:
        faults = ([f"missing {', '.join(missing)}"] if missing else []) + wrong
        raise UserError(
            f"the dataset cannot be trained on: {'; '.join(faults)}; "
            "give a weights dataset (`build --stage calibrate` makes one)"
        )
    if not rows:
        raise UserError("the weights dataset has 0 rows, training needs at least 1; look at the stages before it")


def _fits(found: pl.DataType, wanted: pl.DataType) -> bool:
    """Whether a column has the type of `REQUIRED`: any number for a float, messages with their fields in any order."""
    if wanted.is_float():
        return found.is_numeric()
    if not isinstance(found, pl.List) or not isinstance(found.inner, pl.Struct):
        return found == wanted
    return {field.name: field.dtype for field in found.inner.fields} == {"role": pl.String, "content": pl.String}


def with_ids(frame: pl.DataFrame, first_row: int = 0) -> pl.DataFrame:
    """Add the columns query_id and response_id, as far as the dataset lacks them.

    Rows with equal prompts count as one query, since a weights dataset holds several responses to each (`complete_rows`
    has another rule); a response is called `row i`.

    Args:
        frame: rows with a prompt.
        first_row: number of the first of them in the dataset.
    """
    added = []
    # A column that is null throughout has the type Null, and is as good as absent.
    if frame.schema.get("query_id", pl.Null()) == pl.Null():
        ids = [hashlib.sha256(repr(messages.to_list()).encode()).hexdigest()[:16] for messages in frame["prompt"]]
        added.append(pl.Series("query_id", ids, dtype=pl.String))
    if frame.schema.get("response_id", pl.Null()) == pl.Null():
        names = [f"row {i}" for i in range(first_row, first_row + len(frame))]
        added.append(pl.Series("response_id", names, dtype=pl.String))
    return frame.with_columns(added)


def with_logprob(frame: pl.DataFrame, lengths: Sequence[int]) -> pl.DataFrame:
    """Add the column logprob where it is missing, and make it null where a row has not the tokens that were sampled.

    Args:
        frame: rows, with or without what the stage `sample` says of a response.
        lengths: (N,) tokens of the completions, as training reads them.
    """
    if not set(SAMPLED) <= set(frame.columns):
        return frame.with_columns(pl.lit(None, pl.Float64).alias("logprob"))
    same = pl.col("num_tokens") == pl.Series(lengths)
    return frame.with_columns(pl.when(same).then(pl.col("logprob").cast(pl.Float64)))


def require_values(frame: pl.DataFrame) -> None:
    """Check that no value is null, no list of messages is empty and every weight is finite.

    Raises:
        UserError: a value is; the message names the first such row.
    """
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


def count_rows(source: pl.DataFrame | Sequence[Path]) -> int:
    """Check a weights dataset's columns and return its number of rows; files are not read but for their footers.

    Args:
        source: the rows, or the Parquet files that hold them.

    Raises:
        UserError: there is no file or no row, a file is not Parquet, a column is missing or of another type.
    """
    if isinstance(source, pl.DataFrame):
        require_columns(source.schema, source.height)
        return source.height
    if not source:
        raise UserError("the weights dataset has no Parquet file; build it with `build --stage calibrate`")
    try:
        scan = pl.scan_parquet(list(source), glob=False)
        schema, rows = scan.collect_schema(), int(scan.select(pl.len()).collect().item())
    except (OSError, pl.exceptions.PolarsError) as error:
        raise UserError(
            f"cannot read {source[0]} as Parquet ({str(error).splitlines()[0]}); rebuild or download the dataset"
        ) from error
    require_columns(schema, rows)
    return rows


def one_sided(labels: pl.Series) -> list[str]:
    """Return a warning in one line where all labels are equal; else none.

    Args:
        labels: (N,) bool.
    """
    if labels.n_unique() > 1:
        return []
    only = "positive" if labels[0] else "negative"
    return [f"all {len(labels)} rows are {only}: both class weights are 1 and nothing pulls the other way"]


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


def values_of(dataset: "datasets.Dataset", name: str) -> pl.Series:
    """Return one column of numbers or texts, (N,), without making Python objects of its values."""
    values = pl.from_arrow(_column(dataset, name))
    if not isinstance(values, pl.Series):
        raise TypeError(f"column {name} is no Arrow column")
    return values


def lengths_of(dataset: "datasets.Dataset", name: str) -> "NDArray[np.int32]":
    """Return the length of each list of a column, (N,); the lists stay on disk."""
    return np.asarray(pc.list_value_length(_column(dataset, name)), dtype=np.int32)


def dataset_of(columns: "Mapping[str, NDArray[np.generic]]") -> "datasets.Dataset":
    """Return a dataset of columns of numbers, (N,) each, which are not copied."""
    from datasets import Dataset
    from datasets.fingerprint import generate_random_fingerprint

    # The library's own fingerprint would pickle all values; it names the cache files of `map`, which is not called.
    return Dataset(pa.table(dict(columns)), fingerprint=generate_random_fingerprint())


def _column(dataset: "datasets.Dataset", name: str) -> "pa.ChunkedArray":
    return dataset.select_columns([name]).with_format("arrow")[:].column(name)
