"""Stage `generate`: the current policy writes new queries after five drawn seeds of one language (§3.2).

Two passes. First the policy is asked in parts of `PROMPTS_AT_ONCE` prompts: a part's file holds the queries that its
replies could be read for (parsed, never evaluated), without the blank and over-long ones; parts do not look at one
another. Then one pass over all parts, in the order of the prompts, drops what was there before (`candidates.py`). Where
fewer than K are left, a further wave of prompts goes out, until the attempts are spent. A prompt's random draws depend
on its number alone, so the rows do not depend on the order in which parts are made, nor on what makes them. One row::

    {"query_id": "03ad…", "query": "Please write a report titled …", "language": "en", "round": 1,
     "example_ids": ["4be0…", …], "generator": "local/tiny-sft@77d0…"}
"""

import functools
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from builders.core.draws import derive_seed, query_id
from builders.core.prompting import chat
from builders.core.stage import At, Context, Shard, ShardResult, Step, row_shards
from builders.core.work import build_missing
from builders.engines import SamplingSettings
from builders.engines.prompts import encode_prompts
from builders.grace_kto.candidates import Candidates
from builders.grace_kto.columns import QUERIES_COLUMNS
from builders.grace_kto.languages import contradicts, pick_examples, prompt_name, rows_by_language
from builders.grace_kto.messages import ask_for_queries, prompt_text
from builders.grace_kto.query_parser import Parsed, read_queries, shown_by
from builders.grace_kto.sample import begins_in_block
from builders.grace_kto.settings import GraceKTOSettings
from builders.grace_kto.unread import keep_unread, unread_in
from builders.store.columns import frame_of
from builders.store.store import Revision, round_tag
from scorers.errors import UserError
from scorers.extraction import cut_thinking

GenerateContext = Context[GraceKTOSettings]

PROMPTS_AT_ONCE = 512  # that the engine is handed together: a large engine's slots stay full; also the unit of resume
QUERIES_PER_SHARD = 32
TEMPLATE_TOKENS = 1024  # more than a chat template puts around a prompt
NO_LIMIT = 2**62  # tokens
OVER_WINDOW = "prompt over the context window"
SPARE = 1.1  # a further wave asks for a tenth more than should suffice, so that it is the last


