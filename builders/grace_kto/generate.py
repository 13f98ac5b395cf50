"""Stage `generate`: the current policy writes new queries after five drawn seeds of one language (§3.2).

Two passes. First the policy is asked in parts of `PROMPTS_AT_ONCE` prompts (`parts.py`): a part's file holds the
queries that its replies could be read for (parsed, never evaluated), and what was dropped: blank and over-long ones,
and those that `sample` would have no room to answer; parts do not look at one another. Then one pass over all parts, in
the order of the prompts, drops what was there before (`candidates.py`). Where fewer than K are left, a further wave of
prompts goes out, until the attempts are spent. A prompt's random draws depend on its number alone, so the rows do not
depend on the order in which parts are made, nor on what makes them. One row::

    {"query_id": "03ad…", "query": "Please write a report titled …", "language": "en", "round": 1,
     "example_ids": ["4be0…", …], "generator": "local/tiny-sft@77d0…"}
"""

import functools
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from builders.core.draws import derive_seed, query_id
from builders.core.languages import contradicts
from builders.core.prompting import chat
from builders.core.query_parser import Parsed, list_pattern, read_queries, shown_by
from builders.core.replies import begins_in_block, require_unopened
from builders.core.stage import Asking, Asks, At, Context, Shard, ShardResult, Step, row_shards
from builders.core.unread import keep_unread, unread_in
from builders.core.work import build_missing
from builders.engines import Batch, SamplingSettings
from builders.engines.prompts import fits_window
from builders.grace_kto import sample
from builders.grace_kto.candidates import Candidates
from builders.grace_kto.columns import QUERIES_COLUMNS
from builders.grace_kto.languages import pick_examples, prompt_name, rows_by_language
from builders.grace_kto.messages import ask_for_queries, prompt_text, system_prompts
from builders.grace_kto.parts import PARTS_COLUMNS, parts_folder, plan_parts
from builders.grace_kto.settings import GraceKTOSettings
from builders.store.columns import frame_of
from builders.store.ref import round_tag
from builders.store.revision import Revision
from scorers.errors import UserError
from scorers.extraction import cut_thinking

GenerateContext = Context[GraceKTOSettings]

QUERIES_PER_SHARD = 32
OVER_WINDOW = "prompt over the context window"
SHORTEST = ("?", "写")  # queries: one for each language that has a system prompt
SPARE = 1.1  # a further wave asks for a tenth more than should suffice, so that it is the last


