"""Five criteria for each query (§3.2), written by a model that sees the query.

A criterion has a name, a description, and what earns a score in each of five bands. A reply without exactly five
distinct and whole criteria is asked for again, and after `criteria.attempts` replies the query has none.
"""

from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from builders.core.prompting import ask_for, prompts_of
from builders.core.replies import Question, Unread, ask, keep_unanswered
from builders.core.stage import Context, Shard
from builders.engines import Batch, Completion
from builders.rubrics.settings import PROMPTS, CriteriaSettings
from builders.store.revision import Revision
from scorers.criteria import Criterion, read_criteria

ROWS_PER_SHARD = 32


def prompts(languages: Iterable[str]) -> dict[str, str]:
    """Return the prompts by name, in some languages."""
    return prompts_of(PROMPTS, ["criteria"], languages)


def written(
    context: Context[Any],
    shard: Shard,
    role: str,
    queries: Sequence[Mapping[str, Any]],
    settings: CriteriaSettings,
    counts: Counter[str],
) -> Generator[Batch, list[Completion], list[list[Criterion] | None]]:
    """Ask a role's engine for the criteria of some queries.

    Args:
        context: of the stage `criteria`.
        shard: the shard that asks.
        role: who writes.
        queries: `query_id`, `query` and `language` of each.
        settings: how to draw, and how often to ask.
        counts: tokens, replies that did not fit and, by reason, queries that are dropped, are counted here.

    Returns:
        For each query its criteria, or None.
    """
    questions: list[Question[list[Criterion]]] = [
        Question(row["query_id"], ask_for(PROMPTS, "criteria", row["language"], row["query"], query=row["query"]))
        for row in queries
    ]
    yield from ask(context, "criteria", role, questions, settings, read, counts)
    keep_unanswered(context, shard.index, questions)
    counts.update(f"dropped.{question.fault}" for question in questions if question.answer is None)
    return [question.answer for question in questions]


def read(question: Question[list[Criterion]], reply: str) -> list[Criterion] | Unread:
    """Read the criteria of a reply."""
    found = read_criteria(reply)
    return Unread(f"reply with {found}") if isinstance(found, str) else found


def criteria_of(revision: Revision, queries: pl.Series) -> dict[str, list[Criterion]]:
    """Return the criteria of some queries by query_id."""
    wanted = revision.scan().select("query_id", "criteria").filter(pl.col("query_id").is_in(queries.unique().to_list()))
    return dict(wanted.collect().iter_rows())
