"""A dataset in pieces that fit into memory and hold whole groups: what calibration, scoring and verify read at a time.

The files of this project's own datasets are such pieces already. Where the files of another dataset split groups or are
too large, its rows are spread over temporary files in one pass, whatever their order, and the pieces are those files.
Then a piece holds at most `QUERIES_PER_PIECE` queries in the order of their first appearance, and its rows stand in the
order in which the dataset has them.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from builders.store.files import arrow_sink, naming_full_disk
from scorers.errors import UserError

QUERIES_PER_PIECE = 5_000
# All sizes are those of the values before compression.
BYTES_PER_PIECE = 512 * 2**20  # calibrating a piece needs about five times as much memory
BYTES_PER_BATCH = 64 * 2**20  # what the pass over the dataset holds at a time, about three times over
SUFFIX = ".arrows"  # Arrow's IPC stream format


def pieces_of(
    files: Sequence[Path],
    schema: pl.Schema,
    folder: Path,
    *,
    piece_bytes: int = BYTES_PER_PIECE,
    whole_groups: bool = True,
) -> list[str]:
    """Cut a dataset into pieces: its files where they will do, else files that are made in `folder`.

    Args:
        files: the Parquet files of the dataset, with `query_id` in each.
        schema: the columns that are read, with the types they are cast to.
        folder: does not exist, or holds the whole pieces of a run before.
        piece_bytes: a larger file is not taken as it is; a piece that is made is about this large at most.
        whole_groups: whether files that split groups have to be spread.

    Returns:
        Paths for `read_piece`; none for a dataset without rows.
    """
    queries = pl.concat([_queries_of(file) for file in files])
    groups = queries.group_by("query_id", maintain_order=True).agg(pl.col("rows").sum())
    if groups.is_empty():
        return []
    sizes = [_decoded_size(file) for file in files]
    # A query that is spread over files was counted once in each of them.
    split = whole_groups and groups.height < queries.height
    if not split and max(sizes) <= piece_bytes:
        return [str(file) for file in files]
    if not folder.is_dir():
        row_bytes = sum(sizes) / int(groups["rows"].sum())
        numbers = groups.select("query_id", piece=_numbers(groups["rows"], int(piece_bytes / row_bytes)))
        _spread(_batches(files, schema, max(1, int(BYTES_PER_BATCH / row_bytes))), numbers, folder)
    return [str(path) for path in sorted(folder.glob(f"*{SUFFIX}"))]


def read_piece(piece: str, schema: pl.Schema) -> pl.DataFrame:
    """Read some columns of a piece, in the order and with the types of `schema`.

    Other people's datasets may have other integer and float widths, and the type Null where every value is null.
    """
    if Path(piece).suffix != SUFFIX:
        frame = pl.read_parquet(piece, columns=schema.names())
    else:
        with pa.memory_map(piece) as source:  # a column that is not wanted is not decompressed
            frame = pl.DataFrame(pa.concat_tables(_tables(source, schema.names())))
    return _as_contract(frame, schema, piece, 0)


def _as_contract(frame: pl.DataFrame, schema: pl.Schema, where: str, first: int) -> pl.DataFrame:
    """Return the columns of `schema` with its types.

    Args:
        frame: rows of a file.
        schema: the columns that are read, with the types they are cast to.
        where: the file.
        first: the first row's number in it.

    Raises:
        UserError: naming the row with a value that its column's type cannot hold.
    """
    try:
        return frame.select(schema.names()).cast(schema)
    except pl.exceptions.InvalidOperationError as error:
        said = _lost_value(frame, schema, first) or str(error).splitlines()[0]
        raise UserError(f"{where}, {said}; correct the value or leave the row out") from None


def _lost_value(frame: pl.DataFrame, schema: pl.Schema, first: int) -> str | None:
    """Name the first value that a cast would lose, its row counted from `first`; None where there is none."""
    for name, dtype in schema.items():
        values = frame[name]
        lost = values.is_not_null() & values.cast(dtype, strict=False).is_null()
        if lost.any():
            row = int(lost.arg_true()[0])
            id_ = f" (response_id {frame['response_id'][row]})" if "response_id" in frame.columns else ""
            return f"row {first + row}{id_}: {name} is {values[row]}, which {dtype} cannot hold"
    return None


def _queries_of(file: Path) -> pl.DataFrame:
    """Return the queries of one file in the order of their first appearance, with their numbers of rows."""
    ids = pl.read_parquet(file, columns=["query_id"])
    return ids.group_by("query_id", maintain_order=True).agg(rows=pl.len())


def _decoded_size(file: Path) -> int:
    """Return the bytes of a Parquet file's values before compression, from its footer."""
    metadata = pq.read_metadata(file)
    return sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))


