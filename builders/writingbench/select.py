"""Stage `select`: the best-rated responses, as training data of a writer (§3.4).

A response's score is the mean of all its ratings; one without a score is dropped. Of each query the best responses are
kept, of these the ones at or above a floor, and of these the top share, of all or within each subdomain (§4.4). As a
control, `select.order: random` keeps as many of those that have a score, drawn whatever it is. One row::

    {"query_id": "77ab…", "query": "…", …, "response_id": "77ab…-2", "response": "…", "score": 8.2, "policy": "…",
     "prompt": [{"role": "user", …}], "completion": [{"role": "assistant", …}]}
"""

import math
from collections import Counter
from typing import Literal

import polars as pl

from builders.core.draws import derive_seed
from builders.core.prompting import answer_column, chat_column
from builders.core.stage import Context, Shard, ShardResult, row_shards
from builders.rubrics.columns import RATINGS_COLUMNS
from builders.store.columns import polars_schema, require_columns
from builders.store.files import replacing
from builders.writingbench.columns import RESPONSES_COLUMNS, SELECT_COLUMNS
from builders.writingbench.settings import SelectSettings, WritingBenchSettings
from scorers.errors import UserError

SelectContext = Context[WritingBenchSettings]

ROWS_PER_SHARD = 10_000
KEPT = "kept.parquet"
UNSCORED = "unscored"
NOT_BEST = "not among the best of its query"
BELOW_FLOOR = "below the floor"
BELOW_SHARE = "below the top share"


def plan(context: SelectContext) -> list[Shard]:
    """Choose the responses, and plan shards of them; a shard's spec is (first, number, counts that it stands for).

    Raises:
        UserError: for parents without their columns, and where nothing is left; the message says why.
    """
    ratings, responses = context.inputs["rate"], context.inputs["respond"]
    require_columns(ratings.schema(), RATINGS_COLUMNS, str(ratings))
    require_columns(responses.schema(), RESPONSES_COLUMNS, str(responses))
    scores = ratings.scan().group_by("response_id").agg(pl.col("score").cast(pl.Float64).mean())
    rows = responses.scan().select("response_id", "query_id", "domain", "subdomain").with_row_index()
    found = rows.join(scores, on="response_id", how="left", maintain_order="left").collect()
    chosen, counts = choose(found, context.config.select)
    if chosen.is_empty():
        reasons = ", ".join(f"{n} {name.partition('.')[2]}" for name, n in counts.items() if name != "read")
        raise UserError(
            f"select: none of {found.height} responses is left ({reasons}); lower select.floor, or rate them with a "
            "judge whose replies can be read"
        )
    context.work.mkdir(parents=True, exist_ok=True)
    with replacing(context.work / KEPT) as file:
        chosen.select("index", "score").sort("index").write_parquet(file)
    shards = row_shards(chosen.height, context.config.select.shard_rows, ROWS_PER_SHARD)
    return [Shard(shard.index, (*shard.spec, {} if shard.index else counts)) for shard in shards]


def choose(rows: pl.DataFrame, settings: SelectSettings) -> tuple[pl.DataFrame, dict[str, int]]:
    """Choose responses by their scores.

    Args:
        rows: `response_id`, `query_id`, `domain`, `subdomain` and `score`, null where there is none.
        settings: how many.

    Returns:
        The chosen rows, the best first, and how many were read and dropped for which reason.
    """
    counts: Counter[str] = Counter(read=rows.height)
    left = in_order(rows.drop_nulls("score"), settings.order)
    counts[f"dropped.{UNSCORED}"] = rows.height - left.height
    best = left.filter(pl.int_range(pl.len()).over("query_id") < settings.best)
    counts[f"dropped.{NOT_BEST}"] = left.height - best.height
    above = best if settings.floor is None else best.filter(pl.col("score") >= settings.floor)
    counts[f"dropped.{BELOW_FLOOR}"] = best.height - above.height
    top = top_share(above, settings)
    counts[f"dropped.{BELOW_SHARE}"] = above.height - top.height
    return top, dict(+counts)


def in_order(rows: pl.DataFrame, order: Literal["score", "random"]) -> pl.DataFrame:
    """Return rows in the order in which they are kept: by score, equal ones by their ids, which favour none; or drawn.

    A draw depends on the response's id alone, so it is the same for whatever else the dataset holds.
    """
    if order == "score":
        return rows.sort(["score", "response_id"], descending=[True, False])
    draws = pl.Series("draw", [derive_seed("select", id_) for id_ in rows["response_id"]], pl.Int64)
    return rows.with_columns(draws).sort("draw").drop("draw")


def top_share(rows: pl.DataFrame, settings: SelectSettings) -> pl.DataFrame:
    """Return the top share of rows that are sorted by score, of all or of each subdomain; rounded up."""
    if settings.within == "all":
        return rows.head(math.ceil(settings.share * rows.height))
    kind = ["domain", "subdomain"]
    return rows.filter(pl.int_range(pl.len()).over(kind) < (pl.len().over(kind) * settings.share).ceil())


def build(context: SelectContext, shard: Shard) -> ShardResult:
    """Put a shard's rows together."""
    start, size, counts = shard.spec
    kept = pl.scan_parquet(context.work / KEPT, glob=False).slice(start, size)
    rows = context.inputs["respond"].scan().with_row_index()
    names = polars_schema(SELECT_COLUMNS).names()
    found = (
        rows.join(kept, on="index", how="inner", maintain_order="left")
        .with_columns(chat_column("query").alias("prompt"), answer_column("response").alias("completion"))
        .select(names)
        .collect()
    )
    return ShardResult(found, counts)
