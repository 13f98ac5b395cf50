"""Stage `critique`: ratings as training data of a critic (§3.3): query, response and criterion → score and reason.

The prompt is what a judge is asked, so that a critic takes a judge's place. Scores are balanced in the training part,
since most responses are rated alike: a score that is more frequent than the others loses rows. No query is in both
parts, and the test part keeps its scores as they are. One row::

    {"query_id": "77ab…", "response_id": "77ab…-2", "criterion": "Sections", "score": 7, "reason": "…",
     "split": "train", "judge": "…", "prompt": [{"role": "user", …}],
     "completion": [{"role": "assistant", "content": "{\\"score\\": 7, \\"reason\\": \\"…\\"}"}]}
"""

import json
from collections import Counter
from dataclasses import replace

import polars as pl

from builders.core.draws import derive_seed
from builders.core.prompting import answer
from builders.core.stage import Context, Shard, ShardResult, row_shards
from builders.rubrics.columns import RATINGS_COLUMNS
from builders.rubrics.criteria import criteria_of
from builders.rubrics.ratings import UNSCORED, ask_for_rating
from builders.store.columns import frame_of, require_columns
from builders.store.files import replacing
from builders.writingbench.columns import CRITIC_COLUMNS
from builders.writingbench.rate import CRITERIA, READ
from builders.writingbench.settings import CritiqueSettings, WritingBenchSettings
from scorers.errors import UserError

CritiqueContext = Context[WritingBenchSettings]

ROWS_PER_SHARD = 10_000
SPLITS = ("train", "test")
BALANCED = "too many of their score"


def plan(context: CritiqueContext) -> list[Shard]:
    """Choose the ratings of both parts, and plan shards of them, each of one part.

    A shard's spec is (part, first, number, counts that it stands for).

    Raises:
        UserError: for parents without their columns, and where no rating has a score.
    """
    ratings = context.inputs["rate"]
    require_columns(ratings.schema(), RATINGS_COLUMNS, str(ratings))
    require_columns(context.inputs["respond"].schema(), READ, str(context.inputs["respond"]))
    require_columns(context.inputs["criteria"].schema(), CRITERIA, str(context.inputs["criteria"]))
    names = ("query_id", "response_id", "criterion", "repeat", "score")
    rows = ratings.scan().select(names).with_row_index().collect()
    chosen, counts = choose(rows, context.config.critique, context.config.random_seed)
    if "train" not in chosen["split"]:
        raise UserError(
            f"critique: no training row is left of {rows.height} ratings ({counts.get(f'dropped.{UNSCORED}', 0)} "
            "unscored); rate more responses, or lower critique.test_share"
        )
    context.work.mkdir(parents=True, exist_ok=True)
    shards: list[Shard] = []
    for split in SPLITS:
        part = chosen.filter(pl.col("split") == split).select("index").sort("index")
        with replacing(context.work / f"{split}.parquet") as file:
            part.write_parquet(file)
        planned = row_shards(part.height, context.config.critique.shard_rows, ROWS_PER_SHARD) if part.height else []
        shards += [Shard(len(shards) + shard.index, (split, *shard.spec, {})) for shard in planned]
    return [replace(shards[0], spec=(*shards[0].spec[:3], counts)), *shards[1:]]


def choose(rows: pl.DataFrame, settings: CritiqueSettings, seed: int) -> tuple[pl.DataFrame, dict[str, int]]:
    """Choose the ratings that a critic learns from and those that it is tested on.

    Args:
        rows: `query_id`, `response_id`, `criterion`, `repeat` and `score`, null where there is none.
        settings: the test's share of the queries, and the balance.
        seed: root of the draws.

    Returns:
        The chosen rows with `split`, and how many were read and dropped for which reason.
    """
    scored = rows.drop_nulls("score")
    queries = scored["query_id"].unique(maintain_order=True)
    # A draw for each query, as a share of the range of draws.
    test = [query for query in queries if derive_seed(seed, "critique", query) < settings.test_share * 2**63]
    split = pl.when(pl.col("query_id").is_in(test)).then(pl.lit("test")).otherwise(pl.lit("train"))
    found = scored.with_columns(split.alias("split"))
    train = found.filter(pl.col("split") == "train")
    kept = train
    if settings.balance is not None and train.height:
        most = int(settings.balance * float(train["score"].value_counts()["count"].median() or 0))  # type: ignore[arg-type]
        # In an order that favours no query: that of hashes.
        key = pl.concat_str("response_id", "criterion", "repeat", separator="\0")
        draws = train.select(key.map_elements(lambda name: derive_seed(seed, "balance", name), pl.Int64)).to_series()
        shuffled = train.with_columns(draws.alias("draw")).sort("draw")
        kept = shuffled.filter(pl.int_range(pl.len()).over("score") < max(1, most)).drop("draw")
    counts = Counter({"read": rows.height, f"dropped.{UNSCORED}": rows.height - scored.height})
    counts[f"dropped.{BALANCED}"] = train.height - kept.height
    return pl.concat([kept, found.filter(pl.col("split") == "test")]), dict(+counts)


def build(context: CritiqueContext, shard: Shard) -> ShardResult:
    """Put a shard's rows together: the judge's prompt, and its rating as the answer."""
    split, start, size, counts = shard.spec
    kept = pl.scan_parquet(context.work / f"{split}.parquet", glob=False).slice(start, size)
    ratings = context.inputs["rate"].scan().with_row_index()
    found = ratings.join(kept, on="index", how="inner", maintain_order="left").collect()
    wanted = found["response_id"].unique().to_list()
    responses = context.inputs["respond"].scan().select(c.name for c in READ)
    shown = {
        row["response_id"]: row
        for row in responses.filter(pl.col("response_id").is_in(wanted)).collect().iter_rows(named=True)
    }
    criteria = criteria_of(context.inputs["criteria"], found["query_id"])
    rows = []
    for rating in found.iter_rows(named=True):
        response = shown[rating["response_id"]]
        criterion = next(c for c in criteria[rating["query_id"]] if c["name"] == rating["criterion"])
        said = {"score": rating["score"], "reason": rating["reason"] or ""}
        rows.append(
            {
                **{name: rating[name] for name in ("query_id", "response_id", "criterion", "score", "reason", "judge")},
                "split": split,
                "prompt": ask_for_rating(
                    context.config.rate.prompt, response["query"], response["response"], criterion, response["language"]
                ),
                "completion": answer(json.dumps(said, ensure_ascii=False)),
            }
        )
    return ShardResult(frame_of(rows, CRITIC_COLUMNS), counts)
