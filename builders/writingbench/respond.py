"""Stage `respond`: m responses to each query by each policy, without a form of their own.

One row::

    {"query_id": "77ab…", "query": "…", "domain": "Education", "subdomain": "Lesson Plan", "language": "en",
     "response_id": "77ab…-2", "response": "…", "finish_reason": "stop", "num_tokens": 912, "sample_seed": 3310…,
     "policy": "Qwen/Qwen2.5-7B-Instruct@a09a…"}

A thinking block before the answer is cut and counted; a response whose block never ends is empty. The policies are
asked one after the other, so that one model at a time is in memory.
"""

from collections import Counter
from dataclasses import replace

import polars as pl

from builders.core.draws import derive_seed
from builders.core.prompting import chat
from builders.core.sampled import fitting, sampled
from builders.core.stage import Asking, Asks, Context, Shard, ShardResult, Step, row_shards
from builders.core.work import build_missing
from builders.engines import SamplingSettings
from builders.store.columns import check_frame, frame_of, require_columns
from builders.store.shards import shard_counts
from builders.writingbench.columns import RESPONSES_COLUMNS
from builders.writingbench.settings import WritingBenchSettings
from scorers.errors import UserError

RespondContext = Context[WritingBenchSettings]

QUERIES_PER_SHARD = 8
READ = RESPONSES_COLUMNS[:5]
OVER_WINDOW = "query over the context window"


def policies_of(context: RespondContext) -> list[str]:
    """Return the roles of the policies, in their order."""
    return [f"policy-{number}" for number in range(1, 1 + len(context.config.models.policies))]


def plan(context: RespondContext) -> list[Shard]:
    """Ask one policy after the other, and plan files that put their responses to the same queries together.

    A shard's spec is (files, counts that it stands for).

    Raises:
        UserError: for a parent without the queries' columns, or where no query fits a policy's window.
    """
    parent = context.inputs["criteria"]
    require_columns(parent.schema(), READ, str(parent))
    shards = row_shards(
        parent.scan().select(pl.len()).collect().item(), context.config.respond.shard_queries, QUERIES_PER_SHARD
    )
    files = []
    for number, role in enumerate(policies_of(context)):
        step = Step(f"respond: {context.models[role].record.id}", RESPONSES_COLUMNS, Asks(role, Sample(role, number)))
        files.append(build_missing(step, replace(context, work=context.work / role), shards))
        context.loaded.keep([])  # one model at a time
    counts: Counter[str] = Counter()
    for file in (file for found in files for file in found):
        counts.update(shard_counts(file))
    rows = sum(pl.scan_parquet(file, glob=False).select(pl.len()).collect().item() for found in files for file in found)
    if not rows:
        raise UserError(
            f"{parent}: no query leaves room for respond.max_new_tokens {context.config.respond.max_new_tokens} in the "
            "context window of a policy; lower it, or use policies with a larger window (engines.policy.context)"
        )
    counts["read"] //= len(files)
    return [
        Shard(shard.index, ([str(found[place]) for found in files], {} if place else dict(counts)))
        for place, shard in enumerate(shards)
    ]


def build(context: RespondContext, shard: Shard) -> ShardResult:
    """Put the policies' responses to the same queries together."""
    files, counts = shard.spec
    rows = pl.concat([pl.read_parquet(file, glob=False) for file in files])
    order = pl.col("response_id").str.extract(r"-(\d+)$").cast(pl.Int64)
    queries = rows["query_id"].unique(maintain_order=True)
    place = pl.col("query_id").replace_strict(queries, range(len(queries)), return_dtype=pl.Int64)
    return ShardResult(rows.sort(place, order), counts)


class Sample:
    """Samples one policy's responses to the queries of a shard; a class, since an executor has to pickle it.

    Args:
        role: of the policy.
        number: its place, from 0.
    """

    def __init__(self, role: str, number: int) -> None:
        self.role, self.number = role, number

    def __call__(self, context: RespondContext, shard: Shard) -> Asking:
        """Sample the responses."""
        config, settings = context.config, context.config.respond
        parent = context.inputs["criteria"]
        queries = parent.scan().select(c.name for c in READ).slice(*shard.spec).collect()
        check_frame(queries, READ, str(parent))
        every = list(queries.iter_rows(named=True))
        rows = fitting(context, self.role, every, lambda row: chat(row["query"]), settings.max_new_tokens)
        counts: Counter[str] = Counter({"read": queries.height, f"dropped.{OVER_WINDOW}": queries.height - len(rows)})
        first = self.number * settings.responses
        asked = [(row, said, first + i) for row, said in rows for i in range(settings.responses)]
        draws = [derive_seed(config.random_seed, "respond", row["query_id"], j) for row, _, j in asked]
        messages = [said for _, said, _ in asked]
        sampling = SamplingSettings(settings.max_new_tokens, settings.temperature, settings.top_p, top_k=settings.top_k)
        responses = yield from sampled(context, self.role, messages, draws, sampling, settings.thinking_tags, counts)
        policy = str(context.models[self.role].record)
        found: list[dict[str, object]] = [
            {
                **row,
                "response_id": f"{row['query_id']}-{j}",
                "response": response.text,
                "finish_reason": response.completion.finish_reason,
                "num_tokens": response.completion.num_tokens,
                "sample_seed": draw,
                "policy": policy,
            }
            for (row, _, j), draw, response in zip(asked, draws, responses, strict=True)
        ]
        return ShardResult(frame_of(found, RESPONSES_COLUMNS), dict(+counts))
