"""Stage `rate`: a judge rates each response by each of its query's criteria; see `builders.rubrics.ratings`."""

from collections import Counter
from collections.abc import Mapping

import polars as pl

from builders.core.stage import Asking, Asks, Context, Shard, ShardResult, row_shards
from builders.rubrics import ratings
from builders.rubrics.criteria import criteria_of
from builders.rubrics.ratings import RESPONSES_PER_SHARD, rated
from builders.store.columns import check_frame, require_columns
from builders.store.revision import Revision
from builders.writingbench.columns import CRITERIA_COLUMNS, RESPONSES_COLUMNS
from builders.writingbench.request import languages_of
from builders.writingbench.settings import WritingBenchSettings
from scorers.errors import UserError

RateContext = Context[WritingBenchSettings]

READ = tuple(c for c in RESPONSES_COLUMNS if c.name in ("query_id", "query", "language", "response_id", "response"))
CRITERIA = tuple(c for c in CRITERIA_COLUMNS if c.name in ("query_id", "criteria"))


def prompts(config: WritingBenchSettings, inputs: Mapping[str, Revision]) -> dict[str, str]:
    """Return the judge's prompts by name, in the responses' languages."""
    return ratings.prompts(config.rate.prompt, languages_of(inputs["respond"]))


def plan(context: RateContext) -> list[Shard]:
    """Plan shards of consecutive responses.

    Raises:
        UserError: for parents without their columns, and for a response to a query without criteria.
    """
    responses, criteria = context.inputs["respond"], context.inputs["criteria"]
    require_columns(responses.schema(), READ, str(responses))
    require_columns(criteria.schema(), CRITERIA, str(criteria))
    known = criteria.scan().select("query_id")
    lost = responses.scan().select("query_id", "response_id").join(known, on="query_id", how="anti").collect()
    if lost.height:
        raise UserError(
            f"{responses}: {lost.height} responses are to queries without criteria in {criteria}, the first is "
            f"response_id {lost['response_id'][0]}; give responses to the queries of that dataset"
        )
    rows = responses.scan().select(pl.len()).collect().item()
    return row_shards(rows, context.config.rate.shard_responses, RESPONSES_PER_SHARD)


def build(context: RateContext, shard: Shard) -> Asking:
    """Rate a shard's responses."""
    parent = context.inputs["respond"]
    responses = parent.scan().select(c.name for c in READ).slice(*shard.spec).collect()
    check_frame(responses, READ, str(parent))
    counts: Counter[str] = Counter(read=responses.height)
    criteria = criteria_of(context.inputs["criteria"], responses["query_id"])
    frame = yield from rated(context, shard, responses.to_dicts(), criteria, context.config.rate, counts)
    return ShardResult(frame, dict(+counts))


BUILD = Asks("judge", build)
