"""Stage `prefer`: the best and the worst response to each text by reward, of the texts with the best ones (§3.2.2).

The reward model scores each suggestion; the suggestion with the highest reward and the one with the lowest make a pair,
each with its reasons. Of all texts, or those of each task, the top share by the reward of the best is kept. One row::

    {"text_id": "51c0…", "task": "gec", "source": "He go.", "suggestion_chosen": "He goes.",
     "suggestion_rejected": "He go.", "reward_chosen": 2.31, "reward_rejected": -1.08, "policy": "…",
     "reward_model": "…", "prompt": [{"role": "user", …}], "chosen": [{…}], "rejected": [{…}]}
"""

import logging
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import polars as pl

from builders.core.draws import derive_seed
from builders.core.models import pick_device, pick_dtype
from builders.core.prompting import answer
from builders.core.replies import dropped_in
from builders.core.stage import Context, Shard, ShardResult, Step, row_shards
from builders.core.work import build_missing
from builders.rationalign import messages
from builders.rationalign.columns import CANDIDATES_COLUMNS, PREFERENCES_COLUMNS, TASK
from builders.rationalign.settings import PreferSettings, RationAlignSettings
from builders.store.columns import check_frame, column, frame_of, require_columns
from builders.store.files import replacing
from builders.store.revision import Revision
from builders.store.shards import shard_counts
from scorers.errors import UserError
from scorers.reward import RewardModels

PreferContext = Context[RationAlignSettings]

log = logging.getLogger(__name__)

TEXTS_PER_SHARD = 256
ROWS = "preferences.parquet"
SAME = 1e-9  # difference of rewards that counts as none
READ = CANDIDATES_COLUMNS[:6]
UNREAD = "responses without a suggestion"
WITHOUT_REASONS = "responses without reasons"
UNUSABLE = "no response that can be used"
NO_MODEL = "no reward model of the task"
EQUAL = "all responses equal by reward"
BELOW_SHARE = "below the top share"
CUT = "texts cut for the reward model"
ONE_FOR_ALL = "one reward model for all tasks needs no contest of each (reward.per_task: false)"
# Of each text, what the files of the step hold.
EXTREMES = (
    column("text_id", pl.String, "the text's"),
    TASK,
    column("chosen_id", pl.String, "response_id of the best response"),
    column("rejected_id", pl.String, "response_id of the worst response"),
    column("reward_chosen", pl.Float64, "the best one's reward"),
    column("reward_rejected", pl.Float64, "the worst one's reward"),
)


def prompts(config: RationAlignSettings, inputs: Mapping[str, Revision]) -> dict[str, str]:
    """Return the writing assistant's and the reward model's prompts, and what is said of each task."""
    return messages.prompts(config, inputs["sample"], ["edit", "reward"], ["edit", "quality"])


def plan(context: PreferContext) -> list[Shard]:
    """Score all suggestions, choose the pairs, and plan shards of them; a spec is (first, number, counts).

    Raises:
        UserError: no text has two responses that differ by reward, or a reward is NaN.
    """
    settings, parent = context.config.prefer, context.inputs["sample"]
    require_columns(parent.schema(), CANDIDATES_COLUMNS, str(parent))
    rows = parent.scan().select("text_id", "task").collect()
    ids = rows["text_id"]
    if ids.is_empty():
        raise UserError(f"{parent}: no response; give a dataset of candidates")
    messages.require_tasks(context.config, rows["task"], parent)
    models = models_of(context)
    lacking = [task for task in rows["task"].unique().sort() if not models.has(task)]
    if lacking and len(lacking) == rows["task"].n_unique():
        models.require(lacking)
    if lacking:
        log.warning(
            "prefer: %s has no model of task %s, for which there may have been no contest; %d texts are left out; %s",
            context.models["reward"].record, ", ".join(lacking),
            rows.filter(pl.col("task").is_in(lacking))["text_id"].n_unique(), ONE_FOR_ALL,
        )  # fmt: skip
    responses = len(ids) // max(1, ids.n_unique())
    # As many rows as the responses of the texts of a shard; a text whose rows are cut by a shard would count twice.
    if ids.rle().len() != ids.n_unique():
        raise UserError(f"{parent}: the responses to one text are not neighbours; sort its rows by text_id")
    size = (settings.shard_rows or TEXTS_PER_SHARD) * max(1, responses)
    shards = _whole_texts(ids, size)
    step = Step("prefer: rewards", EXTREMES, rewarded)
    files = build_missing(step, replace(context, work=context.work / "rewards"), shards)
    counts: Counter[str] = Counter()
    for path in files:
        counts.update(shard_counts(path))
    found = pl.concat([pl.read_parquet(path, glob=False) for path in files])
    if counts[CUT]:
        log.warning(
            "prefer: %d texts are longer than the reward model reads, of which it saw the end alone; raise "
            "prefer.max_length, or train reward from a model with a larger window", counts[CUT],
        )  # fmt: skip
    kept = top(found, settings)
    counts[f"dropped.{BELOW_SHARE}"] += found.height - kept.height
    if kept.is_empty():
        raise UserError(
            f"prefer: no text of {parent} has two responses that differ by reward ({dropped_in(counts)}); draw more "
            "(sample.responses), train sft longer, or set prefer.rationale to optional where reasons are missing"
            + (f"; {ONE_FOR_ALL}" if lacking else "")
        )
    with replacing(context.work / ROWS) as file:
        kept.write_parquet(file)
    planned = row_shards(kept.height, None, TEXTS_PER_SHARD * 16)
    return [Shard(shard.index, (*shard.spec, {} if shard.index else dict(+counts))) for shard in planned]


