"""The dataset stage `evaluations`: a policy's answers to the held-out queries, each graded by a judge (§4.1).

A row is one of `-answers` with the judge's grades; see `builders.judging.grades`. The judge is shown the document of an
answer that matches, and all that was written of one that does not. Answers of other people's can be graded too::

    build --stage evaluations --from answers/ --set models.judge=...
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import polars as pl

from builders.cards.card import Card
from builders.core.ready import engine_ready
from builders.core.replies import replies_depend_on
from builders.core.stage import Asking, Asks, Context, FindModel, Shard, ShardResult, Stage, row_shards
from builders.grace_kto import roles
from builders.grace_kto.card import facts, recipe
from builders.grace_kto.columns import GROUPS_COLUMNS
from builders.grace_kto.languages import language_column
from builders.grace_kto.ready import require_guidable
from builders.grace_kto.settings import GraceKTOSettings
from builders.judging import grades
from builders.judging.check import check_grades
from builders.judging.columns import GRADES, JUDGED_COLUMNS
from builders.store.columns import require_columns
from builders.store.revision import Revision
from scorers.errors import UserError
from training.grace_kto.answers import ANSWERS_COLUMNS, stem
from training.grace_kto.evaluation import COLUMNS

NEEDED = ("query_id", "query", "response_id", "response", "document", "policy")
# Other people's answers need no metrics.
EVALUATIONS_COLUMNS = (*(replace(c, optional=c.name not in NEEDED) for c in ANSWERS_COLUMNS), *JUDGED_COLUMNS)
READ = tuple(c for c in GROUPS_COLUMNS if c.name in NEEDED)


def prompts(config: GraceKTOSettings, inputs: Mapping[str, Revision]) -> dict[str, str]:
    """Return the judge's prompts by name, in the queries' languages."""
    return grades.prompts(config.judge, languages_of(inputs["answers"]))


def languages_of(answers: Revision) -> list[str]:
    """Return the languages of the queries, each once."""
    return answers.scan().select(language_column("query").unique().sort()).collect().to_series().to_list()


def ready(config: GraceKTOSettings, find: FindModel) -> None:
    """Check what asking the judge needs.

    Raises:
        UserError: as `require_guidable` and `engine_ready`.
    """
    require_guidable("judge", "judge", config)
    engine_ready(config, find, "judge")


def plan(context: Context[GraceKTOSettings]) -> list[Shard]:
    """Plan shards of consecutive answers.

    Raises:
        UserError: for a parent without the columns, and for one without a row.
    """
    parent = context.inputs["answers"]
    require_columns(parent.schema(), READ, str(parent))
    rows = parent.scan().select(pl.len()).collect().item()
    if not rows:
        raise UserError(f"{parent}: has no row, so there is nothing to grade")
    return row_shards(rows, context.config.judge.shard_responses, grades.RESPONSES_PER_SHARD)


def build(context: Context[GraceKTOSettings], shard: Shard) -> Asking:
    """Let the judge grade a shard's answers."""
    answers = context.inputs["answers"].scan().slice(*shard.spec).collect()
    shown = answers.select(
        "response_id", "query", language_column("query"), pl.coalesce("document", "response", pl.lit("")).alias("text")
    )
    counts: Counter[str] = Counter(read=answers.height)
    found = yield from grades.graded(context, shard, shown.to_dicts(), context.config.judge, counts)
    frame = answers.select(c.name for c in ANSWERS_COLUMNS if c.name in answers.columns).hstack(found)
    return ShardResult(frame, dict(+counts))


EVALUATIONS = Stage(
    name="evaluations",
    kind="dataset",
    suffix="evaluations",
    version=1,
    parents=("answers",),
    reads=READ,
    roles={"judge": roles.grader},
    sections=("judge", "engines.judge", "random_seed", "threads"),
    per_round=False,
    stem=stem,
    prompts=prompts,
    ready=ready,
    bytes_depend_on=partial(replies_depend_on, role="judge"),
    check=check_grades,
    columns=EVALUATIONS_COLUMNS,
    plan=plan,
    build=Asks("judge", build),
    summaries=(*COLUMNS.values(), *GRADES),
    card=Card(
        "grace_kto/evaluations.md.jinja",
        tags=("evaluation", "llm-as-a-judge"),
        annotated=True,
        read="answers read",
        facts=facts,
        recipe=recipe,
    ),
)
