"""Stage `refine`: requests are revised by guidance, and the material they need is listed and written (§3.1.1, §3.4).

Of the pool of six requirements (C.2) some are drawn for each request; length and brevity are never drawn together. The
teacher rewrites the request, lists what material it needs, and writes it: training data without annotators. Requests
that are near-duplicates of an earlier one, or of a query of a benchmark, are dropped and counted. One row::

    {"query_id": "77ab…", "query": "I teach year 5 and need …\\n\\nMaterial:\\n\\n…", "domain": "Education",
     "subdomain": "Lesson Plan", "language": "en", "request_id": "5b1c…-3", "request": "…", "refined": "…",
     "requirements": ["length", "style"], "materials": ["The school's …"], "material": "…", "refiner": "…"}

The teacher is asked in parts of `REQUESTS_PER_PART` requests, which are also the unit of resume; then all are compared.
"""

import logging
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from builders.core.draws import derive_seed, query_id
from builders.core.near_duplicates import near_duplicates, signatures_of
from builders.core.prompting import ask_for, prompts_of
from builders.core.query_parser import read_queries
from builders.core.replies import CUT, Question, Unread, ask, dropped_in, keep_unanswered
from builders.core.sources import source_file
from builders.core.stage import Asking, Asks, Context, Shard, ShardResult, Source, Step, row_shards
from builders.core.tables import read_columns
from builders.core.unread import unread_in
from builders.core.work import build_missing
from builders.store.columns import check_frame, frame_of, require_columns
from builders.store.files import file_sha256
from builders.store.revision import Revision
from builders.store.shards import shard_counts, shard_rows
from builders.writingbench.columns import QUERIES_COLUMNS, REQUEST_COLUMNS
from builders.writingbench.messages import guidance, in_language, join_material
from builders.writingbench.request import languages_of
from builders.writingbench.settings import PROMPTS, REQUIREMENTS, WritingBenchSettings
from scorers.errors import UserError
from scorers.replies import json_values

RefineContext = Context[WritingBenchSettings]

REQUESTS_PER_PART = 32
PARTS_PER_SHARD = 32
TOGETHER_NEVER = {"length", "brevity"}
MOST_MATERIALS = 5
NO_QUERY = "reply without one refined request"
NO_LIST = "reply without a list of material"
BLANK = "blank material"
SAME = "duplicate"
NEAR = "near-duplicate"
BENCHMARK = "near-duplicate of a benchmark"
OVER_LONG = "over-long"

log = logging.getLogger(__name__)


def prompts(config: WritingBenchSettings, inputs: Mapping[str, Revision]) -> dict[str, str]:
    """Return the prompts by name, the pool of guidance among them, in the requests' languages."""
    languages = languages_of(inputs["request"])
    kinds = {"write": ["materials", "material"], "list": ["materials"], "none": []}[config.refine.material]
    pool = {
        f"guidance.{name}.{language}": in_language(guidance()[name], language)
        for name in REQUIREMENTS
        for language in languages
    }
    return prompts_of(PROMPTS, ["refine", *kinds], languages) | pool


def source_of(config: WritingBenchSettings, require_pinned: bool = False) -> Source | None:
    """Return the benchmarks' files by their SHA-256; None where there are none.

    Raises:
        UserError: for a file that is missing, or whose ending is not read.
    """
    files = [_benchmark(name) for name in config.refine.benchmarks]
    return Source(" ".join(file_sha256(file) for file in files)) if files else None


def _benchmark(name: str) -> Path:
    """Return the file of a benchmark."""
    file = source_file(name)
    if file is None:
        raise UserError(f"refine.benchmarks: {name} is no file; give the benchmark's file of queries")
    return file


