"""Stages `pairs` and `unlabelled`: the labelled data in folds, and texts of the same kind without their edited form.

Of each task `pairs.per_task` texts are labelled ones, drawn by a hash of their own; the other texts of the sources go
to the unlabelled side, with those of `unlabelled.sources`, unless some task has them as a labelled one (B.1). A text
that several rows have is one pair, and their targets are its references. One row of `pairs`::

    {"pair_id": "77ab…", "task": "gec", "source": "He go .", "target": "He goes .", "references": [], "fold": 2}
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl

from builders.core.draws import derive_seed, query_id
from builders.core.replies import dropped_in
from builders.core.stage import Context, Shard, ShardResult, Source, row_shards
from builders.rationalign.columns import PAIRS_COLUMNS, UNLABELLED_COLUMNS
from builders.rationalign.messages import tasks_of
from builders.rationalign.settings import LEAST_FOLDS, RationAlignSettings, TaskSettings
from builders.rationalign.texts import Labelled, nothing_in, read_texts, source_of, source_stages
from builders.store.columns import frame_of, polars_schema
from builders.store.files import replacing
from builders.store.revision import Revision
from scorers.edits import words_of
from scorers.errors import UserError

PairsContext = Context[RationAlignSettings]

ROWS_PER_SHARD = 10_000
ROWS = "rows.parquet"
SAME_TEXT = "same text and task as another row"
LEFT = "over per_task"
IS_LABELLED = "labelled text"
UNCHANGED = "pairs without change"
UNCHANGED_ELSEWHERE = "without change"


def parents(config: RationAlignSettings, round_: int) -> dict[str, str]:
    """Return the sources of labelled texts; those that name a stage become parents."""
    return source_stages(config.pairs.sources, "pairs")


def unlabelled_parents(config: RationAlignSettings, round_: int) -> dict[str, str]:
    """Return the sources of both sides; those that name a stage become parents."""
    return parents(config, round_) | source_stages(config.unlabelled.sources, "unlabelled")


def prompts(config: RationAlignSettings, inputs: Mapping[str, Revision]) -> dict[str, str]:
    """Return the metrics of the user's own tasks: by them a pair without change is kept or not."""
    return {f"task.{name}.metric": task.metric for name, task in sorted(config.tasks.items())}


def labelled_source(config: RationAlignSettings, require_pinned: bool = False) -> Source | None:
    """Return what the stage `pairs` reads from outside."""
    return source_of(config, config.pairs.sources, require_pinned=require_pinned)


def unlabelled_source(config: RationAlignSettings, require_pinned: bool = False) -> Source | None:
    """Return what the stage `unlabelled` reads from outside."""
    found = (*config.pairs.sources, *config.unlabelled.sources)
    return source_of(config, found, require_pinned=require_pinned)


@dataclass
class Gathered:
    """A text with what several rows say of it."""

    task: str
    source: str
    references: dict[str, None] = field(default_factory=dict)  # an ordered set


def plan(context: PairsContext) -> list[Shard]:
    """Read all sources, choose the labelled texts and deal them out to folds.

    Raises:
        UserError: there is no source, one without a labelled text, or fewer distinct texts than folds.
    """
    settings = context.config.pairs
    if not settings.sources:
        raise UserError("pairs.sources names no source; give labelled texts: [{source: FILE, task: gec}, …]")
    counts: Counter[str] = Counter()
    gathered: dict[str, Gathered] = {}
    for number, source in enumerate(settings.sources, 1):
        own, found = Counter[str](), False
        for text in read_texts(context.config, source, context.inputs.get(f"pairs-{number}"), own, labelled=True):
            _gather(gathered, text, counts)
            found = True
        if not found:  # a word of `where` that is misspelt would leave out a whole task
            raise UserError(f"pairs.sources: {nothing_in(source.source, own)}")
        counts += own
    rows = [
        {
            "pair_id": identity,
            "task": found.task,
            "source": found.source,
            "target": next(iter(found.references)),
            "references": list(found.references)[1:],
            "fold": fold_of(found.source, settings.folds),
        }
        for identity, found in _usable(gathered, tasks_of(context.config), counts)
    ]
    kept = _drawn(rows, settings.per_task, context.config.random_seed, "pair_id", counts)
    reasons = dropped_in(+counts)
    left_out = f" (of {counts['read']} rows read: {reasons})" if reasons else ""
    if len(sources := {row["source"] for row in kept}) < settings.folds or {row["fold"] for row in kept} != set(
        range(1, settings.folds + 1)
    ):
        lower = ", or lower pairs.folds" if settings.folds > LEAST_FOLDS else ""
        raise UserError(
            f"pairs: {len(kept)} pairs with {len(sources)} distinct sources leave one of {settings.folds} folds empty"
            f"{left_out}; give more labelled texts{lower}"
        )
    counts[UNCHANGED] = sum(words_of(str(row["source"])) == words_of(str(row["target"])) for row in kept)
    return _planned(context, frame_of(kept, PAIRS_COLUMNS), settings.shard_rows, counts)


