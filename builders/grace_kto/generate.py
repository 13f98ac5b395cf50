"""Stage `generate`: the current policy writes new queries after five uniformly drawn seeds (§3.2).

Replies are parsed, never evaluated. Blank, over-long and duplicate queries are dropped and counted by reason; prompting
goes on until the shard is full or the attempts are spent. One row::

    {"query_id": "03ad…", "query": "Please write a report titled …", "language": "en", "round": 1,
     "example_ids": ["4be0…", …], "generator": "local/tiny-sft@77d0…"}
"""

import random
from collections import Counter
from collections.abc import Mapping

import polars as pl

from builders.core.draws import derive_seed, query_id
from builders.core.prompting import chat
from builders.core.stage import At, Context, Shard, ShardResult
from builders.engines import Message, SamplingSettings
from builders.grace_kto.columns import QUERIES_COLUMNS
from builders.grace_kto.messages import ask_for_queries, prompt_text
from builders.grace_kto.query_parser import parse_queries
from builders.grace_kto.settings import GraceKTOSettings
from builders.store.columns import frame_of
from builders.store.store import Revision, round_tag
from scorers.errors import UserError

GenerateContext = Context[GraceKTOSettings]


def plan(context: GenerateContext) -> list[Shard]:
    """Plan shards of `shard_queries` queries, K queries in all; a shard's spec is its number of queries."""
    settings = context.config.generate
    starts = range(0, settings.queries, settings.shard_queries)
    return [Shard(i, min(settings.shard_queries, settings.queries - start)) for i, start in enumerate(starts)]


def earlier_rounds(config: GraceKTOSettings, round_: int) -> dict[str, At]:
    """Return the queries datasets of all earlier rounds as parents: none of their queries may come again."""
    return {f"queries {round_tag(earlier)}": At("generate", earlier) for earlier in range(1, round_)}


def prompts(config: GraceKTOSettings, inputs: Mapping[str, Revision]) -> dict[str, str]:
    """Return the prompt that asks for queries, by name."""
    return {config.generate.prompt: prompt_text(config.generate.prompt)}


def build(context: GenerateContext, shard: Shard) -> ShardResult:
    """Prompt the policy until the shard has its queries.

    Raises:
        UserError: where the attempts are spent before; the message counts what was dropped.
    """
    settings = context.config.generate
    wanted: int = shard.spec
    seeds = context.inputs["seed"].scan().select("query_id", "query", "language").collect()
    known = known_ids(context)
    rows: list[dict[str, object]] = []
    counts: Counter[str] = Counter()
    # -(-a // b) rounds a / b up: the fewest prompts that could do, max_attempts times.
    budget = settings.max_attempts * -(-wanted // settings.per_prompt)
    while len(rows) < wanted and counts["read"] < budget:
        # As many prompts at once as could suffice if every reply were good.
        missing = -(-(wanted - len(rows)) // settings.per_prompt)
        attempts = range(counts["read"], min(counts["read"] + missing, budget))
        for examples, reply in ask(context, seeds, shard.index, attempts):
            counts["read"] += 1
            accept(reply, examples, known, rows, counts, context)
    if len(rows) < wanted:
        raise UserError(exhausted(len(rows), wanted, counts))
    # The last replies may bring more than is missing.
    counts["dropped.surplus"] += len(rows) - wanted
    return ShardResult(frame_of(rows[:wanted], QUERIES_COLUMNS), {k: v for k, v in counts.items() if v})


def known_ids(context: GenerateContext) -> set[str]:
    """Return the ids of the queries that must not come again.

    These are the seeds', those of earlier rounds and those of the finished shards, which is why the stage is
    sequential.
    """
    known: set[str] = set()
    for revision in context.inputs.values():
        known.update(revision.scan().select("query_id").collect()["query_id"])
    for path in context.finished_shards():
        known.update(pl.read_parquet(path, columns=["query_id"])["query_id"])
    return known


def ask(context: GenerateContext, seeds: pl.DataFrame, shard: int, attempts: range) -> list[tuple[pl.DataFrame, str]]:
    """Send one prompt per attempt.

    Args:
        context: configuration, round and the policy's engine.
        seeds: the seed dataset, from which the examples are drawn.
        shard: index of the shard.
        attempts: numbers of the prompts within the shard; each decides its prompt's random seed.

    Returns:
        Per attempt, the seed rows shown as examples and the policy's reply.
    """
    config = context.config
    settings = config.generate
    asked: list[list[Message]] = []
    shown: list[pl.DataFrame] = []
    draws = [derive_seed(config.random_seed, context.round, "generate", shard, attempt) for attempt in attempts]
    for draw in draws:
        # One number seeds both the choice of examples and the sampling of the reply.
        picked = random.Random(draw).sample(range(seeds.height), min(settings.examples, seeds.height))
        examples = seeds[picked]
        text = ask_for_queries(examples["query"].to_list(), settings.per_prompt, prompt=settings.prompt)
        asked.append(chat(text))
        shown.append(examples)
    sampling = SamplingSettings(
        max_new_tokens=settings.max_new_tokens, temperature=settings.temperature, top_p=settings.top_p
    )
    completions = context.engine("policy").generate(asked, draws, sampling)
    return [(examples, completion.text) for examples, completion in zip(shown, completions, strict=True)]


def accept(
    reply: str,
    examples: pl.DataFrame,
    known: set[str],
    rows: list[dict[str, object]],
    counts: Counter[str],
    context: GenerateContext,
) -> None:
    """Add a reply's usable queries to `rows` and `known`, and count the others in `counts` by reason.

    Args:
        reply: the policy's text.
        examples: the seed rows that were shown.
        known: ids of queries that must not come again.
        rows: the shard's rows so far.
        counts: prompts read and queries dropped so far.
        context: configuration, round and the policy's name.
    """
    queries = parse_queries(reply)
    if queries is None:
        counts["dropped.reply without a list"] += 1
        return
    for query in (text.strip() for text in queries):
        identity = query_id(query)
        if reason := fault_of(query, identity, known, context.config.generate.max_query_chars):
            counts[f"dropped.{reason}"] += 1
            continue
        known.add(identity)
        rows.append(
            {
                "query_id": identity,
                "query": query,
                # The language of most examples; of several, the alphabetically first.
                "language": examples["language"].mode().sort()[0],
                "round": context.round,
                "example_ids": examples["query_id"].to_list(),
                "generator": str(context.models["policy"].record),
            }
        )


def fault_of(query: str, identity: str, known: set[str], max_chars: int) -> str | None:
    """Return the reason for which a query is dropped; None for a usable one."""
    if not query:
        return "blank"
    if len(query) > max_chars:
        return "over-long"
    return "duplicate" if identity in known else None


def exhausted(got: int, wanted: int, counts: Counter[str]) -> str:
    """Return the message for a shard whose attempts are spent."""
    dropped = ", ".join(f"{n} {key.removeprefix('dropped.')}" for key, n in sorted(counts.items()) if key != "read")
    return (
        f"query generation: {got} of {wanted} queries after {counts['read']} prompts (dropped: {dropped or 'none'}); "
        "raise generate.max_attempts or generate.max_new_tokens, or look at the policy's replies"
    )