def plan(context: GenerateContext) -> list[Shard]:
    """Ask the policy until K queries are left, and plan shards of `shard_queries` of them.

    A shard's spec is a list of (file of a part, rows of it) and the counts that it stands for; the first shard has them
    all.

    Raises:
        UserError: where the attempts are spent before; the message counts what was dropped and quotes a reply that no
            query could be read from.
    """
    settings = context.config.generate
    # -(-a // b) rounds a / b up: the fewest prompts that could do.
    wave = -(-settings.queries // settings.per_prompt)
    budget = settings.max_attempts * wave
    found = Candidates(context.inputs.values(), settings.near_duplicate_threshold)
    asking = parts_of(context)
    asked = 0
    while found.kept.height < settings.queries and asked < budget:
        numbers = range(asked, min(asked + wave, budget))
        found.add(build_missing(ASK, asking, plan_parts(asking.work, numbers)), numbers)
        asked = numbers.stop
        if found.counts[f"dropped.{OVER_WINDOW}"] == asked:
            break  # further prompts are as long
        wave = further(settings.queries - found.kept.height, found.kept.height, asked)
    if found.kept.height < settings.queries:
        message = exhausted(found.kept.height, settings.queries, found.counts) + unread_in(asking.work, "no query was")
        raise UserError(message) if nothing_was_asked(found.counts) else TooFewQueries(message)
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


def parts_of(context: GenerateContext) -> GenerateContext:
    """Return the context in which parts are made: their files have a folder of their own."""
    return replace(context, work=parts_folder(context, prompts(context.config, context.inputs)))


def scratch(context: GenerateContext) -> list[Path]:
    """Return the folder of the parts, which nothing needs once the queries are in the store."""
    return [parts_of(context).work]


def earlier_rounds(config: GraceKTOSettings, round_: int) -> dict[str, At]:
    """Return the queries datasets of all earlier rounds as parents: none of their queries may come again."""
    return {f"queries {round_tag(earlier)}": At("generate", earlier) for earlier in range(1, round_)}


def prompts(config: GraceKTOSettings, inputs: Mapping[str, Revision]) -> dict[str, str]:
    """Return the prompts that decide the queries, by name.

    Those that ask for queries are the one that is set, or those of the seeds' languages; the system prompts under which
    the queries will be answered decide which of them leave room for a response.
    """
    languages = inputs["seed"].scan().select(pl.col("language").unique()).collect()["language"]
    names = {prompt_name(config.generate.prompt, language) for language in languages}
    return {name: prompt_text(name) for name in sorted(names)} | system_prompts(config, None)


def build(context: GenerateContext, shard: Shard) -> ShardResult:
    """Collect a shard's queries from the parts that hold them."""
    places, counts = shard.spec
    names = [column.name for column in QUERIES_COLUMNS]
    return ShardResult(pl.concat(pl.read_parquet(file, columns=names)[rows] for file, rows in places), counts)


@dataclass(frozen=True)
class Prompt:
    """One prompt that asks for queries.

    Attributes:
        number: its number in the round, from 0.
        draw: seeds the choice of examples and the sampling of the reply.
        text: what the policy is asked.
        example_ids: ids of the seeds that it shows; with none, since none fits the context window, it is not asked.
        language: their language.
        shown: what the prompt shows and a reply may repeat, which is no new query.
        counts: what is dropped and left out on its account.
    """

    number: int
    draw: int
    text: str
    example_ids: list[str]
    language: str
    shown: Sequence[str]
    counts: Counter[str]


def ask(context: GenerateContext, part: Shard) -> Asking:
    """Send one part's prompts to the policy and read its replies.

    Raises:
        UserError: where `sample` would have no room to answer any query.
    """
    config, engine = context.config, context.engine("policy")
    if not any(sample.fits(engine, query, config) for query in SHORTEST):
        raise sample.nothing_fits(engine, config, "query generation: no query, however short,")
    settings = config.generate
    drawn = prompts_of(context, part)
    asked = [prompt for prompt in drawn if prompt.example_ids]
    tags, template_kwargs = config.sample.thinking_tags, config.engines.policy.chat_template_kwargs
    opened = begins_in_block(engine, [chat(p.text) for p in asked[:1]], tags, template_kwargs)
    if settings.guided:
        require_unopened("generate", "policy", opened=opened)
    sampling = SamplingSettings(
        settings.max_new_tokens,
        settings.temperature,
        settings.top_p,
        settings.top_k,
        settings.presence_penalty,
        pattern=list_pattern(settings.per_prompt) if settings.guided else None,
    )
    completions = (yield Batch([chat(p.text) for p in asked], [p.draw for p in asked], sampling)) if asked else []
    queries: dict[int, list[str]] = {}  # by the prompt's number
    unread: list[tuple[str, str, str]] = []
    for prompt, completion in zip(asked, completions, strict=True):
        read = read_reply(completion.text, prompt.shown, tags, opened)
        if not any(read):
            unread.append((prompt.text, completion.text, completion.finish_reason))
        found = usable(read, settings.max_query_chars, prompt.language, prompt.counts)
        queries[prompt.number] = [query for query in found if sample.fits(engine, query, config)]
        prompt.counts[f"dropped.{sample.OVER_WINDOW}"] += len(found) - len(queries[prompt.number])
    common = {"round": context.round, "generator": str(context.models["policy"].record)}
    rows = [row | common for prompt in drawn for row in findings(prompt, queries.get(prompt.number, []))]
    keep_unread(context.work, part.index, unread)
    return ShardResult(frame_of(rows, PARTS_COLUMNS), {"read": len(drawn)})


ASK = Step("generate: replies", PARTS_COLUMNS, Asks("policy", ask))
"""Asks the policy; its files hold the queries of `PROMPTS_AT_ONCE` prompts each, and what was dropped."""


def findings(prompt: Prompt, queries: Sequence[str]) -> Iterator[dict[str, object]]:
    """Yield a prompt's rows of a part, without round and generator: its queries, and a row for everything counted."""
    for query in queries:
        yield {
            "prompt": prompt.number,
            "counted": None,
            "query_id": query_id(query),
            "query": query,
            "language": prompt.language,
            "example_ids": prompt.example_ids,
        }
    nothing = {"query_id": "", "query": "", "language": prompt.language, "example_ids": []}
    for reason in prompt.counts.elements():
        yield {"prompt": prompt.number, "counted": reason, **nothing}


def prompts_of(context: GenerateContext, part: Shard) -> list[Prompt]:
    """Return one part's prompts; each one's number in the round decides its examples and its reply.

    Args:
        context: configuration, round, seeds and the policy's engine.
        part: its spec is (first prompt, number of prompts).
    """
    config = context.config
    revision = context.inputs["seed"]
    seeds, by_language = read_seeds(tuple(revision.data_files()), revision.revision)
    first, size = part.spec
    draws = {n: derive_seed(config.random_seed, context.round, "generate", n) for n in range(first, first + size)}
    picked = [pick_examples(by_language, draw, config.generate.examples) for draw in draws.values()]
    # The examples (query, id) of all prompts, one after the other.
    shown = seeds[[row for _, rows in picked for row in rows]].select("query", "query_id").iter_rows()
    return [
        fitting_prompt(context, number, draw, language, list(itertools.islice(shown, len(rows))))
        for (number, draw), (language, rows) in zip(draws.items(), picked, strict=True)
    ]


def fitting_prompt(
    context: GenerateContext, number: int, draw: int, language: str, examples: list[tuple[str, str]]
) -> Prompt:
    """Return a prompt with as many of its examples as the context window has room for; what is left out is counted.

    Args:
        context: configuration and the policy's engine.
        number: the prompt's number.
        draw: its seed.
        language: language of the examples.
        examples: (query, id); the longest ones are left out first.
    """
    settings, engine = context.config.generate, context.engine("policy")
    template_kwargs = context.config.engines.policy.chat_template_kwargs
    name = prompt_name(settings.prompt, language)
    counts: Counter[str] = Counter()
    while examples:
        queries = [query for query, _ in examples]
        text = ask_for_queries(queries, settings.per_prompt, prompt=name)
        if fits_window(engine, chat(text), settings.max_new_tokens, template_kwargs):
            ids = [identity for _, identity in examples]
            return Prompt(number, draw, text, ids, language, (*queries, *own_list(name)), counts)
        examples.remove(max(examples, key=lambda example: len(example[0])))
        counts["examples left out"] += 1
    counts[f"dropped.{OVER_WINDOW}"] += 1
    return Prompt(number, draw, "", [], language, (), counts)


@functools.cache
def own_list(name: str) -> list[str]:
    """Return the strings of the list that a prompt file shows as the form of a reply."""
    return shown_by(prompt_text(name), ())


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


class TooFewQueries(UserError):
    """The policy has replied, and its replies hold too few queries that can be used."""


def nothing_was_asked(counts: Mapping[str, int]) -> bool:
    """Whether no prompt fitted the policy's context window."""
    return counts.get(f"dropped.{OVER_WINDOW}", 0) == counts["read"]


def exhausted(got: int, wanted: int, counts: Mapping[str, int]) -> str:
    """Return the message for a round whose attempts are spent."""
    reasons = {key.removeprefix("dropped."): n for key, n in sorted(counts.items()) if key.startswith("dropped.") and n}
    dropped = ", ".join(f"{n} {reason}" for reason, n in reasons.items())
    if nothing_was_asked(counts):
        return (
            f"query generation: no prompt fits the policy's context window, not even with one example and "
            f"generate.max_new_tokens for the reply ({counts['read']} were tried); lower generate.max_new_tokens or "
            "seed.max_query_chars, or use a policy with a larger window"
        )
    alike = "generate.near_duplicate_threshold or " if "near-duplicate" in reasons else ""
    lower = "lower sample.max_new_tokens, " if sample.OVER_WINDOW in reasons else ""
    return (
        f"query generation: {got} of {wanted} queries after {counts['read']} prompts (dropped: {dropped or 'none'}); "
        f"raise {alike}generate.max_attempts or generate.max_new_tokens, {lower}or look at the policy's replies"
    )
