"""Stage `contest`: two suggestions for each pair, by the model that has not seen its fold, and which of them is better.

N suggestions are drawn for each pair (§3.2.1), and the task's metric of each is taken against all references. Two of
them are drawn at random; equal ones are drawn again, and a pair whose suggestions are all equal is dropped and counted.
With `contest.contests` above 1 further two are drawn, which costs no sampling and gives the reward model more to learn.
`chosen` and `rejected` are what the reward model reads. One row::

    {"pair_id": "77ab…", "task": "gec", "source": "He go .", "fold": 2, "samples": ["He goes .", "He go .", …],
     "metrics": [100.0, 0.0, …], "winner": "He goes .", "loser": "He go .", "metric_winner": 100.0, …}
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from random import Random
from typing import Any

import polars as pl

from builders.core.draws import derive_seed
from builders.core.replies import dropped_in
from builders.core.sampled import fitting, sampled
from builders.core.stage import Asking, Asks, Context, Shard, ShardResult, Step, row_shards
from builders.core.work import build_missing
from builders.engines import SamplingSettings
from builders.rationalign import messages
from builders.rationalign.columns import CONTESTS_COLUMNS, PAIRS_COLUMNS
from builders.rationalign.settings import DrawSettings, RationAlignSettings
from builders.store.columns import check_frame, frame_of, require_columns
from builders.store.revision import Revision
from builders.store.shards import shard_counts
from scorers.editing import Edited, sentence_score
from scorers.errors import UserError
from scorers.suggestion import read_answer

ContestContext = Context[RationAlignSettings]

ROWS_PER_SHARD = 32
SAME = 1e-9  # difference of metrics that counts as none
OVER_WINDOW = "text over the context window"
EQUAL = "all suggestions equal by the metric"
BLANK = "blank suggestions"


def prompts(config: RationAlignSettings, inputs: Mapping[str, Revision]) -> dict[str, str]:
    """Return the writing assistant's and the reward model's prompts, and of each task metric and words."""
    return messages.prompts(config, inputs["pairs"], ["edit", "reward"], ["metric", "edit", "quality"])


def sampling_of(settings: DrawSettings) -> SamplingSettings:
    """Return how tokens are drawn."""
    return SamplingSettings(
        settings.max_new_tokens,
        settings.temperature,
        settings.top_p,
        top_k=settings.top_k,
        presence_penalty=settings.presence_penalty,
    )


def plan(context: ContestContext) -> list[Shard]:
    """Ask one fold's model after the other, each about the pairs of that fold alone.

    A shard's spec is (file, counts that it stands for).

    Raises:
        UserError: a pair's fold is not among the models', or no pair has two suggestions that differ.
    """
    parent = context.inputs["pairs"]
    require_columns(parent.schema(), PAIRS_COLUMNS, str(parent))
    folds = parent.scan().select("fold").collect()["fold"]
    known = context.config.pairs.folds
    if folds.is_empty() or sorted(folds.unique()) != list(range(1, known + 1)):
        found = ", ".join(map(str, folds.unique().sort()))
        raise UserError(f"{parent}: folds {found or 'none'}, and pairs.folds is {known}; set it to the dataset's")
    files = []
    for fold in range(1, known + 1):
        role = f"policy-{fold}"
        shards = row_shards(int((folds == fold).sum()), context.config.contest.shard_rows, ROWS_PER_SHARD)
        step = Step(f"contest: {context.models[role].record.id}", CONTESTS_COLUMNS, Asks(role, Suggest(fold)))
        files += build_missing(step, replace(context, work=context.work / role), shards)
        context.loaded.keep([])  # one model at a time
    counts: Counter[str] = Counter()
    for file in files:
        counts.update(shard_counts(file))
    whole = [file for file in files if pl.scan_parquet(file, glob=False).select(pl.len()).collect().item()]
    if not whole:
        raise UserError(
            f"contest: no pair of {parent} has two suggestions that differ by the metric ({dropped_in(counts)}); draw "
            "more (contest.samples), at a higher contest.temperature, or train the fold models longer"
        )
    return [Shard(place, (str(file), {} if place else dict(counts))) for place, file in enumerate(whole)]


def build(context: ContestContext, shard: Shard) -> ShardResult:
    """Return the rows of a file."""
    file, counts = shard.spec
    return ShardResult(pl.read_parquet(file, glob=False), counts)


class Suggest:
    """Draws suggestions for the pairs of one fold, by the model of that fold; a class, since an executor pickles it."""

    def __init__(self, fold: int) -> None:
        self.fold = fold

    def __call__(self, context: ContestContext, shard: Shard) -> Asking:
        """Draw the suggestions of a shard's pairs and hold the contests."""
        config, parent, role = context.config, context.inputs["pairs"], f"policy-{self.fold}"
        settings = config.contest
        own = parent.scan().filter(pl.col("fold") == self.fold).select(c.name for c in PAIRS_COLUMNS)
        pairs = own.slice(*shard.spec).collect()
        check_frame(pairs, PAIRS_COLUMNS, str(parent))

        def ask(row: dict[str, Any]) -> Any:
            return messages.ask_to_edit(config, row["task"], row["source"], "none")

        rows = fitting(context, role, list(pairs.iter_rows(named=True)), ask, settings.max_new_tokens)
        counts: Counter[str] = Counter({"read": pairs.height, f"dropped.{OVER_WINDOW}": pairs.height - len(rows)})
        asked = [(row["pair_id"], said, j) for row, said in rows for j in range(settings.samples)]
        seeds = [derive_seed(config.random_seed, "contest", name, j) for name, _, j in asked]
        said = [prompt for _, prompt, _ in asked]
        found = yield from sampled(context, role, said, seeds, sampling_of(settings), settings.thinking_tags, counts)
        texts = [text for text, _ in found]
        policy = str(context.models[role].record)
        held = []
        for number, (row, _) in enumerate(rows):
            drawn = texts[number * settings.samples : (number + 1) * settings.samples]
            samples = [answer.suggestion for answer in map(read_answer, drawn) if answer is not None]
            counts[BLANK] += len(drawn) - len(samples)
            contests = contests_of(config, row, samples)
            counts[f"dropped.{EQUAL}"] += not contests
            held += [contest | {"policy": policy} for contest in contests]
        return ShardResult(frame_of(held, CONTESTS_COLUMNS), dict(+counts))


