"""The user's own tables, JSONL, CSV or Parquet files, read piece by piece as columns of text.

What is wrong with a file is told with its line. A mark of byte order is skipped, and files ending in `.gz` are
unpacked while they are read.
"""

import codecs
import contextlib
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import polars as pl

from scorers.errors import UserError

ENDINGS = (".jsonl", ".csv", ".parquet", ".jsonl.gz", ".csv.gz")
ROWS_AT_ONCE = 5_000
_BOM = b"\xef\xbb\xbf"


def ending_of(path: Path) -> str | None:
    """Return the one of `ENDINGS` that a file has; None for another file."""
    return next((ending for ending in ENDINGS if path.name.endswith(ending)), None)


def read_columns(
    source: Path | pl.LazyFrame,
    columns: Sequence[str],
    what: str,
    optional: Sequence[str] = (),
    lists: Sequence[str] = (),
) -> Iterator[pl.DataFrame]:
    """Yield some columns of a table as text, in frames of about `ROWS_AT_ONCE` rows, in order.

    Numbers become text; null stays null. A column that only some lines of a JSONL file have is null in the others.

    Args:
        source: a file with one of `ENDINGS`, or a scan.
        columns: the columns to read.
        what: names the table in error messages.
        optional: further columns, null throughout where the table lacks them.
        lists: further columns to read as lists of texts; a text becomes a list of one, and null an empty list.

    Raises:
        UserError: for a table that is not readable, and a column that holds no text; `NoColumn` for one that is
            missing.
    """
    if isinstance(source, Path) and ".jsonl" in source.suffixes:
        yield from _json_lines(source, columns, what, optional, lists)
        return
    with _readable(source, what):
        if isinstance(source, Path) and ".csv" in source.suffixes:
            _require_utf8(source, what)
        scan = source if isinstance(source, pl.LazyFrame) else _scan(source)
        try:
            schema = scan.collect_schema()
        except pl.exceptions.NoDataError:  # a CSV file without a header
            yield pl.DataFrame(schema=_schema((*columns, *optional), lists))
            return
        _require_names((*columns, *lists), schema.names(), what)
        there = [*columns, *(name for name in optional if name in schema)]
        for name in there:
            if not _is_text(schema[name]):
                raise UserError(f"{what}: column {name} is {schema[name]}; text or numbers are needed: name another")
        texts = [pl.col(name).cast(pl.String) for name in dict.fromkeys(there)]
        texts += [_as_list(name, schema[name], what) for name in dict.fromkeys(lists)]
        absent = [pl.lit(None, pl.String).alias(name) for name in optional if name not in schema]
        # Of a CSV file whole lines are read: one with too many fields would pass if only some were looked at.
        whole = isinstance(source, Path) and ".csv" in source.suffixes
        for batch in (scan if whole else scan.select(texts)).collect_batches(
            chunk_size=ROWS_AT_ONCE, maintain_order=True
        ):
            # Lists and texts are what they should be already where they were selected above.
            yield batch.select(*(texts if whole else [pl.col(name) for name in batch.columns]), *absent)


def _schema(texts: Iterable[str], lists: Iterable[str]) -> dict[str, Any]:
    return dict.fromkeys(texts, pl.String) | dict.fromkeys(lists, pl.List(pl.String))


def _as_list(name: str, dtype: pl.DataType, what: str) -> pl.Expr:
    """Return a column as lists of texts.

    Raises:
        UserError: it holds neither texts nor lists of them.
    """
    if isinstance(dtype, pl.List) and _is_text(dtype.inner):  # type: ignore[arg-type]
        return pl.col(name).cast(pl.List(pl.String)).fill_null([]).list.drop_nulls()
    if not _is_text(dtype):
        raise UserError(f"{what}: column {name} is {dtype}; texts or lists of texts are needed: name another")
    text = pl.col(name).cast(pl.String)
    return pl.when(text.is_null()).then(pl.lit([], pl.List(pl.String))).otherwise(pl.concat_list(text)).alias(name)


class NoColumn(UserError):
    """A table that lacks columns.

    Attributes:
        missing: their names.
        rest: the end of the message, which names the columns that there are.
    """

    def __init__(self, what: str, missing: Sequence[str], found: Sequence[str]) -> None:
        self.missing = missing
        self.rest = f"it has {', '.join(found) or 'none'}"
        if len(found) == 1 and ";" in found[0]:
            self.rest += "; its fields are parted by semicolons, and commas are needed: save it again"
        super().__init__(f"{what}: no column {', '.join(missing)}; {self.rest}")


def _require_names(wanted: Iterable[str], found: Iterable[str], what: str) -> None:
    """Check that a table has some columns.

    Raises:
        NoColumn: naming those that are missing and those that there are.
    """
    found = list(found)
    if missing := [name for name in wanted if name not in found]:
        raise NoColumn(what, missing, found)