def _numbers(rows: pl.Series, limit: int) -> pl.Series:
    """Return the number of each query's piece: queries in a row, at most `QUERIES_PER_PIECE` and at most `limit` rows.

    A query with more rows than `limit` has a piece of its own.

    Args:
        rows: the queries' numbers of rows.
        limit: most rows of a piece.
    """
    ends = rows.cast(pl.Int64).cum_sum().to_numpy()
    numbers = np.empty(len(ends), np.uint32)
    start = number = 0
    while start < len(ends):
        before = ends[start - 1] if start else 0
        fitting = int(np.searchsorted(ends, before + limit, side="right"))
        end = min(max(fitting, start + 1), start + QUERIES_PER_PIECE)
        numbers[start:end] = number
        start, number = end, number + 1
    return pl.Series("piece", numbers)


def _batches(files: Sequence[Path], schema: pl.Schema, rows: int) -> Iterator[pl.DataFrame]:
    """Yield the rows of all files in their order, in frames of about `rows` rows."""
    held: list[pl.DataFrame] = []
    for file in files:
        # Without pre_buffer and with a small buffer a row group is decoded bit by bit; some writers make huge ones.
        with pq.ParquetFile(file, buffer_size=2**20, pre_buffer=False) as source:
            first = 0
            for batch in source.iter_batches(batch_size=rows, columns=schema.names()):
                held.append(_as_contract(pl.DataFrame(batch), schema, str(file), first))
                first += batch.num_rows
                # Small files are collected: each frame is cut into as many parts as there are pieces.
                if sum(frame.height for frame in held) >= rows:
                    yield pl.concat(held)
                    held = []
    if held:
        yield pl.concat(held)


def _spread(batches: Iterator[pl.DataFrame], numbers: pl.DataFrame, folder: Path) -> None:
    """Write every row to the file of its query's piece; the folder appears when all are whole.

    Args:
        batches: the rows, with `query_id`.
        numbers: `query_id` and `piece`.
        folder: folder to make.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # what a killed run left
    partial.mkdir(parents=True)
    for batch in batches:
        # A null query_id keeps its place too: the rows are checked when they are written.
        ids = batch.select("query_id")
        found = ids.join(numbers, on="query_id", how="left", nulls_equal=True, maintain_order="left")["piece"]
        for (piece,), part in batch.with_columns(found).partition_by("piece", as_dict=True, include_key=False).items():
            _append(part.to_arrow(), partial / f"{piece:05d}{SUFFIX}")
    for path in partial.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    partial.rename(folder)


def _append(table: pa.Table, path: Path) -> None:
    """Append a table to a file as one more Arrow stream; files are opened in turn, since there may be thousands."""
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with (
        naming_full_disk(path.parent),
        path.open("ab") as file,
        arrow_sink(file) as sink,
        pa.ipc.new_stream(sink, table.schema, options=options) as writer,
    ):
        writer.write_table(table)


def _tables(source: pa.NativeFile, names: Sequence[str]) -> list[pa.Table]:
    """Read some columns of all streams in a file, which have the same columns."""
    found = pa.ipc.open_stream(source).schema.names
    options = pa.ipc.IpcReadOptions(included_fields=[found.index(name) for name in names])
    source.seek(0)
    tables = []
    while source.tell() < source.size():
        tables.append(pa.ipc.open_stream(source, options=options).read_all())
    return tables