def contests_of(config: RationAlignSettings, pair: Mapping[str, Any], samples: Sequence[str]) -> list[dict[str, Any]]:
    """Let suggestions for a pair compete two by two, see the module; none where all are equal.

    Args:
        config: the configuration.
        pair: a row of `pairs`.
        samples: the suggestions.
    """
    task = messages.task_of(config, pair["task"], f"pair {pair['pair_id']}")
    text = Edited(pair["source"], [pair["target"], *pair["references"]])
    known = {sample: sentence_score(task.metric, text, sample) for sample in dict.fromkeys(samples)}
    metrics = [known[sample] for sample in samples]
    differing = sum(abs(known[a] - known[b]) > SAME for a, b in combinations(known, 2))
    drawn: dict[frozenset[str], tuple[int, int]] = {}
    draws = _pairs_of(len(samples), derive_seed(config.random_seed, "contest", pair["pair_id"]))
    # Two suggestions compete once; equal ones are drawn again.
    while len(drawn) < min(differing, config.contest.contests):
        a, b = next(draws)
        if abs(metrics[a] - metrics[b]) > SAME:
            drawn.setdefault(frozenset((samples[a], samples[b])), (a, b) if metrics[a] > metrics[b] else (b, a))
    return [
        {
            **{name: pair[name] for name in ("pair_id", "task", "source", "fold")},
            "contest_id": f"{pair['pair_id']}-{number}",
            "samples": list(samples),
            "metrics": metrics,
            "winner": samples[won],
            "loser": samples[lost],
            "metric_winner": metrics[won],
            "metric_loser": metrics[lost],
            "chosen": messages.reward_text(config, pair["task"], pair["source"], samples[won]),
            "rejected": messages.reward_text(config, pair["task"], pair["source"], samples[lost]),
        }
        for number, (won, lost) in enumerate(drawn.values())
    ]


def _pairs_of(count: int, seed: int) -> Iterator[tuple[int, int]]:
    """Draw two different places again and again, without end."""
    rng = Random(seed)
    while True:
        first, second = rng.sample(range(count), 2)
        yield first, second