def _require_utf8(path: Path, what: str) -> None:
    """Check that a CSV file does not begin with the mark of UTF-16, whose bytes would be taken for names.

    Raises:
        UserError: for one that does.
    """
    with opened(path) as file:
        if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise UserError(f"{what}: is UTF-16; save the file as UTF-8")


def _scan(path: Path) -> pl.LazyFrame:
    """Scan a CSV file, every column as text, or a Parquet file."""
    if path.suffix == ".parquet":
        return pl.scan_parquet(path, glob=False)
    return pl.scan_csv(path, infer_schema=False, glob=False)


def _is_text(dtype: pl.DataType) -> bool:
    """Whether the values of a type can stand for texts."""
    return not (dtype.is_nested() or dtype in (pl.Boolean, pl.Binary, pl.Object))


def _json_lines(
    path: Path, columns: Sequence[str], what: str, optional: Sequence[str], lists: Sequence[str]
) -> Iterator[pl.DataFrame]:
    """Yield the columns of a JSONL file; blank lines are skipped."""
    known: dict[str, None] = {}  # the names of all columns, in order
    rows: list[list[Any]] = []
    lines = 0
    schema = _schema((*columns, *optional), lists)
    with _readable(path, what), opened(path) as file:
        for number, line in enumerate(file, 1):
            text = line.removeprefix(_BOM) if number == 1 else line
            text = text.strip()
            if not text:
                continue
            row = _json_object(text, f"{what}, line {number}")
            known.update(dict.fromkeys(row))
            read = {name: _list_of if name in lists else _text_of for name in schema}
            rows.append([read[name](row.get(name), f"{what}, line {number}: {name}") for name in schema])
            lines += 1
            if len(rows) == ROWS_AT_ONCE:
                yield pl.DataFrame(rows, schema=schema, orient="row")
                rows = []
    if lines:
        _require_names((*columns, *lists), known, what)
    yield pl.DataFrame(rows, schema=schema, orient="row")


def _json_object(line: bytes, where: str) -> dict[str, Any]:
    """Return the object of one line.

    Raises:
        UserError: for a line that is none.
    """
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise UserError(f"{where}: not UTF-8; save the file as UTF-8") from None
    except (ValueError, RecursionError) as error:
        said = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise UserError(f"{where}: not JSON ({said}); correct the line or leave it out") from None
    if not isinstance(row, dict):
        raise UserError(f'{where}: not an object but {_name_of(row)}; each line is one row, {{"column": value, …}}')
    return row


def _text_of(value: object, where: str) -> str | None:
    """Return a JSON value as text, null as None.

    Raises:
        UserError: for a list, an object or a truth value, and for half a surrogate pair, which is no text.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return json.dumps(value)
    if value is not None and not isinstance(value, str):
        raise UserError(f"{where} is {_name_of(value)}; text or a number is needed")
    if value is not None and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise UserError(f"{where} holds half a surrogate pair, which is no text; correct it") from None
    return value


def _list_of(value: object, where: str) -> list[str]:
    """Return a JSON value as a list of texts, null as an empty one.

    Raises:
        UserError: as `_text_of`, and for a null in a list.
    """
    if not isinstance(value, list):
        text = _text_of(value, where)
        return [] if text is None else [text]
    texts = [_text_of(one, where) for one in value]
    if None in texts:
        raise UserError(f"{where} holds null in a list; texts or numbers are needed")
    return [text for text in texts if text is not None]


def _name_of(value: object) -> str:
    """Return what JSON calls a value's kind."""
    kinds = {list: "a list", dict: "an object", bool: "a truth value", str: "a text", type(None): "null"}
    return kinds.get(type(value), "a number")


def opened(path: Path) -> IO[bytes]:
    """Open a file for reading, unpacked if its name says that it is packed."""
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


@contextlib.contextmanager
def _readable(source: Path | pl.LazyFrame, what: str) -> Iterator[None]:
    """Turn a fault met while reading into a message of one line.

    Raises:
        UserError: where the table is not readable.
    """
    try:
        yield
    except (pl.exceptions.PolarsError, OSError, EOFError, zlib.error) as error:
        kind = "a dataset"
        if isinstance(source, Path):
            kind = str(ending_of(source))
            if ".csv" in source.suffixes and "more fields than defined" in str(error):
                raise UserError(
                    f"{what}: a line has more fields than the header; put fields that hold a comma, a quotation mark "
                    "or a line break in quotation marks, and double the quotation marks in them"
                ) from None
            if ".csv" in source.suffixes and "utf" in str(error) and (line := _first_not_utf8(source)) is not None:
                raise UserError(f"{what}, line {line}: not UTF-8; save the file as UTF-8") from None
        # The lines after the first are polars' advice to programmers.
        raise UserError(f"{what} is not readable as {kind}: {(str(error).splitlines() or ['damaged'])[0]}") from None


def _first_not_utf8(path: Path) -> int | None:
    """Return the number of the first line that is not UTF-8; None where all are."""
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return None