def _usable(
    gathered: dict[str, Gathered], tasks: Mapping[str, TaskSettings], counts: Counter[str]
) -> list[tuple[str, Gathered]]:
    """Leave out texts that nobody changed, except where edits are corrections: to change nothing can be right there."""
    kept = []
    for identity, found in gathered.items():
        # An annotator who changes something is a better target than one who changes nothing.
        # Other blanks alone are no edit of a word: there would be nothing to give a reason for.
        same = {text: words_of(text) == words_of(found.source) for text in found.references}
        found.references = dict.fromkeys(sorted(found.references, key=same.__getitem__))
        if tasks[found.task].metric != "maxmatch" and all(same.values()):
            counts[f"dropped.{UNCHANGED_ELSEWHERE}"] += 1
        else:
            kept.append((identity, found))
    return kept


def _gather(gathered: dict[str, Gathered], text: Labelled, counts: Counter[str]) -> None:
    identity = text_id(text.task, text.source)
    counts[f"dropped.{SAME_TEXT}"] += identity in gathered
    gathered.setdefault(identity, Gathered(text.task, text.source)).references.update(dict.fromkeys(text.references))


def text_id(task: str, source: str) -> str:
    """Return the identity of a text under a task."""
    return query_id(f"{task}\0{source}")


def fold_of(source: str, folds: int) -> int:
    """Return the fold of a source, 1 to `folds`, by its words alone: other blanks make no other text."""
    return 1 + derive_seed("fold", " ".join(source.split())) % folds


def _drawn(
    rows: list[dict[str, object]], per_task: int, seed: int, key: str, counts: Counter[str]
) -> list[dict[str, object]]:
    """Keep some rows of each task, in the order of draws that depend on their own ids."""
    ordered = sorted(rows, key=lambda row: derive_seed(seed, "pairs", str(row[key])))
    seen: Counter[object] = Counter()
    kept = []
    for row in ordered:
        seen[row["task"]] += 1
        if seen[row["task"]] <= per_task:
            kept.append(row)
    counts[f"dropped.{LEFT}"] += len(rows) - len(kept)
    return kept


def plan_unlabelled(context: PairsContext) -> list[Shard]:
    """Read the sources of both sides, and leave out every text that is a labelled one of some task.

    Raises:
        UserError: no text is left.
    """
    config, counts = context.config, Counter[str]()
    texts = context.inputs["pairs"].scan().select("source").collect()["source"]
    labelled = {" ".join(text.split()) for text in texts}
    rows: dict[str, dict[str, object]] = {}
    both = (("pairs", config.pairs.sources), ("unlabelled", config.unlabelled.sources))
    for stem, found in both:
        for number, source in enumerate(found, 1):
            for text in read_texts(config, source, context.inputs.get(f"{stem}-{number}"), counts, labelled=False):
                identity = text_id(text.task, text.source)
                if " ".join(text.source.split()) in labelled:
                    counts[f"dropped.{IS_LABELLED}"] += 1
                    continue
                counts[f"dropped.{SAME_TEXT}"] += identity in rows
                rows.setdefault(identity, {"text_id": identity, "task": text.task, "source": text.source})
    kept = _drawn(list(rows.values()), config.unlabelled.per_task, config.random_seed, "text_id", counts)
    if not kept:
        raise UserError(
            f"unlabelled: every text of the sources is a labelled one ({counts['read']} read); give more in "
            "unlabelled.sources, with columns: {target: null}, or lower pairs.per_task"
        )
    return _planned(context, frame_of(kept, UNLABELLED_COLUMNS), config.unlabelled.shard_rows, counts)


def _planned(context: PairsContext, rows: pl.DataFrame, size: int | None, counts: Counter[str]) -> list[Shard]:
    """Keep the chosen rows in the working folder, and plan shards of them; a spec is (first, number, counts)."""
    context.work.mkdir(parents=True, exist_ok=True)
    with replacing(context.work / ROWS) as file:
        rows.write_parquet(file)
    shards = row_shards(rows.height, size, ROWS_PER_SHARD)
    return [Shard(shard.index, (*shard.spec, {} if shard.index else dict(+counts))) for shard in shards]


def build(context: PairsContext, shard: Shard) -> ShardResult:
    """Return a shard's rows."""
    start, size, counts = shard.spec
    rows = pl.scan_parquet(context.work / ROWS, glob=False).slice(start, size).collect()
    columns = PAIRS_COLUMNS if "pair_id" in rows.columns else UNLABELLED_COLUMNS
    return ShardResult(rows.select(polars_schema(columns).names()), counts)