def _whole_texts(ids: pl.Series, size: int) -> list[Shard]:
    """Plan shards of about `size` rows that begin with a text's first row; a spec is (first, number)."""
    starts = (ids != ids.shift(1)).fill_null(True).arg_true().to_list()
    if not starts:
        return []
    ends: list[int] = []
    first = last = 0
    for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
        if start - first >= size:
            ends.append(start)
            first = start
        last = end
    cuts = [0, *ends, last]
    return [Shard(number, (a, b - a)) for number, (a, b) in enumerate(pairwise(cuts))]


def rewarded(context: PreferContext, shard: Shard) -> ShardResult:
    """Score the suggestions of a shard's texts, and find the best and the worst response to each text.

    Raises:
        UserError: a reward is NaN or infinite.
    """
    config, parent = context.config, context.inputs["sample"]
    names = [c.name for c in CANDIDATES_COLUMNS]
    rows = parent.scan().select(names).slice(*shard.spec).collect()
    check_frame(rows, CANDIDATES_COLUMNS, str(parent))
    counts: Counter[str] = Counter(read=rows["text_id"].n_unique())
    counts[UNREAD] = rows["suggestion"].null_count()
    models = models_of(context)
    judged = pl.col("task").is_in([task for task in rows["task"].unique() if models.has(task)])
    counts[f"dropped.{NO_MODEL}"] = rows.filter(~judged)["text_id"].n_unique()
    left = rows.filter(judged).drop_nulls("suggestion")
    if config.prefer.rationale == "required" and config.sft.order != "none":
        counts[WITHOUT_REASONS] = left["rationale"].null_count()
        left = left.drop_nulls("rationale")
    # What was cut at the limit may lose, but nobody is to learn it.
    whole = left.filter(pl.col("finish_reason") == "stop")["text_id"]
    left = left.filter(pl.col("text_id").is_in(whole.unique().to_list()))
    texts = left["text_id"].n_unique()
    counts[f"dropped.{UNUSABLE}"] = counts["read"] - counts[f"dropped.{NO_MODEL}"] - texts
    # Each suggestion of a text once; equal ones have one reward.
    unique = left.sort(pl.col("finish_reason") != "stop", maintain_order=True).unique(
        ["text_id", "suggestion"], keep="first", maintain_order=True
    )
    shown = [messages.reward_text(config, *row) for row in unique.select("task", "source", "suggestion").iter_rows()]
    cut_before = models.truncated
    rewards = models.score(shown, unique["task"].to_list())
    counts[CUT] = models.truncated - cut_before
    scored = unique.with_columns(reward=pl.Series("reward", rewards, pl.Float64))
    bad = scored.filter(~pl.col("reward").is_finite())
    if bad.height:
        raise UserError(
            f"prefer: the reward of response {bad['response_id'][0]} is {bad['reward'][0]}; rewards must be finite: "
            "train the reward model again at a lower reward.learning_rate"
        )
    # Of equal rewards the one whose hash is least: no order of drawing is favoured.
    draws = [derive_seed("prefer", name) for name in scored["response_id"]]
    ordered = scored.with_columns(draw=pl.Series("draw", draws, pl.Int64))
    best = (
        ordered.filter(pl.col("finish_reason") == "stop")
        .sort(["reward", "draw"], descending=[True, False])
        .group_by("text_id", maintain_order=True)
        .first()
    )
    worst = ordered.sort(["reward", "draw"]).group_by("text_id", maintain_order=True).first()
    both = best.join(worst, on="text_id", suffix="_worst").filter(pl.col("reward") - pl.col("reward_worst") > SAME)
    counts[f"dropped.{EQUAL}"] = texts - both.height
    order = {name: place for place, name in enumerate(rows["text_id"].unique(maintain_order=True))}
    found = both.sort(pl.col("text_id").replace_strict(order, return_dtype=pl.Int64)).select(
        "text_id",
        "task",
        chosen_id="response_id",
        rejected_id="response_id_worst",
        reward_chosen="reward",
        reward_rejected="reward_worst",
    )
    return ShardResult(found, dict(+counts))


