"""The columns of a dataset: what a contract says of each, and checks of what is read and written against it.

A stage adds columns to its parent's and never renames or rewrites them: other people's tools read these names.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import polars as pl

from scorers.errors import UserError

MESSAGES = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))
"""Chat messages, TRL's conversational form."""


@dataclass(frozen=True)
class Column:
    """One public column.

    Attributes:
        name: its name, which is public.
        dtype: its polars type.
        nullable: whether it may hold nulls.
        meaning: what it means, with unit, range and what null stands for; the cards print it.
        optional: whether a dataset may lack it; a dataset has it in all of its files or in none.
    """

    name: str
    dtype: pl.DataType
    nullable: bool
    meaning: str
    optional: bool = False


def column(
    name: str, dtype: type[pl.DataType] | pl.DataType, meaning: str, *, nullable: bool = False, optional: bool = False
) -> Column:
    """Make a column from a polars type or its class."""
    return Column(name, dtype if isinstance(dtype, pl.DataType) else dtype(), nullable, meaning, optional)


def present(columns: Sequence[Column], names: Collection[str]) -> list[Column]:
    """Return the columns of a contract for a dataset with these names: without the optional ones that it lacks."""
    return [column for column in columns if column.name in names or not column.optional]


def polars_schema(columns: Sequence[Column]) -> pl.Schema:
    """Return the columns as a polars schema, in order."""
    return pl.Schema({column.name: column.dtype for column in columns})


def frame_of(rows: Sequence[dict[str, object]], columns: Sequence[Column]) -> pl.DataFrame:
    """Return rows as a frame with exactly these columns.

    Raises:
        KeyError: for a row without one of the columns.
        TypeError: for a value of another type.
    """
    # Built by column: from rows polars fills missing keys with null and turns numbers into text.
    values = {c.name: [row[c.name] for row in rows] for c in columns}
    return pl.DataFrame(values, schema=polars_schema(columns), strict=True)


def _kind(dtype: pl.DataType) -> str:
    """Return what has to agree of two types: integers and floats of any width are alike."""
    if dtype.is_integer():
        return "integer"
    if dtype.is_float():
        return "float"
    return "nested" if dtype.is_nested() else str(dtype)  # inner types are checked when rows are written


def _castable(found: pl.DataType, wanted: pl.DataType) -> bool:
    """Whether the values of one type can be read as another without a loss that matters."""
    return _kind(found) == _kind(wanted) or (found.is_integer() and wanted.is_float())


def fits(found: pl.DataType | None, column: Column) -> bool:
    """Whether a type is exactly a column's; the type Null, every value null, is right where nulls may be.

    pyarrow and pandas write a column that holds nothing but None with that type.
    """
    return found == column.dtype or (column.nullable and found == pl.Null)


def require_columns(found: pl.Schema, columns: Sequence[Column], what: str) -> None:
    """Check that a dataset has these columns with these types; integer and float widths are free.

    Integers fit where floats are needed: weights of 1 and -1 are often written so. A column of type Null, every value
    null, fits where the column is nullable.

    Args:
        found: the dataset's schema.
        columns: the columns needed.
        what: names the dataset in the error message.

    Raises:
        UserError: naming the columns that are missing and those whose type differs.
    """
    columns = present(columns, found.names())
    missing = [c.name for c in columns if c.name not in found]
    wrong = [
        f"{c.name} is {found[c.name]}, not {c.dtype}"
        for c in columns
        if c.name in found and not fits(found[c.name], c) and not _castable(found[c.name], c.dtype)
    ]
    if missing or wrong:
        faults = ([f"missing {', '.join(missing)}"] if missing else []) + wrong
        raise UserError(f"{what} does not fit this stage: {'; '.join(faults)}; it needs {_listing(columns)}")


def _listing(columns: Sequence[Column]) -> str:
    """Return the columns' names for a message."""
    return ", ".join(c.name for c in columns)


def check_frame(frame: pl.DataFrame, columns: Sequence[Column], what: str) -> None:
    """Check a frame before it is written: exact schema, no null where none is allowed, no NaN or infinity.

    A nullable column may have the type Null, and an optional one may be missing.

    Raises:
        UserError: naming the column and the first offending row.
        TypeError: for another schema, which is a fault of the stage and not of the user.
    """
    columns = present(columns, frame.columns)
    if frame.columns != [c.name for c in columns] or not all(fits(frame.schema[c.name], c) for c in columns):
        raise TypeError(f"{what}: columns {frame.schema} are not the contract's {polars_schema(columns)}")
    for column in columns:
        values = frame[column.name]
        if not column.nullable and values.null_count():
            raise UserError(f"{what}: {column.name} is null in {_row_name(frame, values.is_null())}, a value is needed")
        if values.dtype.is_float() and not values.drop_nulls().is_finite().all():
            # Null is not a fault here: whether it may occur was checked above.
            bad = ~values.is_finite().fill_null(True)
            value = values.filter(bad)[0]
            raise UserError(
                f"{what}: {column.name} is {'NaN' if math.isnan(value) else value} in {_row_name(frame, bad)}; "
                "metrics must be finite: look at that text and at the model that scored it"
            )


def _row_name(frame: pl.DataFrame, bad: pl.Series) -> str:
    """Return the first row of a mask by its id, or by its number where the frame has no ids."""
    key = next((k for k in ("response_id", "query_id") if k in frame.columns), None)
    index = int(bad.arg_true()[0])
    return f"row {index}" if key is None else f"{key} {frame[key][index]}"
