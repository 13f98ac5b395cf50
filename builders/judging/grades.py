"""A judge grades responses: five criteria from 1 to 10 each, after an analysis (GRACE-KTO, §4.1, appendix E).

Where no reply can be read after `judge.attempts` of them, the response is unscored: its grades are null, never 0, and
it is counted. An empty response is not asked about. A row of the judge's columns::

    {"content": 7, "tone": 8, "ideas": 5, "structure": 6, "persuasiveness": 6, "judge_score": 64.0, "analysis": "…",
     "attempts": 1, "judge": "…", "prompt_hash": "9c31…", "temperature": 0.3, "top_p": 1.0}

Draws depend on the response and the attempt alone. All responses of a shard are asked about together, and those of many
shards side by side.
"""

from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from builders.core.draws import query_id
from builders.core.languages import prompt_name
from builders.core.prompting import prompt_names, prompts_of, read_prompt
from builders.core.replies import Question, Unread, ask, keep_unanswered
from builders.core.stage import Context, Shard
from builders.engines import Batch, Completion
from builders.judging.columns import JUDGED_COLUMNS
from builders.judging.settings import PROMPTS, JudgeSettings
from builders.store.columns import frame_of
from scorers import judgement
from scorers.judgement import CRITERIA, REPLY, Judgement

RESPONSES_PER_SHARD = 16
UNSCORED = "unscored"
EMPTY = "empty responses"
NO_GRADES = "reply without five grades from 1 to 10"


def prompts(settings: JudgeSettings, languages: Iterable[str]) -> dict[str, str]:
    """Return the judge's prompts by name, in some languages."""
    return prompts_of(PROMPTS, [settings.prompt], languages)


def graded(
    context: Context[Any],
    shard: Shard,
    responses: Sequence[Mapping[str, Any]],
    settings: JudgeSettings,
    counts: Counter[str],
) -> Generator[Batch, list[Completion], pl.DataFrame]:
    """Let the role `judge` grade some responses.

    Args:
        context: of the stage.
        shard: the shard that asks.
        responses: `response_id`, `query`, `language` and `text`, what is graded, of each.
        settings: prompt, draws, and how often to ask.
        counts: tokens, replies that did not fit, empty and unscored responses are counted here.

    Returns:
        A row for each response, with the columns `JUDGED_COLUMNS`.
    """
    names = [prompt_name(settings.prompt, row["language"], prompt_names(PROMPTS)) for row in responses]
    texts = {name: read_prompt(PROMPTS, name) for name in set(names)}
    asked: list[Question[Judgement]] = [
        Question(row["response_id"], judgement.ask(texts[name], row["query"], row["text"]))
        for row, name in zip(responses, names, strict=True)
    ]
    questions = [question for row, question in zip(responses, asked, strict=True) if row["text"].strip()]
    counts[EMPTY] = len(asked) - len(questions)
    pattern = REPLY if settings.guided else None
    yield from ask(context, "judge", "judge", questions, settings, read, counts, pattern=pattern)
    keep_unanswered(context, shard.index, questions)
    counts[UNSCORED] = sum(question.answer is None for question in asked)
    counts.update(f"{UNSCORED}, {question.fault}" for question in questions if question.fault is not None)
    judge = str(context.models["judge"].record)
    rows: list[dict[str, object]] = [
        {
            **{criterion: question.answer and question.answer.scores[criterion] for criterion in CRITERIA},
            "judge_score": question.answer and question.answer.score,
            "analysis": question.answer and question.answer.analysis,
            "attempts": question.attempts,
            "judge": judge,
            "prompt_hash": query_id(texts[name]),
            "temperature": float(settings.temperature),
            "top_p": float(settings.top_p),
        }
        for question, name in zip(asked, names, strict=True)
    ]
    return frame_of(rows, JUDGED_COLUMNS)


def read(question: Question[Judgement], reply: str) -> Judgement | Unread:
    """Read the judgement of a reply."""
    return judgement.parse(reply) or Unread(NO_GRADES)
