"""Stage `calibrate`: ranks, group rewards and global weights (§3.3–3.4, eq. 5–10), ready for TRL.

Takes any dataset that has the columns of `scores`. Three steps: ranks within a query's scored responses, the
standardised reward of the group, and the redistribution of weight over all scored rows of the dataset. The first pass
sums the rewards of each polarity, the second writes shard after shard, so the dataset is never in memory. A row without
all six ranked metrics (unmatched, or a document of one token) stands outside ranks, group statistics and totals; its
weight is −1, its label False. One row is the parent's with, for example::

    {"rank_length": 2.5, "rank_diversity": 1.0, "rank_professionalism": 3.0, "rank_relevance_document": 6.0,
     "rank_relevance_summary": 4.0, "rank_ppl_domain": 2.0, "rank_sum": 14.1, "reward": 0.83, "weight": 1.12,
     "label": True, "prompt": [{"role": "user", …}], "completion": [{"role": "assistant", …}]}
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from builders.core.prompting import answer_column, chat_column
from builders.core.stage import Context, Shard, ShardResult, file_shards
from builders.grace_kto.columns import RANKED, SCORES_COLUMNS, WEIGHTS_COLUMNS
from builders.grace_kto.messages import system_prompts
from builders.grace_kto.settings import GraceKTOSettings, RankCoefficients
from builders.store.columns import polars_schema, require_columns
from builders.store.store import Revision
from scorers.errors import UserError
from scorers.ranking import group_rewards

LOW_IS_BETTER = ("ppl_domain",)
CalibrateContext = Context[GraceKTOSettings]

QUERIES_PER_SHARD = 5_000  # of a dataset whose files split groups


@dataclass(frozen=True)
class Totals:
    """Sum of the rewards and number of rows of each polarity over the whole dataset (eq. 8–9)."""

    positive_sum: float = 0.0
    positive_rows: int = 0
    negative_sum: float = 0.0
    negative_rows: int = 0

    def __add__(self, other: "Totals") -> "Totals":
        return Totals(
            self.positive_sum + other.positive_sum,
            self.positive_rows + other.positive_rows,
            self.negative_sum + other.negative_sum,
            self.negative_rows + other.negative_rows,
        )


def add_rewards(scores: pl.DataFrame, coefficients: RankCoefficients) -> pl.DataFrame:
    """Add the ranks, the rank sum (eq. 5) and the group reward z (eq. 6–7); null where a ranked metric is null.

    Rank 1 is best, ties get the mean rank; the deviation is the population's; a group whose rank sums are all equal
    gets z = 0. The rows of a query may stand anywhere in the frame.
    """
    scored = scores.select(pl.all_horizontal(pl.col(metric).is_not_null() for metric in RANKED)).to_series()
    rows = scores.filter(scored)
    groups = rows["query_id"].cast(pl.Categorical).to_physical().to_numpy().astype(np.int64)
    metrics = np.stack([rows[m].cast(pl.Float64).to_numpy() * (-1 if m in LOW_IS_BETTER else 1) for m in RANKED])
    ranks, rho, z = group_rewards(groups, metrics, np.array([getattr(coefficients, m) for m in RANKED]))
    columns = {f"rank_{metric}": rank for metric, rank in zip(RANKED, ranks, strict=True)}
    columns |= {"rank_sum": rho, "reward": z}
    if rows.height == scores.height:
        return scores.hstack(pl.DataFrame(columns))
    # Back to the places of the scored rows: the k-th scored row takes the k-th value, the others null.
    place = pl.when(scored).then(scored.cast(pl.Int64).cum_sum() - 1)
    return scores.hstack(
        scores.select(place.alias("k")).select(pl.lit(pl.Series(v)).gather("k").alias(n) for n, v in columns.items())
    )


def totals_of(rewards: pl.Series) -> Totals:
    """Totals of one shard's rewards; nulls stand outside."""
    scored = rewards.drop_nulls()
    positive = scored.filter(scored >= 0)
    negative = scored.filter(scored < 0)
    return Totals(float(positive.sum()), len(positive), float(negative.sum()), len(negative))


