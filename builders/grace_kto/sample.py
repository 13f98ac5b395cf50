"""Stage `sample`: m responses to each query by the current policy with top-p sampling, and their extraction (§3.3).

The responses to one query form a group and are neighbouring rows. One row::

    {"query_id": "03ad…", "query": "Please write …", "round": 1, "response_id": "03ad…-5", "response": "<summary>…",
     "summary": "…", "outline": "…", "document": "…", "matched": True, "finish_reason": "stop", "num_tokens": 96,
     "logprob": -101.3, "sample_seed": 8127…, "policy": "local/tiny-sft@77d0…"}

A thinking block before the answer is cut: `response` is what training later sees, `num_tokens` is what the policy
wrote, and `logprob`, which is that of block and answer together, is null. A block that never ends leaves the response
as it was sampled, unmatched, with its `logprob`. Both are counted.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import polars as pl

from builders.core.draws import derive_seed
from builders.core.prompting import chat
from builders.core.stage import Context, Shard, ShardResult, row_shards
from builders.engines import Engine, Message, SamplingSettings
from builders.engines.prompts import prompt_ends_with
from builders.grace_kto.columns import GROUPS_COLUMNS, QUERIES_COLUMNS
from builders.grace_kto.languages import system_for
from builders.grace_kto.messages import system_prompts
from builders.grace_kto.settings import GraceKTOSettings
from builders.store.columns import frame_of, require_columns
from builders.store.store import Revision
from scorers.extraction import Extraction, Thinking, cut_thinking, extract

SampleContext = Context[GraceKTOSettings]

QUERIES_PER_SHARD = 8
# Counts of the stage, by what was found of a thinking block; left out where there is none.
THOUGHTS: dict[str, Thinking] = {"thinking cut": "cut", "thinking without an end": "unclosed"}


def prompts(config: GraceKTOSettings, inputs: Mapping[str, Revision]) -> dict[str, str]:
    """Return the system prompts that ask for the tagged form, by name; empty for none."""
    return system_prompts(config, None)


def plan(context: SampleContext) -> list[Shard]:
    """Plan shards of `shard_queries` queries of the parent; a shard's spec is (first row, number of rows).

    Raises:
        UserError: for a parent without `query_id` and `query`.
    """
    parent = context.inputs["generate"]
    require_columns(parent.schema(), QUERIES_COLUMNS[:2], str(parent))
    rows = parent.scan().select(pl.len()).collect().item()
    return row_shards(rows, context.config.sample.shard_queries, QUERIES_PER_SHARD)


def build(context: SampleContext, shard: Shard) -> ShardResult:
    """Sample and extract the responses to one range of queries."""
    config = context.config
    settings = config.sample
    start, size = shard.spec
    queries = context.inputs["generate"].scan().slice(start, size).select("query_id", "query").collect()
    # m rows per query, side by side: (query_id, query, j).
    asked = [(*row, j) for row in queries.iter_rows() for j in range(settings.responses)]
    # A response's seed depends on its query and j alone, not on the shard it falls into.
    draws = [derive_seed(config.random_seed, context.round, identity, j) for identity, _, j in asked]
    engine = context.engine("policy")
    system = system_prompts(config, None)
    messages = [chat(query, system=system_for(query, system)) for _, query, _ in asked]
    completions = engine.generate(
        messages,
        draws,
        SamplingSettings(
            max_new_tokens=settings.max_new_tokens, temperature=settings.temperature, top_p=settings.top_p
        ),
    )
    opened = begins_in_block(engine, messages, config)
    policy = str(context.models["policy"].record)
    rows: list[dict[str, object]] = []
    thinking: Counter[Thinking] = Counter()
    for (identity, query, j), draw, completion in zip(asked, draws, completions, strict=True):
        response, parts, found = read_response(completion.text, settings.thinking_tags, opened=opened)
        thinking[found] += 1
        rows.append(
            {
                "query_id": identity,
                "query": query,
                "round": context.round,
                "response_id": f"{identity}-{j}",
                "response": response,
                "summary": parts and parts.summary,
                "outline": parts and parts.outline,
                "document": parts and parts.document,
                "matched": parts is not None,
                "finish_reason": completion.finish_reason,
                "num_tokens": completion.num_tokens,
                "logprob": None if found == "cut" else completion.logprob,
                "sample_seed": draw,
                "policy": policy,
            }
        )
    frame = frame_of(rows, GROUPS_COLUMNS)
    counts = sampling_counts(frame) | {name: thinking[found] for name, found in THOUGHTS.items() if thinking[found]}
    return ShardResult(frame, {"read": queries.height} | counts)


def begins_in_block(engine: Engine, messages: Sequence[Sequence[Message]], config: GraceKTOSettings) -> bool:
    """Whether the chat template opens a thinking block itself, so that every response begins inside it.

    Args:
        engine: the policy's engine; one without a tokenizer, as a server's, counts as opening none.
        messages: the prompts, of which the first stands for all.
        config: the tags, and the variables of the template.
    """
    tags = config.sample.thinking_tags
    if tags is None or engine.tokenizer is None or not messages:
        return False
    return prompt_ends_with(engine.tokenizer, messages[0], config.engines.policy.chat_template_kwargs, tags[0])


def read_response(
    text: str, tags: tuple[str, str] | None, *, opened: bool = False
) -> tuple[str, Extraction | None, Thinking]:
    """Take a thinking block off what the policy wrote and extract the parts of the tagged form.

    Args:
        text: what the policy wrote.
        tags: the tags of a thinking block; None leaves every text as it is.
        opened: whether the text begins inside a block.

    Returns:
        The response, its parts, None where it does not match, and what was found of a block. A text with a block that
        never ends is kept whole and does not match, whatever it drafts inside the block.
    """
    if tags is None:
        return text, extract(text), "none"
    answer, found = cut_thinking(text, tags, opened=opened)
    return (text, None, found) if found == "unclosed" else (answer, extract(answer), found)


def sampling_counts(frame: pl.DataFrame) -> dict[str, int]:
    """Count matched responses, responses cut at the limit, groups without a match, and tokens."""
    groups = frame.group_by("query_id").agg(pl.col("matched").any())
    return {
        "matched": int(frame["matched"].sum()),
        "cut at the length limit": int((frame["finish_reason"] == "length").sum()),
        "groups without a matched response": int((~groups["matched"]).sum()),
        "tokens": int(frame["num_tokens"].sum()),
    }
