"""A judge rates each response by each of its query's criteria, one criterion at a time (§3.2).

The score is a whole number from 1 to 10. Where no reply can be read after `rate.attempts` of them, the row has no score
and is counted as unscored; it is never 0. An empty response is not asked about. One row::

    {"query_id": "77ab…", "response_id": "77ab…-2", "criterion": "Sections", "repeat": 0, "score": 7,
     "reason": "…", "attempts": 1, "judge": "…", "prompt_hash": "9c31…", "temperature": 1.0, "top_p": 0.95}

Draws depend on the response, the criterion, the repeat and the attempt alone. All criteria of all responses of a shard
are asked together, and those of many shards side by side.
"""

from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from builders.core.draws import query_id
from builders.core.languages import prompt_name
from builders.core.prompting import ask_for, prompt_names, prompts_of, read_prompt
from builders.core.replies import Question, Unread, ask, keep_unanswered
from builders.core.stage import Context, Shard
from builders.engines import Batch, Completion, Message
from builders.rubrics.columns import RATINGS_COLUMNS
from builders.rubrics.settings import PROMPTS, RateSettings
from builders.store.columns import frame_of
from scorers.criteria import BANDS, Criterion
from scorers.rating import Rating, read_rating

RESPONSES_PER_SHARD = 16
UNSCORED = "unscored"
EMPTY = "empty responses"
NO_RATING = "reply without one score from 1 to 10"


def prompts(prompt: str, languages: Iterable[str]) -> dict[str, str]:
    """Return the judge's prompts by name, in some languages; `prompt` is the setting `rate.prompt`."""
    return prompts_of(PROMPTS, [prompt], languages)


def rated(
    context: Context[Any],
    shard: Shard,
    responses: Sequence[Mapping[str, Any]],
    criteria: Mapping[str, Sequence[Criterion]],
    settings: RateSettings,
    counts: Counter[str],
) -> Generator[Batch, list[Completion], pl.DataFrame]:
    """Let the role `judge` rate some responses by each criterion of their queries.

    Args:
        context: of the stage `rate`.
        shard: the shard that asks.
        responses: `query_id`, `query`, `language`, `response_id` and `response` of each.
        criteria: by query_id.
        settings: prompt, draws, repeats, and how often to ask.
        counts: tokens, replies that did not fit, empty responses and unscored ratings are counted here.

    Returns:
        The ratings, with the columns `RATINGS_COLUMNS`.
    """
    asked: list[tuple[Mapping[str, Any], str, int, Question[Rating]]] = []
    for row in responses:
        for criterion in criteria[row["query_id"]]:
            messages = ask_for_rating(settings.prompt, row["query"], row["response"], criterion, row["language"])
            for repeat in range(settings.repeats):
                name = f"{row['response_id']}/{criterion['name']}/{repeat}"
                asked.append((row, criterion["name"], repeat, Question(name, messages)))
    counts[EMPTY] = sum(not row["response"].strip() for row in responses)
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
    return frame_of(rows, RATINGS_COLUMNS)


def ask_for_rating(prompt: str, query: str, response: str, criterion: Criterion, language: str) -> list[Message]:
    """Return the messages that ask a judge, or a critic, to rate a response by one criterion.

    Args:
        prompt: the setting `rate.prompt`.
        query: what was asked for.
        response: the response.
        criterion: the criterion.
        language: the row's.
    """
    shown = (query, response, *criterion.values())
    return ask_for(PROMPTS, prompt, language, *shown, query=query, response=response, criterion=criterion, bands=BANDS)


def read(question: Question[Rating], reply: str) -> Rating | Unread:
    """Read the rating of a reply."""
    return read_rating(reply) or Unread(NO_RATING)


def prompt_hash(prompt: str, language: str) -> str:
    """Return the first 16 hex digits of the SHA-256 of the judge's prompt file for a language."""
    return query_id(read_prompt(PROMPTS, prompt_name(prompt, language, prompt_names(PROMPTS))))