def plan(context: RefineContext) -> list[Shard]:
    """Ask the teacher about all requests, drop near-duplicates, and plan files from the parts' rows that are left.

    A shard's spec is (files of its parts, query_ids left out, counts that it stands for); the first has all counts.

    Raises:
        UserError: where no request is left; the message counts the reasons.
    """
    parent = context.inputs["request"]
    require_columns(parent.schema(), REQUEST_COLUMNS, str(parent))
    requests = parent.scan().select(pl.len()).collect().item()
    asking = replace(context, work=context.work / "replies")
    parts = build_missing(ASK, asking, row_shards(requests, None, REQUESTS_PER_PART))
    counts: Counter[str] = Counter()
    for part in parts:
        counts.update(shard_counts(part))
    dropped = repeated(context, [part for part in parts if shard_rows(part)])
    counts.update(f"dropped.{reason}" for reason in dropped.values())
    left = sum(map(shard_rows, parts)) - len(dropped)
    if not left:
        raise UserError(
            f"refine: none of {requests} requests is left (dropped: {dropped_in(counts)}); raise refine.attempts or "
            f"refine.near_duplicate_threshold, or use a better teacher{unread_in(asking.work, 'nothing was')}"
        )
    pieces = [parts[start : start + PARTS_PER_SHARD] for start in range(0, len(parts), PARTS_PER_SHARD)]
    gone = sorted(dropped)
    return [
        Shard(index, ([str(part) for part in piece], gone, {} if index else dict(counts)))
        for index, piece in enumerate(pieces)
    ]


def repeated(context: RefineContext, parts: Sequence[Path]) -> dict[str, str]:
    """Find the queries that repeat an earlier one or a benchmark's.

    Material is not compared: two requests with the same text are the same request.

    Returns:
        By `request_id`, why it is dropped.
    """
    settings = context.config.refine
    if not parts:
        return {}
    rows = pl.concat([pl.read_parquet(part, columns=["request_id", "refined"], glob=False) for part in parts])
    ids, texts = rows["request_id"].to_list(), rows["refined"].to_list()
    known = list(benchmark_queries(settings.benchmarks))
    found: dict[str, str] = {}
    seen = set(known)
    for identity, text in zip(ids, texts, strict=True):
        if text in seen:
            found[identity] = BENCHMARK if text in known else SAME
        seen.add(text)
    if settings.near_duplicate_threshold is None:
        return found
    signatures = signatures_of([*known, *texts])
    alike = near_duplicates(signatures, settings.near_duplicate_threshold, fixed=len(known))[len(known) :]
    for row in np.flatnonzero(alike).tolist():
        first = (
            known
            and near_duplicates(
                np.vstack([signatures[: len(known)], signatures[len(known) + row][None]]),
                settings.near_duplicate_threshold,
                fixed=len(known),
            )[-1]
        )
        found.setdefault(ids[row], BENCHMARK if first else NEAR)
    return found


def benchmark_queries(names: Sequence[str]) -> Iterator[str]:
    """Yield the queries of benchmarks' files, and of those with several paragraphs the first: the rest is material."""
    for name in names:
        for frame in read_columns(_benchmark(name), ["query"], f"refine.benchmarks: {name}"):
            for query in frame["query"].drop_nulls().to_list():
                first, rest = query.strip().partition("\n")[::2]
                yield from (first.strip(), query.strip()) if rest else (first,)


def build(context: RefineContext, shard: Shard) -> ShardResult:
    """Put the rows of a shard's parts together, without those that are left out."""
    parts, gone, counts = shard.spec
    rows = pl.concat([pl.read_parquet(part, glob=False) for part in parts])
    return ShardResult(rows.filter(~pl.col("request_id").is_in(gone)), counts)


@dataclass
class Draft:
    """One request on its way to a query.

    Attributes:
        row: the request's row.
        requirements: what was drawn for it.
        refined: its refinement.
        listing: what material it needs; None where nobody asks.
        material: the material; None where none is written.
    """

    row: dict[str, str]
    requirements: list[str]
    refined: Question[str]
    listing: Question[list[str]] | None = None
    material: Question[str] | None = None

    @property
    def materials(self) -> list[str]:
        """What material it needs."""
        return [] if self.listing is None else self.listing.answer or []

    @property
    def fault(self) -> str | None:
        """Why it is dropped; None where it is whole."""
        asked = (self.refined, self.listing, self.material)
        return next((question.fault for question in asked if question is not None and question.fault), None)


