"""Stage `rate`, where `score.rubric` is true: a judge rates each matched document by each criterion of its query.

See `builders.rubrics.ratings`. A response to a query without criteria is not rated, and counted.
"""

from collections import Counter
from collections.abc import Mapping

import polars as pl

from builders.core.stage import Asking, Asks, Context, Shard, ShardResult, row_shards
from builders.grace_kto.columns import CRITERIA_COLUMNS, GROUPS_COLUMNS
from builders.grace_kto.criteria import languages_of
from builders.grace_kto.languages import language_column
from builders.grace_kto.rows import check_texts
from builders.grace_kto.settings import GraceKTOSettings
from builders.rubrics import ratings
from builders.rubrics.criteria import criteria_of
from builders.rubrics.ratings import RESPONSES_PER_SHARD, rated
from builders.store.columns import require_columns
from builders.store.revision import Revision

RateContext = Context[GraceKTOSettings]

NAMES = ("query_id", "query", "response_id", "summary", "document", "matched")
READ = tuple(c for c in GROUPS_COLUMNS if c.name in NAMES)
NO_CRITERIA = "responses to queries without criteria"


def prompts(config: GraceKTOSettings, inputs: Mapping[str, Revision]) -> dict[str, str]:
    """Return the judge's prompts by name, in the queries' languages."""
    return ratings.prompts(config.rate.prompt, languages_of(inputs["sample"]))


def plan(context: RateContext) -> list[Shard]:
    """Plan shards of consecutive matched responses.

    Raises:
        UserError: for parents without their columns.
    """
    groups, criteria = context.inputs["sample"], context.inputs["criteria"]
    require_columns(groups.schema(), READ, str(groups))
    require_columns(criteria.schema(), CRITERIA_COLUMNS, str(criteria))
    matched = groups.scan().select(pl.col("matched").sum()).collect().item()
    return row_shards(matched, context.config.rate.shard_responses, RESPONSES_PER_SHARD)


def build(context: RateContext, shard: Shard) -> Asking:
    """Rate a shard's documents."""
    matched = (
        context.inputs["sample"]
        .scan()
        .filter("matched")
        .select(*NAMES, language_column("query"))
        .slice(*shard.spec)
        .collect()
    )
    check_texts(matched, "rate")
    criteria = criteria_of(context.inputs["criteria"], matched["query_id"])
    responses = [
        {**row, "response": row["document"]} for row in matched.iter_rows(named=True) if row["query_id"] in criteria
    ]
    counts: Counter[str] = Counter({"read": matched.height, NO_CRITERIA: matched.height - len(responses)})
    frame = yield from rated(context, shard, responses, criteria, context.config.rate, counts)
    return ShardResult(frame, dict(+counts))


BUILD = Asks("judge", build)
