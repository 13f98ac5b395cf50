"""Stage `seed`: the user's own writing requests become the first dataset.

Reads a JSONL, CSV or Parquet file, a dataset on the Hub at a revision, or the dataset of another stage. Blank and
duplicate queries are dropped and counted. One row::

    {"query_id": "4be0…", "query": "Please write a report titled …", "reference": "<summary>…", "language": "en",
     "source": "seeds.jsonl"}
"""

from collections.abc import Callable
from pathlib import Path

import polars as pl

from builders.core.draws import query_id
from builders.core.stage import Context, Shard, ShardResult
from builders.grace_kto.columns import SEED_COLUMNS
from builders.grace_kto.settings import GraceKTOSettings
from builders.store.columns import polars_schema
from builders.store.files import file_sha256
from scorers.errors import UserError

SeedContext = Context[GraceKTOSettings]

READERS: dict[str, Callable[[Path], pl.DataFrame]] = {
    ".jsonl": pl.read_ndjson,
    ".csv": pl.read_csv,
    ".parquet": pl.read_parquet,
}


def plan(context: SeedContext) -> list[Shard]:
    """Plan one shard per `shard_rows` rows of the source; its spec is (first row, number of rows)."""
    rows = read_source(context).height
    size = context.config.seed.shard_rows
    return [Shard(index, (start, size)) for index, start in enumerate(range(0, rows, size))]


def build(context: SeedContext, shard: Shard) -> ShardResult:
    """Make the seed rows of one range of the source, without blank and duplicate queries."""
    settings = context.config.seed
    source = read_source(context)
    start, size = shard.spec
    # Duplicates are found in the whole source before it is cut, or one could hide in another shard.
    rows = clean(source).filter(pl.col("row").is_between(start, start + size, closed="left"))
    read = source.slice(start, size)
    blank = read.filter(is_blank()).height
    frame = rows.select(
        pl.col("query").map_elements(query_id, return_dtype=pl.String).alias("query_id"),
        "query",
        "reference",
        pl.col("language").fill_null(settings.language),
        pl.lit(source_name(context.config)).alias("source"),
    ).cast(polars_schema(SEED_COLUMNS))
    counts = {"read": read.height, "dropped.blank": blank, "dropped.duplicate": read.height - blank - rows.height}
    return ShardResult(frame, {key: value for key, value in counts.items() if value or key == "read"})


def is_blank() -> pl.Expr:
    """An expression that is true where a row has no query, or one of white space alone."""
    return pl.col("query").is_null() | (pl.col("query").str.strip_chars() == "")


def clean(source: pl.DataFrame) -> pl.DataFrame:
    """Strip the queries, drop blank ones and keep the first of equal ones.

    The added column `row` is the row's number in the source.
    """
    return (
        source.with_row_index("row")
        .filter(~is_blank())
        .with_columns(pl.col("query").str.strip_chars())
        .unique("query", keep="first", maintain_order=True)
    )


def source_name(config: GraceKTOSettings) -> str:
    """Return the source as the column `source` shows it: a file's name without its folder."""
    source = config.seed.source
    return Path(source).name if Path(source).is_file() else source


def source_stage(config: GraceKTOSettings, round_: int) -> dict[str, str]:
    """Return the source under the name `source`; it becomes a parent where it is the name of a stage."""
    return {"source": config.seed.source}


def source_identity(config: GraceKTOSettings) -> str:
    """Return what identifies the source's content: a file's SHA-256, or the dataset's commit on the Hub."""
    path = source_path(config.seed.source)
    if path is not None:
        return file_sha256(path)
    # Imported here: the Hub's client is needed for a source on the Hub alone.
    from builders.hub.pull import resolve_commit

    repo, _, revision = config.seed.source.partition("@")
    return resolve_commit(repo, revision or None)


def source_path(source: str) -> Path | None:
    """Return the file that a source names; None for a dataset on the Hub.

    Raises:
        UserError: for a file that is missing or whose ending is not in `READERS`.
    """
    path = Path(source)
    if path.is_file():
        if path.suffix not in READERS:
            raise UserError(
                f"source {path}: {path.suffix or 'no ending'}; files ending in {', '.join(READERS)} are read"
            )
        return path
    # Not a file: only owner/name is left, and a file's ending means a path that is wrong.
    if path.suffix in READERS or source.count("/") != 1:
        raise UserError(
            f"source {source}: no such file; give a {', '.join(READERS)} file or a dataset owner/name[@revision]"
        )
    return None


def read_source(context: SeedContext) -> pl.DataFrame:
    """Read the source's mapped columns: query, reference and language; the last two are null where no column is mapped.

    Raises:
        UserError: for a source that is missing, unreadable or empty, lacks a mapped column, or has blank queries only.
    """
    settings = context.config.seed
    if "source" in context.inputs:
        frame = context.inputs["source"].scan().collect()
    else:
        frame = read_table(settings.source, settings.split)
    mapping = settings.columns.model_dump(exclude_none=True)
    missing = [f"{name} (for {role})" for role, name in mapping.items() if name not in frame.columns]
    if missing:
        raise UserError(
            f"seed source {settings.source}: no column {', '.join(missing)}; it has {', '.join(frame.columns)}; "
            "set seed.columns"
        )
    if frame.is_empty():
        raise UserError(f"seed source {settings.source} is empty; at least one query is needed")
    absent = [pl.lit(None, pl.String).alias(role) for role in ("reference", "language") if role not in mapping]
    mapped = frame.select(*(pl.col(name).cast(pl.String).alias(role) for role, name in mapping.items()), *absent)
    if mapped.filter(~is_blank()).is_empty():
        raise UserError(f"seed source {settings.source}: every query is blank; check seed.columns.query")
    return mapped


def read_table(source: str, split: str) -> pl.DataFrame:
    """Read a file, or a split of a dataset on the Hub, with its own columns.

    Raises:
        UserError: for a source that is missing or not readable.
    """
    path = source_path(source)
    if path is not None:
        try:
            return READERS[path.suffix](path)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise UserError(f"source {path} is not readable as {path.suffix}: {' '.join(str(error).split())}") from None
    from builders.hub.pull import load_split

    repo, _, revision = source.partition("@")
    return load_split(repo, revision or None, split)
