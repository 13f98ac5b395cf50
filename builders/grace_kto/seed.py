"""Stage `seed`: the user's own writing requests become the first dataset.

Reads a JSONL, CSV or Parquet file, a dataset on the Hub at a revision, or the dataset of another stage, once and piece
by piece: a file may be larger than the memory. Blank, over-long and duplicate queries are dropped and counted. One
row::

    {"query_id": "4be0…", "query": "Please write a report titled …", "reference": "<summary>…", "language": "en",
     "source": "seeds.jsonl"}
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from builders.core.draws import query_id
from builders.core.stage import Context, Shard, ShardResult, content_shards
from builders.core.work import shard_path
from builders.grace_kto.columns import SEED_COLUMNS
from builders.grace_kto.languages import DEFAULT, is_chinese_column
from builders.grace_kto.settings import GraceKTOSettings, SeedSettings
from builders.store.columns import polars_schema
from builders.store.files import file_sha256, replacing
from builders.store.shards import arrow_schema, shard_is_whole, shard_rows
from scorers.errors import UserError

SeedContext = Context[GraceKTOSettings]

# The whole of a JSONL file is looked at for its columns and types: a reference may first occur in its last line.
READERS: dict[str, Callable[[Path], pl.LazyFrame]] = {
    ".jsonl": lambda path: pl.scan_ndjson(path, infer_schema_length=None),
    ".csv": lambda path: pl.scan_csv(path, infer_schema=False, glob=False),
    ".parquet": lambda path: pl.scan_parquet(path, glob=False),
}
ROWS_PER_SHARD = 10_000  # with long references these stay well below 500 MB
ROWS_AT_ONCE = 5_000  # of the source in memory


def plan(context: SeedContext) -> list[Shard]:
    """Read the source once into a file of clean rows, and plan shards of `shard_rows` of these, or cut by content.

    A shard's spec is its first row, its number of rows and the counts that it stands for; the first shard has them all.

    Raises:
        UserError: for a source that is missing, unreadable or empty, lacks a mapped column, or has no usable query.
    """
    settings = context.config.seed
    counts: Counter[str] = Counter()
    rows = 0
    schema = arrow_schema(SEED_COLUMNS)
    with replacing(clean_path(context)) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for batch in clean(read_source(context), settings, source_name(context.config), counts):
            writer.write_table(batch.to_arrow().cast(schema))
            rows += batch.height
    if rows == 0:
        raise UserError(f"seed source {settings.source} {fault_of(counts, settings)}")
    counts = +counts  # without zeros
    ids = pl.scan_parquet(clean_path(context), glob=False).select("query_id").collect()["query_id"].to_list()
    shards = content_shards(ids, settings.shard_rows, ROWS_PER_SHARD)
    drop_other_cuts(context, shards)
    return [replace(shard, spec=(*shard.spec, {} if shard.index else dict(counts))) for shard in shards]


def drop_other_cuts(context: SeedContext, shards: list[Shard]) -> None:
    """Delete the shards of an unfinished build that a version before has cut by number, from the first that differs."""
    for place, shard in enumerate(shards):
        path = shard_path(context.work, shard)
        if shard_is_whole(path) and shard_rows(path) != shard.spec[1]:
            for later in shards[place:]:
                shard_path(context.work, later).unlink(missing_ok=True)
            return


def fault_of(counts: Counter[str], settings: SeedSettings) -> str:
    """Return what is wrong with a source without a usable query."""
    if counts["read"] == 0:
        return "is empty; at least one query is needed"
    if long := counts["dropped.over-long"]:
        return (
            f"has no usable query: {long} are longer than seed.max_query_chars, {settings.max_query_chars}, and "
            f"{counts['dropped.blank']} blank; raise it"
        )
    return "has no usable query: every query is blank; check seed.columns.query"


def build(context: SeedContext, shard: Shard) -> ShardResult:
    """Take a shard's rows out of the file of clean rows."""
    start, size, counts = shard.spec
    return ShardResult(pl.scan_parquet(clean_path(context), glob=False).slice(start, size).collect(), counts)


def clean_path(context: SeedContext) -> Path:
    """Return the file of the source's clean rows."""
    return context.work / "clean.parquet"


