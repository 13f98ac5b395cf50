"""Stage `format`: plain reference documents come into the tagged form that supervised fine-tuning teaches (§3.1).

The teacher, an instruct model, is shown a request and its document and writes a summary and an outline. The document
stays letter by letter what it was: no model copies it. A reply that does not fit is asked for again, with other draws,
and after `format.attempts` replies the document is dropped and counted. One row::

    {"query_id": "4be0…", "query": "Please write a report titled …", "reference": "1. Background …", "language": "en",
     "source": "seeds.jsonl", "summary": "The report …", "outline": "1. Background", "attempts": 1,
     "formatter": "Qwen/Qwen2.5-7B-Instruct@a09a…", "prompt": [{"role": "system", …}, {"role": "user", …}],
     "completion": [{"role": "assistant", "content": "<summary>The report …"}]}

A reference that has the form already is kept as it is, and nobody is asked. Dropped without asking are seeds without a
reference, references with some of the tags, which cannot stand inside the form, and those that leave no room for a
reply in a local teacher's context window.

The teacher is asked in parts of `DOCUMENTS_PER_PART` seeds, which are also the unit of resume; the dataset's files are
put together from whole parts. A reply's draws depend on its query and the attempt alone.
"""

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import polars as pl

from builders.core.prompting import answer_column, chat
from builders.core.replies import CUT, NO_END, OVER_WINDOW, Question, Unread, ask, dropped_in, keep_unanswered
from builders.core.stage import Asking, Asks, Context, Shard, ShardResult, Step, row_shards
from builders.core.unread import unread_in
from builders.core.work import build_missing
from builders.grace_kto.columns import FORMAT_COLUMNS, SEED_COLUMNS
from builders.grace_kto.languages import chat_by_language, prompt_name
from builders.grace_kto.messages import prompt_text, system_prompts
from builders.grace_kto.settings import GraceKTOSettings
from builders.store.columns import check_frame, polars_schema
from builders.store.revision import Revision
from builders.store.shards import shard_counts, shard_rows
from scorers.errors import UserError
from scorers.extraction import PLAN_PATTERN, Plan, compose, extract, extract_plan, form_of
from scorers.prompts import render_prompt

FormatContext = Context[GraceKTOSettings]

DOCUMENTS_PER_PART = 32
PARTS_PER_SHARD = 8
# Why a document is dropped: before anybody is asked, …
NO_REFERENCE = "no reference document"
BROKEN = "broken tags in the document"
OVER_LONG = "over-long document"
OVER_DOCUMENT = "document over the context window"
# … and by the last of its replies.
NO_PLAN = "reply without one summary and one outline"
LONGER = "summary longer than the document"
# What the others are counted as.
WITH_FORM = "documents with the form"
FORMATTED = "documents formatted"

log = logging.getLogger(__name__)


def prompts(config: GraceKTOSettings, inputs: Mapping[str, Revision]) -> dict[str, str]:
    """Return the prompts by name: those for the seeds' languages, and the system prompts that the rows show."""
    languages = inputs["seed"].scan().select(pl.col("language").unique()).collect()["language"]
    names = {prompt_name("format", language) for language in languages}
    return {name: prompt_text(name) for name in sorted(names)} | system_prompts(config, None)


def plan(context: FormatContext) -> list[Shard]:
    """Ask the teacher about all documents, and plan files of the dataset from the parts that have rows.

    A shard's spec is (files of its parts, counts that it stands for); the first shard has them all.

    Raises:
        UserError: where every document is dropped; the message counts the reasons and quotes a reply that did not fit.
    """
    seeds = context.inputs["seed"].scan().select(pl.len()).collect().item()
    asking = replace(context, work=context.work / "replies")
    parts = build_missing(ASK, asking, row_shards(seeds, None, DOCUMENTS_PER_PART))
    counts: Counter[str] = Counter()
    for part in parts:
        counts.update(shard_counts(part))
    filled = [str(part) for part in parts if shard_rows(part)]
    if not filled:
        raise UserError(nothing_left(counts) + unread_in(asking.work, "no summary and outline were"))
    if dropped := dropped_in(counts):
        log.warning("format: %d of %d seeds are left out: %s", seeds - sum(map(shard_rows, parts)), seeds, dropped)
    pieces = [filled[start : start + PARTS_PER_SHARD] for start in range(0, len(filled), PARTS_PER_SHARD)]
    return [Shard(index, (piece, {} if index else dict(counts))) for index, piece in enumerate(pieces)]


def build(context: FormatContext, shard: Shard) -> ShardResult:
    """Put the rows of a shard's parts together."""
    parts, counts = shard.spec
    return ShardResult(pl.concat(pl.read_parquet(part, glob=False) for part in parts), counts)


@dataclass
class Document:
    """One seed on its way to a row.

    Attributes:
        seed: the seed's row.
        plan: summary and outline, of a reference that has the form.
        question: what the teacher is asked; None where it is not asked.
        dropped: why it is not, where there is no plan either.
    """

    seed: dict[str, str]
    plan: Plan | None = None
    question: Question[Plan] | None = None
    dropped: str | None = None

    @property
    def found(self) -> Plan | None:
        """Summary and outline, once there are some."""
        return self.plan if self.question is None else self.question.answer

    @property
    def attempts(self) -> int:
        """Replies asked for so far."""
        return 0 if self.question is None else self.question.attempts


