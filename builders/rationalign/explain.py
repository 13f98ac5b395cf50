"""Stage `explain`: one reason for each edit from source to target, by the teacher (§3.1).

A reply that leaves an edit without a reason is asked again, then the pair is dropped and counted. A pair without an
edit is not asked about. One row is the pair's with::

    {…, "edits": [{"start": 1, "end": 2, "source": ["go"], "target": ["goes"]}],
     "rationale": "The word \\"go\\" should be replaced by \\"goes\\" because the subject is singular.",
     "teacher": "gpt-4o-2024-08-06@…"}
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import polars as pl

from builders.core.replies import Question, Unread, ask, dropped_in, keep_unanswered
from builders.core.stage import Asking, Asks, Context, Shard, ShardResult, row_shards
from builders.core.unread import unread_in
from builders.rationalign import messages
from builders.rationalign.columns import PAIRS_COLUMNS, RATIONALES_COLUMNS
from builders.rationalign.settings import RationAlignSettings
from builders.store.columns import check_frame, frame_of, require_columns
from builders.store.revision import Revision
from scorers.edits import Edit, edits_between
from scorers.errors import UserError
from scorers.rationale import covering, reasons_of
from scorers.suggestion import has_tag

ExplainContext = Context[RationAlignSettings]

ROWS_PER_SHARD = 64
UNCOVERED = "reply that leaves an edit without a reason"
WITH_TAGS = "reply with a tag of the answers' form"


def prompts(config: RationAlignSettings, inputs: Mapping[str, Revision]) -> dict[str, str]:
    """Return the teacher's prompt, and what is said of each task."""
    return messages.prompts(config, inputs["pairs"], ["explain"], ["change"])


def plan(context: ExplainContext) -> list[Shard]:
    """Plan shards of consecutive pairs."""
    parent = context.inputs["pairs"]
    require_columns(parent.schema(), PAIRS_COLUMNS, str(parent))
    rows = parent.scan().select("task").collect()
    messages.require_tasks(context.config, rows["task"], parent)
    return row_shards(rows.height, context.config.explain.shard_rows, ROWS_PER_SHARD)


def build(context: ExplainContext, shard: Shard) -> Asking:
    """Ask for the reasons of a shard's pairs.

    Raises:
        UserError: no pair of the shard has reasons that can be read.
    """
    config, parent = context.config, context.inputs["pairs"]
    pairs = parent.scan().select(c.name for c in PAIRS_COLUMNS).slice(*shard.spec).collect()
    check_frame(pairs, PAIRS_COLUMNS, str(parent))
    counts: Counter[str] = Counter(read=pairs.height)
    asked: list[tuple[dict[str, Any], list[Edit], Question[list[str]]]] = []
    for row in pairs.iter_rows(named=True):
        edits = edits_between(row["source"], row["target"])
        said = messages.ask_for_reasons(config, row["task"], row["source"], row["target"], edits)
        asked.append((row, edits, Question(row["pair_id"], said)))
    wanted = {question.name: edits for _, edits, question in asked}

    def read(question: Question[list[str]], reply: str) -> list[str] | Unread:
        if question.reply is not None and question.reply.finish_reason == "length":
            return Unread(UNCOVERED)  # counted as cut: its last reason may be half of one
        # One reason for each edit, in their order; what a teacher says beyond that is of no edit.
        found = covering(wanted[question.name], reasons_of(reply))
        reasons = [reason for reason in found if reason is not None]
        if len(reasons) < len(found):
            return Unread(UNCOVERED)
        return Unread(WITH_TAGS) if any(map(has_tag, reasons)) else reasons

    questions = [question for _, edits, question in asked if edits]
    yield from ask(context, "explain", "teacher", questions, config.explain, read, counts)
    keep_unanswered(context, shard.index, questions)
    counts.update(f"dropped.{question.fault}" for question in questions if question.answer is None)
    counts["pairs without an edit"] = len(asked) - len(questions)
    teacher = str(context.models["teacher"].record)
    rows = [
        {
            **row,
            "edits": [edit._asdict() for edit in edits],
            "rationale": "\n".join(question.answer) if question.answer else messages.NOTHING,
            "teacher": teacher if edits else None,
        }
        for row, edits, question in asked
        if question.answer or not edits
    ]
    if not rows:
        raise UserError(
            f"explain: of {pairs.height} pairs none got a reason for each edit ({dropped_in(counts)})"
            f"{unread_in(context.work, 'no reasons were')}; use a larger teacher, or raise explain.attempts"
        )
    return ShardResult(pl.DataFrame(rows, schema=frame_of([], RATIONALES_COLUMNS).schema), dict(+counts))


BUILD = Asks("teacher", build)
