"""Stage `sample`: m responses to each query by the current policy with top-p sampling, and their extraction (§3.3).

The responses to one query form a group and are neighbouring rows. One row::

    {"query_id": "03ad…", "query": "Please write …", "round": 1, "response_id": "03ad…-5", "response": "<summary>…",
     "summary": "…", "outline": "…", "document": "…", "matched": True, "finish_reason": "stop", "num_tokens": 96,
     "logprob": -101.3, "sample_seed": 8127…, "policy": "local/tiny-sft@77d0…"}

A thinking block before the answer is cut: `response` is what training later sees, `num_tokens` is what the policy
wrote, and `logprob`, which is that of block and answer together, is null. A block that never ends leaves the response
as it was sampled, unmatched, with its `logprob`. Both are counted.

A query that leaves no room for a response in the policy's context window is left out, counted and told; `generate`
drops such queries itself, so they come from other people's datasets.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import polars as pl

from builders.core.draws import derive_seed
from builders.core.prompting import chat
from builders.core.replies import THOUGHTS, begins_in_block
from builders.core.stage import Asking, Context, Shard, ShardResult, row_shards
from builders.engines import Batch, SamplingSettings, Windowed
from builders.engines.prompts import fits_window
from builders.grace_kto.columns import GROUPS_COLUMNS, QUERIES_COLUMNS
from builders.grace_kto.languages import system_for
from builders.grace_kto.messages import system_prompts
from builders.grace_kto.settings import GraceKTOSettings
from builders.store.columns import check_frame, frame_of, require_columns
from builders.store.revision import Revision
from scorers.errors import UserError
from scorers.extraction import Extraction, Thinking, cut_thinking, extract

SampleContext = Context[GraceKTOSettings]

QUERIES_PER_SHARD = 8
READ = QUERIES_COLUMNS[:2]  # query_id, query
OVER_WINDOW = "query over the context window"

log = logging.getLogger(__name__)


def prompts(config: GraceKTOSettings, inputs: Mapping[str, Revision]) -> dict[str, str]:
    """Return the system prompts that ask for the tagged form, by name; empty for none."""
    return system_prompts(config, None)


def plan(context: SampleContext) -> list[Shard]:
    """Plan shards of `shard_queries` of the parent's queries, without those that leave no room for a response.

    A shard's spec is (numbers of its rows in the parent, counts of what is left out); the first shard has them all.

    Raises:
        UserError: for a parent without `query_id` and `query`, with a null in them, or without a query that fits.
    """
    parent = context.inputs["generate"]
    require_columns(parent.schema(), READ, str(parent))
    rows = fitting_rows(context)
    pieces = row_shards(len(rows), context.config.sample.shard_queries, QUERIES_PER_SHARD)
    dropped = parent.scan().select(pl.len()).collect().item() - len(rows)
    counts = {"read": dropped, f"dropped.{OVER_WINDOW}": dropped} if dropped else {}
    # A piece's spec is (start, size).
    return [replace(p, spec=(rows[p.spec[0] : sum(p.spec)], {} if p.index else counts)) for p in pieces]


def fitting_rows(context: SampleContext) -> list[int]:
    """Return the numbers of the parent's rows whose queries leave room for a response; one warning tells of others.

    Raises:
        UserError: where no query does, and for a null.
    """
    parent, engine = context.inputs["generate"], context.window("policy")
    rows: list[int] = []
    others: list[str] = []  # ids
    for file in parent.data_files():
        queries = pl.read_parquet(file, columns=[c.name for c in READ], glob=False)
        check_frame(queries, READ, f"{parent}, {file.name}")
        for identity, query in queries.iter_rows():
            if fits(engine, query, context.config):
                rows.append(len(rows) + len(others))
            else:
                others.append(identity)
    if not rows:
        raise nothing_fits(engine, context.config, f"{parent}: none of {len(others)} queries")
    if others:
        log.warning(
            "sample: %d of %d queries are left out, the first is query_id %s: they leave no room for "
            "sample.max_new_tokens %d in the policy's context window of %d tokens",
            *(len(others), len(rows) + len(others), others[0]),
            *(context.config.sample.max_new_tokens, engine.context_window),
        )
    return rows


def fits(engine: Windowed, query: str, config: GraceKTOSettings) -> bool:
    """Whether a query, its system prompt and the longest response fit the policy's context window together."""
    messages = chat(query, system=system_for(query, system_prompts(config, None)))
    return fits_window(engine, messages, config.sample.max_new_tokens, config.engines.policy.chat_template_kwargs)


def nothing_fits(engine: Windowed, config: GraceKTOSettings, what: str) -> UserError:
    """Return the error where no query leaves room for a response."""
    return UserError(
        f"{what} leaves room for sample.max_new_tokens {config.sample.max_new_tokens} in the policy's context window "
        f"of {engine.context_window} tokens; lower sample.max_new_tokens, or use shorter queries, a shorter system "
        "prompt or a policy with a larger window (engines.policy.context stretches it)"
    )


def build(context: SampleContext, shard: Shard) -> Asking:
    """Sample and extract the responses to the queries of one shard."""
    config = context.config
    settings = config.sample
    numbers, left_out = shard.spec
    start, size = numbers[0], numbers[-1] - numbers[0] + 1
    queries = context.inputs["generate"].scan().slice(start, size).select("query_id", "query").collect()
    queries = queries[[number - start for number in numbers]]
    # m rows per query, side by side: (query_id, query, j).
    asked = [(*row, j) for row in queries.iter_rows() for j in range(settings.responses)]
    # A response's seed depends on its query and j alone, not on the shard it falls into.
    draws = [derive_seed(config.random_seed, context.round, identity, j) for identity, _, j in asked]
    system = system_prompts(config, None)
    messages = [chat(query, system=system_for(query, system)) for _, query, _ in asked]
    completions = yield Batch(
        messages,
        draws,
        SamplingSettings(
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
            presence_penalty=settings.presence_penalty,
            stop=settings.stop,
        ),
    )
    template_kwargs = config.engines.policy.chat_template_kwargs
    opened = begins_in_block(context.engine("policy"), messages, settings.thinking_tags, template_kwargs)
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
    read = queries.height + left_out.get("read", 0)
    return ShardResult(frame, counts | left_out | {"read": read})


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