def plan(context: GenerateContext) -> list[Shard]:
    """Ask the policy until K queries are left, and plan shards of `shard_queries` of them.

    A shard's spec is a list of (part, rows of it) and the counts that it stands for; the first shard has them all.

    Raises:
        UserError: where the attempts are spent before; the message counts what was dropped and quotes a reply that no
            query could be read from.
    """
    settings = context.config.generate
    # -(-a // b) rounds a / b up: the fewest prompts that could do.
    wave = -(-settings.queries // settings.per_prompt)
    budget = settings.max_attempts * wave
    found = Candidates(context.inputs.values(), settings.near_duplicate_threshold)
    asked = parts = 0
    while found.kept.height < settings.queries and asked < budget:
        wave = min(wave, budget - asked)
        shards = _parts(asked, wave, parts)
        found.add(build_missing(ASK, parts_of(context), shards))
        asked, parts = asked + wave, parts + len(shards)
        if found.counts[f"dropped.{OVER_WINDOW}"] == asked:
            break  # further prompts are as long
        wave = further(settings.queries - found.kept.height, found.kept.height, asked)
    if found.kept.height < settings.queries:
        message = exhausted(found.kept.height, settings.queries, found.counts)
        raise UserError(message + unread_in(parts_of(context).work))
    # The last wave may bring more than is missing.
    found.counts["dropped.surplus"] += found.kept.height - settings.queries
    counts = {reason: n for reason, n in found.counts.items() if n}
    pieces = row_shards(settings.queries, settings.shard_queries, QUERIES_PER_SHARD)
    return [replace(s, spec=(found.places(*s.spec), {} if s.index else counts)) for s in pieces]


def further(missing: int, got: int, asked: int) -> int:
    """Return how many prompts the next wave has, by what the prompts so far have yielded.

    Args:
        missing: queries that are still needed.
        got: queries kept so far; with none, the number of prompts is doubled.
        asked: prompts sent so far.
    """
    return max(1, round(SPARE * missing * asked / got)) if got else asked


def _parts(first: int, prompts: int, index: int) -> list[Shard]:
    """Plan the parts of a wave, from its first prompt and its first part; a part's spec is (first prompt, prompts)."""
    found = row_shards(prompts, PROMPTS_AT_ONCE, PROMPTS_AT_ONCE)
    return [Shard(index + part.index, (first + part.spec[0], part.spec[1])) for part in found]


def parts_of(context: GenerateContext) -> GenerateContext:
    """Return the context in which parts are made: their files have a folder of their own."""
    return replace(context, work=context.work / "parts")


def earlier_rounds(config: GraceKTOSettings, round_: int) -> dict[str, At]:
    """Return the queries datasets of all earlier rounds as parents: none of their queries may come again."""
    return {f"queries {round_tag(earlier)}": At("generate", earlier) for earlier in range(1, round_)}


def prompts(config: GraceKTOSettings, inputs: Mapping[str, Revision]) -> dict[str, str]:
    """Return the prompts that ask for queries, by name: the one that is set, or those of the seeds' languages."""
    languages = inputs["seed"].scan().select(pl.col("language").unique()).collect()["language"]
    names = {prompt_name(config.generate.prompt, language) for language in languages}
    return {name: prompt_text(name) for name in sorted(names)}


def build(context: GenerateContext, shard: Shard) -> ShardResult:
    """Collect a shard's queries from the parts that hold them."""
    places, counts = shard.spec
    files = {part: parts_of(context).work / f"shard-{part:05d}.parquet" for part, _ in places}
    frame = pl.concat(pl.read_parquet(files[part])[rows] for part, rows in places)
    return ShardResult(frame, counts)


@dataclass(frozen=True)
class Prompt:
    """One prompt that asks for queries.

    Attributes:
        draw: seeds the choice of examples and the sampling of the reply.
        text: what the policy is asked.
        example_ids: ids of the seeds that it shows.
        language: their language.
        shown: what the prompt shows and a reply may repeat, which is no new query.
    """

    draw: int
    text: str
    example_ids: list[str]
    language: str
    shown: Sequence[str]


def ask(context: GenerateContext, part: Shard) -> ShardResult:
    """Send one part's prompts to the policy, all at once, and read its replies."""
    settings = context.config.generate
    counts: Counter[str] = Counter(read=part.spec[1])
    asked = prompts_of(context, part, counts)
    sampling = SamplingSettings(
        max_new_tokens=settings.max_new_tokens, temperature=settings.temperature, top_p=settings.top_p
    )
    engine = context.engine("policy")
    completions = engine.generate([chat(p.text) for p in asked], [p.draw for p in asked], sampling) if asked else []
    generator = str(context.models["policy"].record)
    rows: list[dict[str, object]] = []
    unread: list[tuple[str, str, str]] = []
    tags = context.config.sample.thinking_tags
    opened = begins_in_block(engine, [chat(p.text) for p in asked[:1]], context.config)
    for prompt, completion in zip(asked, completions, strict=True):
        read = read_reply(completion.text, prompt.shown, tags, opened)
        if not any(read):
            unread.append((prompt.text, completion.text, completion.finish_reason))
        for query in usable(read, settings.max_query_chars, prompt.language, counts):
            rows.append(
                {
                    "query_id": query_id(query),
                    "query": query,
                    "language": prompt.language,
                    "round": context.round,
                    "example_ids": prompt.example_ids,
                    "generator": generator,
                }
            )
    keep_unread(context.work, part.index, unread)
    return ShardResult(frame_of(rows, QUERIES_COLUMNS), dict(counts))


ASK = Step("generate: replies", QUERIES_COLUMNS, ask)
"""Asks the policy; its files hold the queries of `PROMPTS_AT_ONCE` prompts each."""


def prompts_of(context: GenerateContext, part: Shard, counts: Counter[str]) -> list[Prompt]:
    """Return one part's prompts; each one's number in the round decides its examples and its reply.

    Args:
        context: configuration, round, seeds and the policy's engine.
        part: its first prompt and its number of prompts.
        counts: examples that are left out because a prompt would not fit the policy's context window are counted here,
            and prompts that no example fits.
    """
    config = context.config
    revision = context.inputs["seed"]
    seeds, by_language = read_seeds(tuple(revision.data_files()), revision.revision)
    first, size = part.spec
    draws = [
        derive_seed(config.random_seed, context.round, "generate", number) for number in range(first, first + size)
    ]
    picked = [pick_examples(by_language, draw, config.generate.examples) for draw in draws]
    # The examples (query, id) of all prompts, one after the other.
    shown = seeds[[row for _, rows in picked for row in rows]].select("query", "query_id").iter_rows()
    found = []
    for draw, (language, rows) in zip(draws, picked, strict=True):
        prompt = fitting_prompt(context, draw, language, list(itertools.islice(shown, len(rows))), counts)
        if prompt is not None:
            found.append(prompt)
    return found


def fitting_prompt(
    context: GenerateContext, draw: int, language: str, examples: list[tuple[str, str]], counts: Counter[str]
) -> Prompt | None:
    """Return a prompt with as many of its examples as the context window has room for; None where it has for none.

    Args:
        context: configuration and the policy's engine.
        draw: seed of the prompt.
        language: language of the examples.
        examples: (query, id); the longest ones are left out first.
        counts: what is left out is counted here.
    """
    settings = context.config.generate
    name = prompt_name(settings.prompt, language)
    while examples:
        queries = [query for query, _ in examples]
        text = ask_for_queries(queries, settings.per_prompt, prompt=name)
        if fits(context, text):
            return Prompt(draw, text, [identity for _, identity in examples], language, (*queries, *own_list(name)))
        examples.remove(max(examples, key=lambda example: len(example[0])))
        counts["examples left out"] += 1
    counts[f"dropped.{OVER_WINDOW}"] += 1
    return None


@functools.cache
def own_list(name: str) -> list[str]:
    """Return the strings of the list that a prompt file shows as the form of a reply."""
    return shown_by(prompt_text(name), ())


def fits(context: GenerateContext, text: str) -> bool:
    """Whether a prompt and its reply fit the policy's context window; an engine without a tokenizer is not asked."""
    engine, settings = context.engine("policy"), context.config.generate
    room = engine.context_window - settings.max_new_tokens
    # No token is shorter than a byte, so most prompts need not be encoded here.
    if engine.tokenizer is None or len(text.encode()) + TEMPLATE_TOKENS <= room:
        return True
    template_kwargs = context.config.engines.policy.chat_template_kwargs
    return len(encode_prompts(engine.tokenizer, [chat(text)], [0], 0, NO_LIMIT, template_kwargs)[0]) <= room


# Every part draws from all seeds; a revision never changes, so it is read once.
@functools.lru_cache(maxsize=1)
def read_seeds(files: Sequence[Path], revision: str) -> tuple[pl.DataFrame, dict[str, list[int]]]:
    """Read the ids and texts of the seeds of a revision, and which of its rows are in which language."""
    seeds = pl.read_parquet(list(files), columns=["query_id", "query", "language"], glob=False)
    return seeds.select("query_id", "query"), rows_by_language(seeds["language"].to_list())


def read_reply(reply: str, shown: Sequence[str], tags: tuple[str, str] | None, opened: bool) -> Parsed:
    """Read the lists of a reply, after a thinking block where there is one.

    Args:
        reply: the policy's text.
        shown: what its prompt shows.
        tags: the tags of a thinking block; None: there is none.
        opened: whether the reply begins inside a block.
    """
    answer = reply if tags is None else cut_thinking(reply, tags, opened=opened)[0]
    return read_queries(answer, shown)


def usable(read: Parsed, max_chars: int, language: str, counts: Counter[str]) -> list[str]:
    """Return a reply's queries without the blank and over-long ones, and those in another language than the seeds.

    Args:
        read: what was read of the reply.
        max_chars: longer queries are dropped.
        language: language code of the seeds shown.
        counts: what is dropped is counted here by reason.
    """
    if not any(read):
        counts["dropped.reply without a list"] += 1
    stripped = [query.strip() for query in read.queries]
    fitting = [query for query in stripped if 0 < len(query) <= max_chars]
    kept = [query for query in fitting if not contradicts(query, language)]
    blank = stripped.count("")
    counts["dropped.blank"] += blank
    counts["dropped.over-long"] += len(stripped) - blank - len(fitting)
    counts["dropped.other language"] += len(fitting) - len(kept)
    counts["dropped.unreadable"] += read.unreadable
    counts["dropped.shown in the prompt"] += read.repeated
    return kept


def exhausted(got: int, wanted: int, counts: Mapping[str, int]) -> str:
    """Return the message for a round whose attempts are spent."""
    reasons = {key.removeprefix("dropped."): n for key, n in sorted(counts.items()) if key.startswith("dropped.") and n}
    dropped = ", ".join(f"{n} {reason}" for reason, n in reasons.items())
    if reasons.get(OVER_WINDOW) == counts["read"]:
        return (
            f"query generation: no prompt fits the policy's context window, not even with one example and "
            f"generate.max_new_tokens for the reply ({counts['read']} were tried); lower generate.max_new_tokens or "
            "seed.max_query_chars, or use a policy with a larger window"
        )
    alike = "generate.near_duplicate_threshold or " if "near-duplicate" in reasons else ""
    return (
        f"query generation: {got} of {wanted} queries after {counts['read']} prompts (dropped: {dropped or 'none'}); "
        f"raise {alike}generate.max_attempts or generate.max_new_tokens, or look at the policy's replies"
    )
