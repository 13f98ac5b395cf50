"""Stage `seed`: the user's own writing requests become the first dataset.

Reads a JSONL, CSV or Parquet file, a dataset on the Hub or in a folder, or the dataset of another stage, once and piece
by piece: it may be larger than the memory. Of a dataset on the Hub the commit is resolved once and recorded. Blank,
over-long and duplicate queries are dropped and counted. One row::

    {"query_id": "4be0…", "query": "Please write a report titled …", "reference": "<summary>…", "language": "en",
     "source": "seeds.jsonl"}
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from builders.core import sources
from builders.core.draws import query_id
from builders.core.languages import DEFAULT, is_chinese_column
from builders.core.stage import Context, Shard, ShardResult, Source, content_shards
from builders.core.tables import NoColumn, read_columns
from builders.core.work import shard_path
from builders.grace_kto.columns import SEED_COLUMNS
from builders.grace_kto.settings import GraceKTOSettings, SeedSettings
from builders.store.columns import polars_schema
from builders.store.files import arrow_sink, replacing
from builders.store.revision import Choice
from builders.store.shards import arrow_schema, shard_is_whole, shard_rows
from builders.store.store import Store
from scorers.errors import UserError

SeedContext = Context[GraceKTOSettings]

ROWS_PER_SHARD = 10_000  # with long references these stay well below 500 MB


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
    with (
        replacing(clean_path(context)) as file,
        arrow_sink(file) as sink,
        pq.ParquetWriter(sink, schema, compression="zstd") as writer,
    ):
        for batch in clean(read_source(context), settings, sources.source_name(context.config.seed.source), counts):
            writer.write_table(batch.to_arrow().cast(schema))
            sink.require_written()
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


def clean(
    source: Iterable[pl.DataFrame], settings: SeedSettings, name: str, counts: Counter[str]
) -> Iterator[pl.DataFrame]:
    """Yield the source's rows as seed rows: queries stripped, of equal ones the first, no blank and no over-long ones.

    Args:
        source: frames of `query`, `reference` and `language` as text.
        settings: the longest query and the language of rows without one.
        name: value of the column `source`.
        counts: rows read and dropped by reason are counted here.
    """
    known: set[str] = set()
    by_script = pl.when(is_chinese_column("query")).then(pl.lit("zh")).otherwise(pl.lit(DEFAULT))
    for batch in source:
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


def source_stage(config: GraceKTOSettings, round_: int) -> dict[str, str]:
    """Return the source under the name `source`; it becomes a parent where it is the name of a stage."""
    return {"source": config.seed.source}


def source_of(config: GraceKTOSettings, require_pinned: bool = False) -> Source:
    """Return what the stage reads, see `builders.core.sources.source_of`."""
    settings = config.seed
    choice = Choice(settings.subset, settings.split)
    return sources.source_of(settings.source, Store(Path(config.store)), choice, require_pinned=require_pinned)


def read_source(context: SeedContext) -> Iterator[pl.DataFrame]:
    """Yield the source's mapped columns, as text: query, reference and language.

    The last two are null where no column is mapped.

    Raises:
        UserError: for a source that is missing or unreadable, or lacks a mapped column.
    """
    settings = context.config.seed
    parent = context.inputs.get("source")
    source = Path(settings.source) if parent is None else parent.scan()
    mapping = settings.columns.model_dump(exclude_none=True)
    absent = [pl.lit(None, pl.String).alias(role) for role in ("reference", "language") if role not in mapping]
    named = [pl.col(name).alias(role) for role, name in mapping.items()]
    what = f"seed source {settings.source}"
    try:
        for frame in read_columns(source, list(mapping.values()), what):
            yield frame.select(*named, *absent)
    except NoColumn as error:
        missing = ", ".join(f"{name} (for {role})" for role, name in mapping.items() if name in error.missing)
        raise UserError(f"{what}: no column {missing}; {error.rest}; set seed.columns") from None
