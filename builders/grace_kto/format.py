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

import polars as pl

from builders.core.draws import derive_seed
from builders.core.prompting import answer_column, chat, render_prompt
from builders.core.stage import Asking, Asks, Context, Shard, ShardResult, Step, row_shards
from builders.core.work import build_missing
from builders.engines import Batch, Completion, Engine, SamplingSettings
from builders.engines.prompts import fits_window
from builders.grace_kto.columns import FORMAT_COLUMNS, SEED_COLUMNS
from builders.grace_kto.languages import chat_by_language, prompt_name
from builders.grace_kto.messages import prompt_text, system_prompts
from builders.grace_kto.sample import THOUGHTS, begins_in_block, require_unopened
from builders.grace_kto.settings import FormatSettings, GraceKTOSettings
from builders.grace_kto.unread import keep_unread, unread_in
from builders.store.columns import check_frame, polars_schema
from builders.store.revision import Revision
from builders.store.shards import shard_counts, shard_rows
from scorers.errors import UserError
from scorers.extraction import PLAN_PATTERN, Plan, compose, cut_thinking, extract, extract_plan, form_of

FormatContext = Context[GraceKTOSettings]

DOCUMENTS_PER_PART = 32
PARTS_PER_SHARD = 8
# Why a document is dropped: before anybody is asked, …
NO_REFERENCE = "no reference document"
BROKEN = "broken tags in the document"
OVER_LONG = "over-long document"
OVER_WINDOW = "document over the context window"
# … and by the last of its replies.
CUT = "reply cut at the length limit"
NO_PLAN = "reply without one summary and one outline"
NO_END = "reply without an end of its thinking block"
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
        prompt: what the teacher is asked; empty where it is not asked.
        plan: summary and outline, once there are some.
        attempts: replies asked for so far.
        reply: the last of them.
        dropped: why there is none; the last reply's reason while it is asked again.
    """

    seed: dict[str, str]
    prompt: str = ""
    plan: Plan | None = None
    attempts: int = 0
    reply: Completion | None = None
    dropped: str | None = None


def ask(context: FormatContext, part: Shard) -> Asking:
    """Ask the teacher about one part's documents, again about those whose reply did not fit, and make the rows."""
    config, engine, parent = context.config, context.engine("teacher"), context.inputs["seed"]
    settings = config.format
    start, size = part.spec
    seeds = parent.scan().select(c.name for c in SEED_COLUMNS).slice(start, size).collect()
    check_frame(seeds, SEED_COLUMNS, str(parent))
    documents = [prepared(seed, engine, config) for seed in seeds.iter_rows(named=True)]
    counts: Counter[str] = Counter(read=size)
    waiting = [document for document in documents if document.prompt]
    opened = begins_in_block(
        engine,
        [chat(document.prompt) for document in waiting[:1]],
        settings.thinking_tags,
        config.engines.teacher.chat_template_kwargs,
    )
    if settings.guided:
        require_unopened("format", "teacher", opened=opened)
    pattern = PLAN_PATTERN if settings.guided else None
    # Greedy decoding gives the same reply again.
    for attempt in range(1, 1 + (settings.attempts if settings.temperature else 1)):
        if not waiting:
            break
        draws = [derive_seed(config.random_seed, "format", d.seed["query_id"], attempt) for d in waiting]
        completions = yield Batch(
            [chat(document.prompt) for document in waiting],
            draws,
            SamplingSettings(settings.max_new_tokens, settings.temperature, settings.top_p, pattern=pattern),
        )
        for document, completion in zip(waiting, completions, strict=True):
            document.attempts, document.reply = attempt, completion
            read(document, completion, settings, counts, opened=opened)
        waiting = [document for document in waiting if document.plan is None]
        counts["replies that did not fit"] += len(waiting)
    unread = [(d.prompt, d.reply.text, d.reply.finish_reason) for d in waiting if d.reply is not None]
    keep_unread(context.work, part.index, unread)
    counts.update(f"dropped.{document.dropped}" for document in documents if document.plan is None)
    counts.update(FORMATTED if d.attempts else WITH_FORM for d in documents if d.plan is not None)
    return ShardResult(rows_of(documents, context), dict(+counts))  # without zeros


