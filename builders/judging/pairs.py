"""A judge chooses between two responses to one query, asked in both orders; a row of the judge's columns::

    {"forward": "a", "backward": "b", "preference": "a", "analysis_forward": "…", "analysis_backward": "…",
     "attempts": 2, "judge": "…", "prompt_hash": "9c31…", "temperature": 0.3, "top_p": 1.0}

`forward` has the first response as A, `backward` has it as B; each is what the judge said of A and B. The preference
is of the responses: `a` for the first, `b` for the second, a tie where the two orders do not agree, null where one of
them could not be read. Two responses with the same text are a tie that nobody is asked about.
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
from builders.judging.columns import ASKED_COLUMNS
from builders.judging.settings import PROMPTS, JudgeSettings
from builders.store.columns import column, frame_of
from scorers.preference import REPLY, Choice, Comparison, ask_pair, of_both_orders, parse_pair

PAIRS_PER_SHARD = 16
UNSCORED = "without a preference"
EQUAL = "equal texts"
NO_CHOICE = "reply without one choice of A, B and tie"

COMPARED_COLUMNS = (
    column(
        "forward", pl.String, "the judge's choice, a, b or tie, with response_a as A; null if unread", nullable=True
    ),
    column(
        "backward", pl.String, "the same with response_a as B, as the judge said it: b is for response_a", nullable=True
    ),
    column(
        "preference",
        pl.String,
        "a, b or tie: the choice for response_a or response_b in both orders, tie where they differ; null if unread",
        nullable=True,
    ),
    *(
        column(f"analysis_{order}", pl.String, "what the judge says of the two; null where it does not", nullable=True)
        for order in ("forward", "backward")
    ),
    *ASKED_COLUMNS,
)


def prompts(settings: JudgeSettings, languages: Iterable[str]) -> dict[str, str]:
    """Return the judge's prompts by name, in some languages."""
    return prompts_of(PROMPTS, [settings.pair_prompt], languages)


def compared(
    context: Context[Any],
    shard: Shard,
    pairs: Sequence[Mapping[str, Any]],
    settings: JudgeSettings,
    counts: Counter[str],
) -> Generator[Batch, list[Completion], pl.DataFrame]:
    """Let the role `judge` choose between the responses of some pairs.

    Args:
        context: of the stage.
        shard: the shard that asks.
        pairs: `name`, unique in the stage, `query`, `language`, and the texts `first` and `second` of each.
        settings: prompt, draws, and how often to ask.
        counts: tokens, replies that did not fit, equal texts and pairs without a preference are counted here.

    Returns:
        A row for each pair, with the columns `COMPARED_COLUMNS`.
    """
    names = [prompt_name(settings.pair_prompt, row["language"], prompt_names(PROMPTS)) for row in pairs]
    texts = {name: read_prompt(PROMPTS, name) for name in set(names)}
    asked = [
        tuple(
            Question[Comparison](f"{row['name']}/{order}", ask_pair(texts[name], row["query"], *shown))
            for order, shown in enumerate(((row["first"], row["second"]), (row["second"], row["first"])))
        )
        for row, name in zip(pairs, names, strict=True)
    ]
    equal = [row["first"].strip() == row["second"].strip() for row in pairs]
    counts[EQUAL] = sum(equal)
    questions = [question for both, same in zip(asked, equal, strict=True) if not same for question in both]
    yield from ask(
        context, "compare", "judge", questions, settings, read, counts, pattern=REPLY if settings.guided else None
    )
    keep_unanswered(context, shard.index, questions)
    judge = str(context.models["judge"].record)
    rows: list[dict[str, object]] = []
    for (forward, backward), same, name in zip(asked, equal, names, strict=True):
        choices: list[Choice | None] = [
            "tie" if same else question.answer and question.answer.better for question in (forward, backward)
        ]
        rows.append(
            {
                "forward": choices[0],
                "backward": choices[1],
                "preference": of_both_orders(*choices),
                "analysis_forward": forward.answer and forward.answer.analysis,
                "analysis_backward": backward.answer and backward.answer.analysis,
                "attempts": forward.attempts + backward.attempts,
                "judge": judge,
                "prompt_hash": query_id(texts[name]),
                "temperature": float(settings.temperature),
                "top_p": float(settings.top_p),
            }
        )
    counts[UNSCORED] = sum(row["preference"] is None for row in rows)
    return frame_of(rows, COMPARED_COLUMNS)


def read(question: Question[Comparison], reply: str) -> Comparison | Unread:
    """Read the comparison of a reply."""
    return parse_pair(reply) or Unread(NO_CHOICE)
