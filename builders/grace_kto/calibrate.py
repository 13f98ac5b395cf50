"""Stage `calibrate`: ranks, group rewards and global weights (§3.3–3.4, eq. 5–10), ready for TRL.

Reads any dataset that has the columns of `scores`. Three steps: rank each query's scored responses (eq. 5), standardise
the rank sums within the group to the reward z (eq. 6–7), and normalise the rewards over all scored rows of the dataset
to the weight W (eq. 8–9). Where the scores have the column `rubric` it is ranked too, with a coefficient of 0 by
default; a response without a rating has the mean rank of the others, since nothing is known of it. `plan` reads the
dataset once, to check its rows and to sum the rewards of each polarity; `build` then writes shard after shard, so the
dataset is never in memory as a whole. A row that is unmatched by its column `matched`, or lacks one of the other ranked
metrics (a document of one token has no perplexity), is unscored: it takes no part in ranks, group statistics and sums,
its weight is −1 and its label False. One row is the parent's with, for example::

    {"rank_length": 2.5, "rank_diversity": 1.0, "rank_professionalism": 3.0, "rank_relevance_document": 6.0,
     "rank_relevance_summary": 4.0, "rank_ppl_domain": 2.0, "rank_sum": 14.1, "reward": 0.83, "weight": 1.12,
     "label": True, "prompt": [{"role": "user", …}], "completion": [{"role": "assistant", …}]}
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from builders.core.prompting import answer_column
from builders.core.stage import Context, Shard, ShardResult
from builders.grace_kto.columns import RANKED, RUBRIC, SCORES_COLUMNS, WEIGHTS_COLUMNS
from builders.grace_kto.languages import chat_by_language
from builders.grace_kto.messages import system_prompts
from builders.grace_kto.pieces import pieces_of, read_piece
from builders.grace_kto.rows import (
    CHECKED,
    ResponseIds,
    Rule,
    broken_rules,
    counts_other_tokens,
    name_broken,
    require_rubric,
    rules,
    scored,
    with_rubric,
)
from builders.grace_kto.settings import CalibrateSettings, GraceKTOSettings, RankCoefficients
from builders.store.columns import polars_schema, present, require_columns
from builders.store.revision import Revision
from scorers.errors import UserError
from scorers.forms import Form
from scorers.ranking import group_rewards
from scorers.weighting import Totals, global_weights, totals_of

LOW_IS_BETTER = ("ppl_domain",)  # of the metrics in RANKED; the others rank high values first (eq. 5)
CalibrateContext = Context[GraceKTOSettings]


def add_rewards(scores: pl.DataFrame, coefficients: RankCoefficients) -> pl.DataFrame:
    """Add the columns of ranks, rank sum rho (eq. 5) and group reward z (eq. 6–7).

    Rank 1 is best, ties get the mean rank. The standard deviation is the population's; a group whose rank sums are all
    equal gets z = 0. The rows of a query may stand anywhere in the frame.

    Args:
        scores: `query_id`, `matched` and the ranked metrics; an unmatched row and one without a metric are unscored.
            `rubric` may be missing, or null in any row.
        coefficients: the weight of each metric's rank in rho.

    Returns:
        The frame with `rank_<metric>`, `rank_sum` and `reward`, all null in unscored rows.
    """
    ranked = scores.select(scored()).to_series()
    rows = scores.filter(ranked)
    # Group numbers: ranking compares integers, not texts.
    groups = rows["query_id"].cast(pl.Categorical).to_physical().to_numpy().astype(np.int64)
    # `group_rewards` takes larger values as better: the sign of a low-is-better metric is turned. (metrics, rows)
    ranking = ranking_of(scores.columns)
    metrics = np.stack([rows[m].cast(pl.Float64).to_numpy() * (-1 if m in LOW_IS_BETTER else 1) for m in ranking])
    # Shapes (metrics, rows), (rows,) and (rows,), over scored rows only.
    ranks, rho, z = group_rewards(groups, metrics, np.array([getattr(coefficients, m) for m in ranking]))
    columns = {f"rank_{metric}": rank for metric, rank in zip(ranking, ranks, strict=True)}
    columns |= {"rank_sum": rho, "reward": z}
    if rows.height == scores.height:
        return scores.with_columns(pl.DataFrame(columns).get_columns())
    # Scatter the results back: the k-th scored row takes the k-th value, unscored rows get null.
    place = scores.select(pl.when(ranked).then(ranked.cast(pl.Int64).cum_sum() - 1).alias("k"))
    scattered = place.select(pl.lit(pl.Series(v)).gather("k").alias(n) for n, v in columns.items())
    return scores.with_columns(scattered.get_columns())


def ranking_of(names: Collection[str]) -> tuple[str, ...]:
    """Return the metrics by which a dataset with these columns is ranked."""
    return (*RANKED, RUBRIC) if RUBRIC in names else RANKED


def add_weights(rewards: pl.DataFrame, totals: Totals, *, binary: bool = False, form: Form = "linear") -> pl.DataFrame:
    """Add the signed weight W and the label (eq. 8–10).

    Σ W over the positive rows is |Ω+|, over the negative rows −|Ω−|; a polarity whose rewards sum to 0 gets weights of
    0. Unscored rows get W = −1 and label False.

    Args:
        rewards: a frame with `reward`.
        totals: sums over the whole dataset, of the same form, not over this frame.
        binary: replace each weight by ±1, keeping the labels: plain KTO on the same data.
        form: how the weight follows from the reward, see `scorers.weighting.Form`.

    Returns:
        The frame with `weight` and `label`, which are never null.
    """
    return rewards.with_columns(global_weights(rewards["reward"], totals, binary=binary, form=form).get_columns())


def calibrate_frame(
    scores: pl.DataFrame,
    coefficients: RankCoefficients | None = None,
    *,
    binary: bool = False,
    form: Form = "linear",
) -> pl.DataFrame:
    """Calibrate a whole dataset in memory: what the stage adds to `scores`, but for `prompt` and `completion`.

    Args:
        scores: one row per response: `query_id` (String), `matched` (Boolean) and the six metrics of RANKED, null
            where unscored, and perhaps `rubric`. Without `matched` every row counts as matched. Other columns stay as
            they are; those that this function adds are replaced.
        coefficients: weight of each metric's rank in the rank sum (eq. 5); None takes the defaults.
        binary: replace the weights by ±1 of the same label.
        form: how the weight follows from the reward, see `scorers.weighting.Form`.

    Returns:
        `scores` with the ranks, `rank_sum`, `reward`, `weight` and `label` (eq. 5–10), rows in the same order.

    Raises:
        UserError: for a column that is missing or of another type, a metric that is NaN or infinite, and where no row
            is scored.

    >>> metrics = {name: [2.0, 1.0] for name in RANKED}
    >>> calibrate_frame(pl.DataFrame({"query_id": ["q", "q"]} | metrics))["weight"].to_list()
    [1.0, -1.0]
    """
    _check_scores(scores)
    require_rubric((coefficients or RankCoefficients()).rubric, scores.columns, "the frame of scores")
    if "matched" not in scores.columns:
        with_matched = scores.with_columns(matched=pl.lit(True))
        return calibrate_frame(with_matched, coefficients, binary=binary, form=form).drop("matched")
    rewards = add_rewards(scores, coefficients or RankCoefficients())
    totals = totals_of(rewards["reward"], form)
    if totals.positive_rows == 0:
        raise UserError(
            "the frame of scores has no matched row with all six ranked metrics, so there is nothing to rank"
        )
    return add_weights(rewards, totals, binary=binary, form=form)


def _check_scores(scores: pl.DataFrame) -> None:
    """Check that a frame has what calibration reads.

    Raises:
        UserError: for a column that is missing or of another type, for a metric that is NaN or infinite, and for a null
            in `matched`.
    """
    found = scores.schema
    faults = [f"{name} is missing" for name in ("query_id", *RANKED) if name not in found]
    faults += [
        f"{m} is {found[m]}, not a number" for m in ranking_of(found) if m in found and not found[m].is_numeric()
    ]
    if found.get("query_id", pl.String()) != pl.String():
        faults.append(f"query_id is {found['query_id']}, not String")
    if found.get("matched", pl.Boolean()) != pl.Boolean():
        faults.append(f"matched is {found['matched']}, not Boolean")
    if faults:
        raise UserError(f"the frame of scores: {'; '.join(faults)}; it needs query_id and {', '.join(RANKED)}")
    if "matched" in found and scores["matched"].null_count():
        row = scores["matched"].is_null().arg_max()
        raise UserError(f"the frame of scores: matched is null in row {row}; give true or false")
    for metric in ranking_of(found):
        bad = ~scores[metric].is_finite().fill_null(True)
        if bad.any():
            value = scores[metric].filter(bad)[0]
            raise UserError(
                f"the frame of scores: {metric} is {value} in row {bad.arg_max()}; metrics must be finite, or null "
                "where the row is unscored"
            )


def schema_of(names: Collection[str]) -> pl.Schema:
    """Return the columns of scores that a dataset with these names has, with their types."""
    return polars_schema(present(SCORES_COLUMNS, names))


def plan(context: CalibrateContext) -> list[Shard]:
    """Plan one shard per piece of the parent, which is a file of it as long as files hold whole groups.

    Each shard carries the totals of the whole dataset, which takes one pass over its metrics.

    Raises:
        UserError: for a parent without the columns of `scores`, without rows, or without a scored response, and naming
            the first row that breaks a rule of `rules` or has another row's response_id.
    """
    parent = context.inputs["score"]
    require_columns(parent.schema(), SCORES_COLUMNS, str(parent))
    names = parent.schema().names()
    require_rubric(context.config.calibrate.coefficients.rubric, names, str(parent))
    pieces = pieces_of(parent.data_files(), schema_of(names), context.work / "pieces")
    if not pieces:
        raise UserError(f"{parent} is empty; calibration needs at least one scored row")
    wanted = rules(other_tokenizers=counts_other_tokens(parent.manifest))
    totals = checked_totals(pieces, parent.data_files(), context.config.calibrate, wanted, with_rubric(CHECKED, names))
    if totals.positive_rows == 0:
        raise UserError(f"{parent}: no response is scored, so there is nothing to rank; look at the policy's responses")
    return [Shard(index, (piece, totals, RUBRIC in names)) for index, piece in enumerate(pieces)]


def checked_totals(
    pieces: Sequence[str],
    files: Sequence[Path],
    settings: CalibrateSettings,
    wanted: Sequence[Rule],
    schema: pl.Schema = CHECKED,
) -> Totals:
    """Check every row of a dataset and sum its rewards by polarity, in one pass.

    Args:
        pieces: the dataset in pieces of whole groups.
        files: the Parquet files of the dataset, in which a faulty row is named.
        settings: the coefficients of the ranks, and the form of the weights.
        wanted: the rules that every row has to keep.
        schema: the columns that are read, of ranks and rules.

    Raises:
        UserError: naming the first row that breaks a rule, and an id that several rows have.
    """
    # Rewards depend on their own group alone, so they can be summed piece by piece.
    totals, ids = Totals(), ResponseIds()
    for piece in pieces:
        scores = read_piece(piece, schema)
        if broken := broken_rules(scores, wanted):
            raise UserError(name_broken(files, broken[0]))
        ids.add(scores["response_id"])
        totals += totals_of(add_rewards(scores, settings.coefficients)["reward"], settings.form)
    if (repeated := next(ids.repeated(files), None)) is not None:
        id_, places = repeated
        raise UserError(
            f"response_id {id_} stands twice: {' and '.join(places)}; every response needs an id of its own"
        )
    return totals


def build(context: CalibrateContext, shard: Shard) -> ShardResult:
    """Calibrate one shard with the totals of the whole dataset."""
    piece, totals, rubric = shard.spec
    scores = read_piece(piece, schema_of([RUBRIC] if rubric else []))
    settings = context.config.calibrate
    frame = add_weights(add_rewards(scores, settings.coefficients), totals, binary=settings.binary, form=settings.form)
    # Training has to see the same messages that the policy answered, with the system prompts of that time.
    prompt = chat_by_language("query", system_prompts(context.config, context.inputs["score"].manifest))
    frame = frame.with_columns(prompt.alias("prompt"), answer_column("response").alias("completion"))
    counts = {
        "read": scores.height,
        "positive": int(frame["label"].sum()),
        "negative": int((~frame["label"]).sum()),
        "unscored": frame["reward"].null_count(),
    }
    # Counted only where there are any: a shard's counts are part of its bytes, and hardly any dataset has such rows.
    if lacking := int(frame.select((pl.col("matched") & pl.col("reward").is_null()).sum()).item()):
        counts["matched without a score"] = lacking
    return ShardResult(frame.select(c.name for c in present(WEIGHTS_COLUMNS, frame.columns)), counts)


def prompts(config: GraceKTOSettings, inputs: Mapping[str, Revision]) -> dict[str, str]:
    """Return the system prompts under which the responses were sampled, as the scores' manifest has them."""
    return system_prompts(config, inputs["score"].manifest)