ASK = Step("format: replies", FORMAT_COLUMNS, Asks("teacher", ask))
"""Asks the teacher; its files hold the rows of `DOCUMENTS_PER_PART` seeds each, and what was dropped of them."""


def prepared(seed: dict[str, str], engine: Engine, config: GraceKTOSettings) -> Document:
    """Return what is to be done about a seed: nothing where its reference has the form, ask, or drop it."""
    settings, reference = config.format, seed["reference"]
    if not (reference or "").strip():
        return Document(seed, dropped=NO_REFERENCE)
    form = form_of(reference)
    if form == "tagged":
        found = extract(reference)
        return Document(seed, plan=found and Plan(found.summary, found.outline))
    if form == "broken":
        return Document(seed, dropped=BROKEN)
    if settings.max_document_chars is not None and len(reference) > settings.max_document_chars:
        return Document(seed, dropped=OVER_LONG)
    prompt = ask_for_plan(seed["query"], reference, seed["language"])
    if not fits_window(engine, chat(prompt), settings.max_new_tokens, config.engines.teacher.chat_template_kwargs):
        return Document(seed, dropped=OVER_WINDOW)
    return Document(seed, prompt)


def ask_for_plan(query: str, document: str, language: str) -> str:
    """Return the message that shows a request and its document and asks for summary and outline.

    Both stand between lines of equals signs, more than either has in a row, so that neither can end its own place.
    """
    longest = max((len(run) for run in re.findall("=+", f"{query}\n{document}")), default=0)
    text = prompt_text(prompt_name("format", language))
    return render_prompt(text, fence="=" * max(5, longest + 1), query=query, document=document.strip())


def read(
    document: Document, completion: Completion, settings: FormatSettings, counts: Counter[str], *, opened: bool
) -> None:
    """Read summary and outline of a reply into a document, or why there are none.

    Args:
        document: what the teacher was asked about.
        completion: its reply.
        settings: the tags of a thinking block.
        counts: thinking blocks and tokens are counted here.
        opened: whether the reply begins inside a thinking block.
    """
    counts["tokens"] += completion.num_tokens
    reply = completion.text
    if settings.thinking_tags is not None:
        reply, thought = cut_thinking(reply, settings.thinking_tags, opened=opened)
        counts.update(name for name, found in THOUGHTS.items() if found == thought)
        if thought == "unclosed":
            document.dropped = NO_END
            return
    found = extract_plan(reply)
    if found is None:
        document.dropped = CUT if completion.finish_reason == "length" else NO_PLAN
    elif len(found.summary) > len(document.seed["reference"].strip()):
        document.dropped = LONGER
    else:
        document.plan = found


def rows_of(documents: Sequence[Document], context: FormatContext) -> pl.DataFrame:
    """Return the rows of the documents that have a summary and an outline, in their order."""
    formatter = str(context.models["teacher"].record)
    rows = [
        {
            **document.seed,
            "summary": document.plan.summary,
            "outline": document.plan.outline,
            "attempts": document.attempts,
            "formatter": formatter if document.attempts else None,
            "text": tagged(document.seed["reference"], document.plan, given=not document.attempts),
        }
        for document in documents
        if document.plan is not None
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


def dropped_in(counts: Mapping[str, int]) -> str:
    """Return how many documents were dropped for which reason, in words; empty where none was."""
    reasons = {name.removeprefix("dropped."): n for name, n in sorted(counts.items()) if name.startswith("dropped.")}
    return ", ".join(f"{n} {reason}" for reason, n in reasons.items())


def nothing_left(counts: Mapping[str, int]) -> str:
    """Return the message where every document was dropped, with the way out that the reasons leave."""
    ways = {
        NO_REFERENCE: "set seed.columns.reference",
        BROKEN: "take the tags out of the documents",
        OVER_LONG: "raise format.max_document_chars",
        OVER_WINDOW: "lower format.max_new_tokens or use a teacher with a larger context window",
        CUT: "raise format.max_new_tokens",
        NO_END: "raise format.max_new_tokens",
        NO_PLAN: "raise format.attempts or use a model that follows instructions as models.teacher",
        LONGER: "raise format.attempts or give longer documents",
    }
    found = dict.fromkeys(way for reason, way in ways.items() if counts.get(f"dropped.{reason}"))
    return f"format: none of {counts['read']} seeds is left (dropped: {dropped_in(counts)}); {', '.join(found)}"