def ask_teacher(context: FormatContext, part: Shard) -> Asking:
    """Ask the teacher about one part's documents, again about those whose reply did not fit, and make the rows."""
    config, parent = context.config, context.inputs["seed"]
    start, size = part.spec
    seeds = parent.scan().select(c.name for c in SEED_COLUMNS).slice(start, size).collect()
    check_frame(seeds, SEED_COLUMNS, str(parent))
    documents = [prepared(seed, config) for seed in seeds.iter_rows(named=True)]
    counts: Counter[str] = Counter(read=size)
    questions = [document.question for document in documents if document.question is not None]
    references = {seed["query_id"]: seed["reference"] for seed in seeds.iter_rows(named=True)}
    pattern = PLAN_PATTERN if config.format.guided else None
    read = partial(read_plan, references)
    yield from ask(context, "format", "teacher", questions, config.format, read, counts, pattern=pattern)
    keep_unanswered(context, part.index, questions)
    for document in documents:
        if document.found is not None:
            counts[FORMATTED if document.attempts else WITH_FORM] += 1
        else:
            fault = document.dropped if document.question is None else document.question.fault
            counts[f"dropped.{OVER_DOCUMENT if fault == OVER_WINDOW else fault}"] += 1
    return ShardResult(rows_of(documents, context), dict(+counts))  # without zeros


ASK = Step("format: replies", FORMAT_COLUMNS, Asks("teacher", ask_teacher))
"""Asks the teacher; its files hold the rows of `DOCUMENTS_PER_PART` seeds each, and what was dropped of them."""


def prepared(seed: dict[str, str], config: GraceKTOSettings) -> Document:
    """Return what is to be done about a seed: nothing where its reference has the form, ask, or drop it."""
    settings, reference = config.format, seed["reference"]
    if not (reference or "").strip():
        return Document(seed, dropped=NO_REFERENCE)
    form = form_of(reference)
    if form == "tagged":
        found = extract(reference)
        return Document(seed, found and Plan(found.summary, found.outline))
    if form == "broken":
        return Document(seed, dropped=BROKEN)
    if settings.max_document_chars is not None and len(reference) > settings.max_document_chars:
        return Document(seed, dropped=OVER_LONG)
    prompt = ask_for_plan(seed["query"], reference, seed["language"])
    return Document(seed, question=Question(seed["query_id"], chat(prompt)))


def ask_for_plan(query: str, document: str, language: str) -> str:
    """Return the message that shows a request and its document and asks for summary and outline.

    Both stand between lines of equals signs, more than either has in a row, so that neither can end its own place.
    """
    longest = max((len(run) for run in re.findall("=+", f"{query}\n{document}")), default=0)
    text = prompt_text(prompt_name("format", language))
    return render_prompt(text, fence="=" * max(5, longest + 1), query=query, document=document.strip())


def read_plan(references: Mapping[str, str], question: Question[Plan], reply: str) -> Plan | Unread:
    """Read summary and outline of a reply.

    Args:
        references: the documents by query_id.
        question: of which the reply is one.
        reply: without a thinking block.
    """
    found = extract_plan(reply)
    if found is None:
        return Unread(NO_PLAN)
    return Unread(LONGER) if len(found.summary) > len(references[question.name].strip()) else found


def rows_of(documents: Sequence[Document], context: FormatContext) -> pl.DataFrame:
    """Return the rows of the documents that have a summary and an outline, in their order."""
    formatter = str(context.models["teacher"].record)
    rows = [
        {
            **document.seed,
            "summary": plan.summary,
            "outline": plan.outline,
            "attempts": document.attempts,
            "formatter": formatter if document.attempts else None,
            "text": tagged(document.seed["reference"], plan, given=not document.attempts),
        }
        for document in documents
        if (plan := document.found) is not None
    ]
    schema = polars_schema(FORMAT_COLUMNS)
    plain = {name: dtype for name, dtype in schema.items() if name not in ("prompt", "completion")}
    return (
        pl.DataFrame(rows, schema={**plain, "text": pl.String})
        .with_columns(
            chat_by_language("query", system_prompts(context.config, None)).alias("prompt"),
            answer_column("text").alias("completion"),
        )
        .select(schema.names())
    )


def tagged(reference: str, plan: Plan, *, given: bool) -> str:
    """Return a row's document in the tagged form: a reference that has it as it was given, or else composed."""
    return reference if given else compose(plan.summary, plan.outline, reference)


def nothing_left(counts: Mapping[str, int]) -> str:
    """Return the message where every document was dropped, with the way out that the reasons leave."""
    ways = {
        NO_REFERENCE: "set seed.columns.reference",
        BROKEN: "take the tags out of the documents",
        OVER_LONG: "raise format.max_document_chars",
        OVER_DOCUMENT: "lower format.max_new_tokens or use a teacher with a larger context window",
        CUT: "raise format.max_new_tokens",
        NO_END: "raise format.max_new_tokens",
        NO_PLAN: "raise format.attempts or use a model that follows instructions as models.teacher",
        LONGER: "raise format.attempts or give longer documents",
    }
    found = dict.fromkeys(way for reason, way in ways.items() if counts.get(f"dropped.{reason}"))
    return f"format: none of {counts['read']} seeds is left (dropped: {dropped_in(counts)}); {', '.join(found)}"