def models_of(context: PreferContext) -> RewardModels:
    """Return the reward model, from the cache where it was loaded before."""
    settings, model = context.config.prefer, context.local("reward")
    device = pick_device(settings.device)
    return context.loaded.get(
        model,
        ("reward", settings.model_dump_json()),
        lambda: RewardModels(
            model.path,
            model.adapter,
            device=device,
            dtype=pick_dtype(settings.dtype, device),
            batch_size=settings.batch_size,
            max_length=settings.max_length,
            name=str(model.record),
        ),
    )


def top(rows: pl.DataFrame, settings: PreferSettings) -> pl.DataFrame:
    """Return the top share of texts by the reward of the best response, of all or of each task; rounded up."""
    draws = pl.Series("draw", [derive_seed("prefer", name) for name in rows["text_id"]], pl.Int64)
    ordered = rows.with_row_index("place").with_columns(draws).sort(["reward_chosen", "draw"], descending=[True, False])
    # Of 0.55 · 100 a float is a little more than 55.
    if settings.within == "all":
        kept = ordered.head(math.ceil(settings.share * rows.height - SAME))
    else:
        limit = (pl.len().over("task") * settings.share - SAME).ceil()
        kept = ordered.filter(pl.int_range(pl.len()).over("task") < limit)
    return kept.sort("place").drop("place", "draw")


def build(context: PreferContext, shard: Shard) -> ShardResult:
    """Put a shard's pairs together."""
    config, parent = context.config, context.inputs["sample"]
    start, size, counts = shard.spec
    kept = pl.read_parquet(context.work / ROWS, glob=False).slice(start, size)
    wanted = [*kept["chosen_id"], *kept["rejected_id"]]
    names = ("response_id", "source", "response", "suggestion", "policy")
    scan = parent.scan().filter(pl.col("response_id").is_in(wanted)).select(names)
    responses = {row["response_id"]: row for row in scan.collect().iter_rows(named=True)}
    reward_model = str(context.models["reward"].record)
    rows = []
    for row in kept.iter_rows(named=True):
        best, worst = responses[row["chosen_id"]], responses[row["rejected_id"]]
        rows.append(
            {
                **{name: row[name] for name in ("text_id", "task", "reward_chosen", "reward_rejected")},
                "source": best["source"],
                "suggestion_chosen": best["suggestion"],
                "suggestion_rejected": worst["suggestion"],
                "policy": best["policy"],
                "reward_model": reward_model,
                "prompt": messages.ask_to_edit(config, row["task"], best["source"], config.sft.order),
                "chosen": answer(best["response"]),
                "rejected": answer(worst["response"]),
            }
        )
    return ShardResult(frame_of(rows, PREFERENCES_COLUMNS), counts)


def bytes_depend_on(config: RationAlignSettings) -> list[str]:
    """Return what the rewards depend on beyond the fingerprint."""
    return ["kind of processor", *(["prefer.device"] if config.prefer.dtype == "auto" else [])]
