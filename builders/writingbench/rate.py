"""Stage `rate`: a judge rates each response by each of its query's criteria, one criterion at a time (§3.2).

The score is a whole number from 1 to 10. Where no reply can be read after `rate.attempts` of them, the row has no score
and is counted as unscored; it is never 0. An empty response is not asked about. One row::

    {"query_id": "77ab…", "response_id": "77ab…-2", "criterion": "Sections", "repeat": 0, "score": 7,
     "reason": "…", "attempts": 1, "judge": "…", "prompt_hash": "9c31…", "temperature": 1.0, "top_p": 0.95}

Draws depend on the response, the criterion, the repeat and the attempt alone. All criteria of all responses of a shard
are asked together, and those of many shards side by side.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import polars as pl

from builders.core.draws import query_id
from builders.core.languages import prompt_name
from builders.core.prompting import read_prompt
from builders.core.replies import Question, Unread, ask, keep_unanswered
from builders.core.stage import Asking, Asks, Context, Shard, ShardResult, row_shards
from builders.store.columns import check_frame, frame_of, require_columns
from builders.store.revision import Revision
from builders.writingbench.columns import CRITERIA_COLUMNS, RATINGS_COLUMNS, RESPONSES_COLUMNS
from builders.writingbench.messages import ask_for_rating, prompt_names, prompts_of
from builders.writingbench.request import languages_of
from builders.writingbench.settings import PROMPTS, WritingBenchSettings
from scorers.errors import UserError
from scorers.rating import Rating, read_rating

RateContext = Context[WritingBenchSettings]

RESPONSES_PER_SHARD = 16
READ = tuple(c for c in RESPONSES_COLUMNS if c.name in ("query_id", "query", "language", "response_id", "response"))
CRITERIA = tuple(c for c in CRITERIA_COLUMNS if c.name in ("query_id", "criteria"))
UNSCORED = "unscored"
EMPTY = "empty responses"
NO_RATING = "reply without one score from 1 to 10"


def prompts(config: WritingBenchSettings, inputs: Mapping[str, Revision]) -> dict[str, str]:
    """Return the judge's prompts by name, in the responses' languages."""
    return prompts_of([config.rate.prompt], languages_of(inputs["respond"]))


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
    settings, parent = context.config.rate, context.inputs["respond"]
    responses = parent.scan().select(c.name for c in READ).slice(*shard.spec).collect()
    check_frame(responses, READ, str(parent))
    criteria = criteria_of(context.inputs["criteria"], responses["query_id"])
    counts: Counter[str] = Counter(read=responses.height)
    asked: list[tuple[dict[str, Any], str, int, Question[Rating]]] = []
    for row in responses.iter_rows(named=True):
        for criterion in criteria[row["query_id"]]:
            messages = ask_for_rating(settings.prompt, row["query"], row["response"], criterion, row["language"])
            for repeat in range(settings.repeats):
                name = f"{row['response_id']}/{criterion['name']}/{repeat}"
                asked.append((row, criterion["name"], repeat, Question(name, messages)))
    counts[EMPTY] = sum(not response.strip() for response in responses["response"])
    questions = [question for row, _, _, question in asked if row["response"].strip()]
    yield from ask(context, "rate", "judge", questions, settings, read, counts)
    keep_unanswered(context, shard.index, questions)
    counts[UNSCORED] = sum(question.answer is None for *_, question in asked)
    judge = str(context.models["judge"].record)
    rows = [
        {
            "query_id": row["query_id"],
            "response_id": row["response_id"],
            "criterion": criterion,
            "repeat": repeat,
            "score": question.answer and question.answer.score,
            "reason": question.answer and question.answer.reason,
            "attempts": question.attempts,
            "judge": judge,
            "prompt_hash": prompt_hash(settings.prompt, row["language"]),
            "temperature": float(settings.temperature),
            "top_p": float(settings.top_p),
        }
        for row, criterion, repeat, question in asked
    ]
    return ShardResult(frame_of(rows, RATINGS_COLUMNS), dict(+counts))


BUILD = Asks("judge", build)


def read(question: Question[Rating], reply: str) -> Rating | Unread:
    """Read the rating of a reply."""
    return read_rating(reply) or Unread(NO_RATING)


def criteria_of(revision: Revision, queries: pl.Series) -> dict[str, list[dict[str, str]]]:
    """Return the criteria of some queries by query_id."""
    wanted = revision.scan().select("query_id", "criteria").filter(pl.col("query_id").is_in(queries.unique().to_list()))
    return dict(wanted.collect().iter_rows())


def prompt_hash(prompt: str, language: str) -> str:
    """Return the first 16 hex digits of the SHA-256 of the judge's prompt file for a language."""
    return query_id(read_prompt(PROMPTS, prompt_name(prompt, language, prompt_names())))