def add_weights(rewards: pl.DataFrame, totals: Totals, *, binary: bool = False) -> pl.DataFrame:
    """Add the signed weight W and the label (eq. 8–10).

    Σ W over the positive rows is their number, over the negative rows minus their number; if a polarity's rewards sum
    to 0 its weights are 0. Unscored rows get W = −1 and label False. `binary` keeps the labels with W = ±1.
    """
    z = pl.col("reward")
    up = totals.positive_rows / totals.positive_sum if totals.positive_sum else 0.0
    down = totals.negative_rows / -totals.negative_sum if totals.negative_sum else 0.0
    weight = pl.when(z >= 0).then(z * up).otherwise(z * down)
    if binary:
        weight = pl.when(z >= 0).then(1.0).otherwise(-1.0)
    return rewards.with_columns(
        pl.when(z.is_null()).then(-1.0).otherwise(weight).alias("weight"), (z >= 0).fill_null(False).alias("label")
    )


def plan(context: CalibrateContext) -> list[Shard]:
    """One shard for each file of the parent, or for each run of queries where a group is spread over files.

    Each shard carries the totals of the whole dataset.
    """
    parent = context.inputs["score"]
    require_columns(parent.schema(), SCORES_COLUMNS, str(parent))
    pieces = file_shards(parent) if groups_are_whole(parent) else query_shards(parent)
    if not pieces:
        raise UserError(f"{parent} is empty; calibration needs at least one scored row")
    totals = Totals()
    for piece in pieces:
        scores = read_scores(parent, piece.spec, ["query_id", *RANKED])
        totals += totals_of(add_rewards(scores, context.config.calibrate.coefficients)["reward"])
    if totals.positive_rows == 0:
        raise UserError(f"{parent}: no response is scored, so there is nothing to rank; look at the policy's responses")
    return [Shard(piece.index, (piece.spec, totals)) for piece in pieces]


def groups_are_whole(parent: Revision) -> bool:
    """Whether no query's rows are spread over several files."""
    files = parent.data_files()
    distinct = sum(pl.scan_parquet(f).select(pl.col("query_id").n_unique()).collect().item() for f in files)
    return bool(distinct == parent.scan().select(pl.col("query_id").n_unique()).collect().item())


def query_shards(parent: Revision) -> list[Shard]:
    """Runs of queries in order of first appearance."""
    ids = parent.scan().select(pl.col("query_id").unique(maintain_order=True)).collect()["query_id"].to_list()
    starts = range(0, len(ids), QUERIES_PER_SHARD)
    return [Shard(i, ids[start : start + QUERIES_PER_SHARD]) for i, start in enumerate(starts)]


def read_scores(parent: Revision, piece: str | Sequence[str], columns: list[str]) -> pl.DataFrame:
    """The rows of one file, or of some queries."""
    if isinstance(piece, str):
        return pl.read_parquet(piece, columns=columns).select(columns)
    return parent.scan().filter(pl.col("query_id").is_in(list(piece))).select(columns).collect()


def build(context: CalibrateContext, shard: Shard) -> ShardResult:
    """Calibrate one shard with the totals of the whole dataset."""
    piece, totals = shard.spec
    schema = polars_schema(SCORES_COLUMNS)
    scores = read_scores(context.inputs["score"], piece, schema.names()).cast(schema)
    settings = context.config.calibrate
    frame = add_weights(add_rewards(scores, settings.coefficients), totals, binary=settings.binary)
    system = system_prompts(context.config, context.inputs["score"].manifest)
    prompt = chat_column("query", system=next(iter(system.values()), None))
    frame = frame.with_columns(prompt.alias("prompt"), answer_column("response").alias("completion"))
    counts = {
        "read": scores.height,
        "positive": int(frame["label"].sum()),
        "negative": int((~frame["label"]).sum()),
        "unscored": frame["reward"].null_count(),
    }
    return ShardResult(frame.select(c.name for c in WEIGHTS_COLUMNS), counts)


def prompts(config: GraceKTOSettings, inputs: Mapping[str, Revision]) -> dict[str, str]:
    """The system prompt that was answered, as the scores' manifest has it."""
    return system_prompts(config, inputs["score"].manifest)
