"""The dataset stage `comparisons`: a judge chooses between two policies' answers to the same held-out queries.

It reads two datasets of stage `answers`: its parent's are `a`, those of the setting `evaluate.other` are `b`; answers
with the same response_id, which names the query and the answer's number, are a pair. See `builders.judging.pairs`.
"""

from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import polars as pl

from builders.cards.card import Card
from builders.core import sources
from builders.core.plan import SOURCE
from builders.core.replies import replies_depend_on
from builders.core.stage import Asking, Asks, Context, Shard, ShardResult, Source, Stage, row_shards
from builders.grace_kto import roles
from builders.grace_kto.card import facts, recipe
from builders.grace_kto.languages import language_column
from builders.grace_kto.settings import GraceKTOSettings
from builders.judging import pairs
from builders.judging.pairs import COMPARED_COLUMNS
from builders.rubrics.columns import QUERY_ID
from builders.store.columns import column, require_columns
from builders.store.files import replacing
from builders.store.revision import Choice, Revision
from builders.store.store import Store
from scorers.errors import UserError
from training.grace_kto.answers import stem
from training.grace_kto.evaluations import READ, languages_of, ready

PAIRS = "pairs.parquet"
SIDES = {"policy": "model@revision", "response_id": "id of the answer", "response": "text that the judge saw"}
COMPARISONS_COLUMNS = (
    QUERY_ID,
    column("query", pl.String, "the writing request"),
    *(
        column(f"{name}_{side}", pl.String, f"{meaning} of {side}")
        for name, meaning in SIDES.items()
        for side in ("a", "b")
    ),
    *COMPARED_COLUMNS,
)


def source_of(config: GraceKTOSettings, require_pinned: bool = False) -> Source:
    """Return the other policy's answers.

    Raises:
        UserError: they are not named.
    """
    if config.evaluate.other is None:
        raise UserError(
            "stage comparisons: evaluate.other is null, and it names the answers to compare with; set it to a dataset "
            "of stage answers, or give `grace evaluate --pairwise` two policies"
        )
    return sources.source_of(config.evaluate.other, Store(Path(config.store)), Choice(), require_pinned=require_pinned)


def prompts(config: GraceKTOSettings, inputs: Mapping[str, Revision]) -> dict[str, str]:
    """Return the judge's prompts by name, in the queries' languages."""
    return pairs.prompts(config.judge, languages_of(inputs["answers"]))


def plan(context: Context[GraceKTOSettings]) -> list[Shard]:
    """Pair the answers, and plan shards of consecutive pairs.

    Raises:
        UserError: for a parent without the columns, and for two that have no answer in common.
    """
    sides = {"a": context.inputs["answers"], "b": context.inputs[SOURCE]}
    frames = []
    for side, revision in sides.items():
        require_columns(revision.schema(), READ, str(revision))
        text = pl.coalesce("document", "response", pl.lit("")).alias(f"response_{side}")
        own = revision.scan().select("query_id", "query", "response_id", pl.col("policy").alias(f"policy_{side}"), text)
        frames.append(own.with_columns(pl.col("response_id").alias(f"response_id_{side}")))
    joined = frames[0].join(
        frames[1].drop("query_id", "query"), on="response_id", how="inner", maintain_order="left", validate="1:1"
    )
    rows = joined.collect()
    if rows.is_empty():
        raise UserError(
            f"{sides['a']} and {sides['b']} have no response_id in common; compare answers to the same queries"
        )
    context.work.mkdir(parents=True, exist_ok=True)
    with replacing(context.work / PAIRS) as file:
        rows.drop("response_id").write_parquet(file)
    return row_shards(rows.height, context.config.judge.shard_responses, pairs.PAIRS_PER_SHARD)


def build(context: Context[GraceKTOSettings], shard: Shard) -> Asking:
    """Let the judge choose between the answers of a shard's pairs."""
    rows = pl.scan_parquet(context.work / PAIRS, glob=False).slice(*shard.spec).collect()
    shown = rows.select(
        pl.col("response_id_a").alias("name"),
        "query",
        language_column("query"),
        pl.col("response_a").alias("first"),
        pl.col("response_b").alias("second"),
    )
    counts: Counter[str] = Counter(read=rows.height)
    found = yield from pairs.compared(context, shard, shown.to_dicts(), context.config.judge, counts)
    kept = [c.name for c in COMPARISONS_COLUMNS[: -len(COMPARED_COLUMNS)]]
    return ShardResult(rows.select(kept).hstack(found), dict(+counts))


COMPARISONS = Stage(
    name="comparisons",
    kind="dataset",
    suffix="comparisons",
    version=1,
    parents=("answers",),
    reads=READ,
    roles={"judge": roles.grader},
    sections=("judge", "engines.judge", "random_seed", "threads"),
    per_round=False,
    stem=stem,
    source=source_of,
    prompts=prompts,
    ready=ready,
    bytes_depend_on=partial(replies_depend_on, role="judge"),
    columns=COMPARISONS_COLUMNS,
    plan=plan,
    build=Asks("judge", build),
    card=Card(
        "grace_kto/comparisons.md.jinja",
        tags=("evaluation", "llm-as-a-judge", "preference-data"),
        annotated=True,
        read="pairs read",
        facts=facts,
        recipe=recipe,
    ),
)
