"""Stage `sample`: m responses to each query by the current policy with top-p sampling, and their extraction (§3.3).

The responses to one query form a group and are neighbouring rows. One row::

    {"query_id": "03ad…", "query": "Please write …", "round": 1, "response_id": "03ad…-5", "response": "<summary>…",
     "summary": "…", "outline": "…", "document": "…", "matched": True, "finish_reason": "stop", "num_tokens": 96,
     "logprob": -101.3, "sample_seed": 8127…, "policy": "local/tiny-sft@77d0…"}
"""

from collections.abc import Mapping

import polars as pl

from builders.core.draws import derive_seed
from builders.core.prompting import chat
from builders.core.stage import Context, Shard, ShardResult
from builders.engines import SamplingSettings
from builders.grace_kto.columns import GROUPS_COLUMNS, QUERIES_COLUMNS
from builders.grace_kto.languages import system_for
from builders.grace_kto.messages import system_prompts
from builders.grace_kto.settings import GraceKTOSettings
from builders.store.columns import frame_of, require_columns
from builders.store.store import Revision
from scorers.extraction import extract

SampleContext = Context[GraceKTOSettings]


def prompts(config: GraceKTOSettings, inputs: Mapping[str, Revision]) -> dict[str, str]:
    """Return the system prompts that ask for the tagged form, by name; empty for none."""
    return system_prompts(config, None)


def plan(context: SampleContext) -> list[Shard]:
    """Plan one shard per `shard_queries` queries of the parent; its spec is (first row, number of rows).

    Raises:
        UserError: for a parent without `query_id` and `query`.
    """
    parent = context.inputs["generate"]
    require_columns(parent.schema(), QUERIES_COLUMNS[:2], str(parent))
    rows = parent.scan().select(pl.len()).collect().item()
    size = context.config.sample.shard_queries
    return [Shard(index, (start, size)) for index, start in enumerate(range(0, rows, size))]


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
    system = system_prompts(config, None)
    completions = context.engine("policy").generate(
        [chat(query, system=system_for(query, system)) for _, query, _ in asked],
        draws,
        SamplingSettings(
            max_new_tokens=settings.max_new_tokens, temperature=settings.temperature, top_p=settings.top_p
        ),
    )
    policy = str(context.models["policy"].record)
    rows: list[dict[str, object]] = []
    for (identity, query, j), draw, completion in zip(asked, draws, completions, strict=True):
        parts = extract(completion.text)
        rows.append(
            {
                "query_id": identity,
                "query": query,
                "round": context.round,
                "response_id": f"{identity}-{j}",
                "response": completion.text,
                "summary": parts and parts.summary,
                "outline": parts and parts.outline,
                "document": parts and parts.document,
                "matched": parts is not None,
                "finish_reason": completion.finish_reason,
                "num_tokens": completion.num_tokens,
                "logprob": completion.logprob,
                "sample_seed": draw,
                "policy": policy,
            }
        )
    frame = frame_of(rows, GROUPS_COLUMNS)
    return ShardResult(frame, {"read": queries.height} | sampling_counts(frame))


def sampling_counts(frame: pl.DataFrame) -> dict[str, int]:
    """Count matched responses, responses cut at the limit, groups without a match, and tokens."""
    groups = frame.group_by("query_id").agg(pl.col("matched").any())
    return {
        "matched": int(frame["matched"].sum()),
        "cut at the length limit": int((frame["finish_reason"] == "length").sum()),
        "groups without a matched response": int((~groups["matched"]).sum()),
        "tokens": int(frame["num_tokens"].sum()),
    }