def ask_teacher(context: RefineContext, part: Shard) -> Asking:
    """Ask the teacher about one part's requests: to refine them, for the list of material, and for the material."""
    settings, parent = context.config.refine, context.inputs["request"]
    requests = parent.scan().select(c.name for c in REQUEST_COLUMNS).slice(*part.spec).collect()
    check_frame(requests, REQUEST_COLUMNS, str(parent))
    counts: Counter[str] = Counter(read=requests.height)
    drafts = [drafted(row, context.config) for row in requests.iter_rows(named=True)]
    yield from ask(context, "refine", "teacher", [d.refined for d in drafts], settings, read_refined, counts)
    if settings.material != "none":
        for draft in drafts:
            draft.listing = _about(draft, "materials") if draft.fault is None else None
        listings = [draft.listing for draft in drafts if draft.listing is not None]
        yield from ask(context, "materials", "teacher", listings, settings, read_materials, counts)
    if settings.material == "write":
        for draft in drafts:
            draft.material = _about(draft, "material", materials=draft.materials) if draft.materials else None
        written = [draft.material for draft in drafts if draft.material is not None]
        longer = settings.model_copy(update={"max_new_tokens": settings.max_material_tokens})
        yield from ask(context, "material", "teacher", written, longer, read_material, counts)
    keep_unanswered(context, part.index, [d.refined for d in drafts])
    refiner = str(context.models["teacher"].record)
    rows = []
    for draft in drafts:
        row = _row(draft, refiner) if draft.fault is None else None
        fault = OVER_LONG if row is not None and len(str(row["query"])) > settings.max_query_chars else draft.fault
        if fault is not None:
            counts[f"dropped.{fault}"] += 1
        elif row is not None:
            rows.append(row)
    return ShardResult(frame_of(rows, QUERIES_COLUMNS), dict(+counts))


ASK = Step("refine: replies", QUERIES_COLUMNS, Asks("teacher", ask_teacher))
"""Asks the teacher; its files hold the queries of `REQUESTS_PER_PART` requests each, and what was dropped of them."""


def drafted(row: dict[str, str], config: WritingBenchSettings) -> Draft:
    """Draw the requirements of a request and write the prompt that refines it."""
    draw = derive_seed(config.random_seed, "requirements", row["request_id"])
    requirements = drawn(draw, config.refine.most_requirements)
    wishes = [in_language(guidance()[name], row["language"]) for name in requirements]
    kind = {name: row[name] for name in ("domain", "subdomain", "request")}
    messages = ask_for(PROMPTS, "refine", row["language"], row["request"], guidance=wishes, **kind)
    return Draft(row, requirements, Question(row["request_id"], messages))


def drawn(draw: int, most: int) -> list[str]:
    """Draw requirements, from 1 to `most` of them, in the order of the pool.

    Every number is as likely as any other, and so is every requirement, but that of length and brevity at most one is
    kept, where both were drawn.
    """
    numbers = random.Random(draw)
    found = numbers.sample(REQUIREMENTS, numbers.randint(1, most))
    if set(found) >= TOGETHER_NEVER:
        found.remove(numbers.choice(sorted(TOGETHER_NEVER)))
    return [name for name in REQUIREMENTS if name in found]


def _about(draft: Draft, kind: str, **values: Any) -> Question[Any]:
    """Return the question about a refined request's material."""
    request = draft.refined.answer or ""
    texts = (request, *values.get("materials", ()))
    return Question(
        draft.row["request_id"], ask_for(PROMPTS, kind, draft.row["language"], *texts, request=request, **values)
    )


def read_refined(question: Question[str], reply: str) -> str | Unread:
    """Read the refined request: the text under `query` of the reply's object."""
    found = [value["query"] for value in json_values(reply) if isinstance(value, dict) and "query" in value]
    if len(found) != 1 or not isinstance(found[0], str) or not found[0].strip():
        return Unread(NO_QUERY)
    return found[0].strip()


def read_materials(question: Question[list[str]], reply: str) -> list[str] | Unread:
    """Read the list of material, which may be empty."""
    if [] in json_values(reply):
        return []
    shown = read_queries(question.messages[-1]["content"]).queries
    found = [text.strip() for text in read_queries(reply, shown).queries if text.strip()]
    return found[:MOST_MATERIALS] or Unread(NO_LIST)


def read_material(question: Question[str], reply: str) -> str | Unread:
    """Take the material as it is; one that was cut ends in mid-sentence and does not do."""
    cut = question.reply is not None and question.reply.finish_reason == "length"
    return Unread(CUT) if cut else reply.strip() or Unread(BLANK)


def _row(draft: Draft, refiner: str) -> dict[str, object]:
    """Return the row of a draft that is whole."""
    row, refined = draft.row, draft.refined.answer or ""
    material = None if draft.material is None else draft.material.answer
    query = join_material(refined, material, row["language"])
    return {
        "query_id": query_id(query),
        "query": query,
        **{name: row[name] for name in ("domain", "subdomain", "language", "request_id", "request")},
        "refined": refined,
        "requirements": draft.requirements,
        "materials": draft.materials,
        "material": material,
        "refiner": refiner,
    }