def clean(source: pl.LazyFrame, settings: SeedSettings, name: str, counts: Counter[str]) -> Iterator[pl.DataFrame]:
    """Yield the source's rows as seed rows: queries stripped, of equal ones the first, no blank and no over-long ones.

    Args:
        source: `query`, `reference` and `language` as text.
        settings: the longest query and the language of rows without one.
        name: value of the column `source`.
        counts: rows read and dropped by reason are counted here.
    """
    known: set[str] = set()
    by_script = pl.when(is_chinese_column("query")).then(pl.lit("zh")).otherwise(pl.lit(DEFAULT))
    with readable(settings.source):
        for batch in source.collect_batches(chunk_size=ROWS_AT_ONCE, maintain_order=True):
            stripped = batch.with_columns(
                pl.col("query").str.strip_chars().fill_null(""), blank_is_null("reference"), blank_is_null("language")
            )
            present = stripped.filter(pl.col("query") != "")
            fitting = present.filter(pl.col("query").str.len_chars() <= settings.max_query_chars)
            ids = [query_id(query) for query in fitting["query"]]
            new = []
            for identity in ids:
                new.append(identity not in known)
                known.add(identity)
            rows = fitting.with_columns(pl.Series("query_id", ids, pl.String)).filter(pl.Series(new, dtype=pl.Boolean))
            counts["read"] += batch.height
            counts["dropped.blank"] += batch.height - present.height
            counts["dropped.over-long"] += present.height - fitting.height
            counts["dropped.duplicate"] += fitting.height - rows.height
            language = pl.col("language").fill_null(by_script if settings.language is None else settings.language)
            yield rows.with_columns(language, pl.lit(name).alias("source")).select(polars_schema(SEED_COLUMNS).names())


def blank_is_null(name: str) -> pl.Expr:
    """Return a column of texts in which white space alone counts as no text: an empty answer would be trained on."""
    return pl.when(pl.col(name).str.strip_chars() != "").then(pl.col(name)).alias(name)


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


def read_source(context: SeedContext) -> pl.LazyFrame:
    """Scan the source's mapped columns, as text: query, reference and language.

    The last two are null where no column is mapped. Nothing but the columns' names is read before the rows are asked
    for.

    Raises:
        UserError: for a source that is missing or unreadable, or lacks a mapped column.
    """
    settings = context.config.seed
    if "source" in context.inputs:
        frame = context.inputs["source"].scan()
    else:
        frame = scan_table(settings.source, settings.split)
    with readable(settings.source):
        names = frame.collect_schema().names()
    mapping = settings.columns.model_dump(exclude_none=True)
    missing = [f"{name} (for {role})" for role, name in mapping.items() if name not in names]
    if missing:
        raise UserError(
            f"seed source {settings.source}: no column {', '.join(missing)}; it has {', '.join(names)}; "
            "set seed.columns"
        )
    absent = [pl.lit(None, pl.String).alias(role) for role in ("reference", "language") if role not in mapping]
    return frame.select(*(pl.col(name).cast(pl.String).alias(role) for role, name in mapping.items()), *absent)


def read_table(source: str, split: str) -> pl.DataFrame:
    """Read a file, or a split of a dataset on the Hub, with its own columns.

    Raises:
        UserError: for a source that is missing or not readable.
    """
    with readable(source):
        return scan_table(source, split).collect()


def scan_table(source: str, split: str) -> pl.LazyFrame:
    """Scan a file, or a split of a dataset on the Hub, with its own columns.

    Raises:
        UserError: for a source that is missing.
    """
    path = source_path(source)
    if path is not None:
        return READERS[path.suffix](path)
    from builders.hub.pull import load_split

    repo, _, revision = source.partition("@")
    return load_split(repo, revision or None, split).lazy()


@contextlib.contextmanager
def readable(source: str) -> Iterator[None]:
    """Turn a fault met while reading the source into a message of one line.

    Raises:
        UserError: where the source is not readable.
    """
    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as error:
        kind = Path(source).suffix or "a dataset"
        raise UserError(f"source {source} is not readable as {kind}: {' '.join(str(error).split())}") from None
