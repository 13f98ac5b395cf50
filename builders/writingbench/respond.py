"""Stage `respond`: m responses to each query by each policy, without a form of their own.

One row::

    {"query_id": "77ab…", "query": "…", "domain": "Education", "subdomain": "Lesson Plan", "language": "en",
     "response_id": "77ab…-2", "response": "…", "finish_reason": "stop", "num_tokens": 912, "sample_seed": 3310…,
     "policy": "Qwen/Qwen2.5-7B-Instruct@a09a…"}

A thinking block before the answer is cut and counted; a response whose block never ends is empty. The policies are
asked one after the other, so that one model at a time is in memory.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from builders.core.draws import derive_seed
from builders.core.prompting import chat
from builders.core.replies import THOUGHTS, begins_in_block
from builders.core.stage import Asking, Asks, Context, Shard, ShardResult, Step, row_shards
from builders.core.work import build_missing
from builders.engines import Batch, SamplingSettings
from builders.engines.prompts import fits_window
from builders.store.columns import check_frame, frame_of, require_columns
from builders.store.shards import shard_counts
from builders.writingbench.columns import RESPONSES_COLUMNS
from builders.writingbench.settings import WritingBenchSettings
from scorers.errors import UserError
from scorers.extraction import Thinking, cut_thinking

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
        config, engine = context.config, context.engine(self.role)
        settings, template_kwargs = config.respond, config.engines.policy.chat_template_kwargs
        parent = context.inputs["criteria"]
        queries = parent.scan().select(c.name for c in READ).slice(*shard.spec).collect()
        check_frame(queries, READ, str(parent))
        rows = [
            row
            for row in queries.iter_rows(named=True)
            if fits_window(engine, chat(row["query"]), settings.max_new_tokens, template_kwargs)
        ]
        counts: Counter[str] = Counter({"read": queries.height, f"dropped.{OVER_WINDOW}": queries.height - len(rows)})
        first = self.number * settings.responses
        asked = [(row, first + i) for row in rows for i in range(settings.responses)]
        draws = [derive_seed(config.random_seed, "respond", row["query_id"], j) for row, j in asked]
        messages = [chat(row["query"]) for row, _ in asked]
        sampling = SamplingSettings(settings.max_new_tokens, settings.temperature, settings.top_p, top_k=settings.top_k)
        completions = yield Batch(messages, draws, sampling)
        opened = begins_in_block(engine, messages, settings.thinking_tags, template_kwargs)
        policy = str(context.models[self.role].record)
        found: list[dict[str, object]] = []
        for (row, j), draw, completion in zip(asked, draws, completions, strict=True):
            response, thought = without_thinking(completion.text, settings.thinking_tags, opened=opened)
            counts.update(name for name, kind in THOUGHTS.items() if kind == thought)
            counts["cut at the length limit"] += completion.finish_reason == "length"
            counts["tokens"] += completion.num_tokens
            found.append(
                {
                    **row,
                    "response_id": f"{row['query_id']}-{j}",
                    "response": response,
                    "finish_reason": completion.finish_reason,
                    "num_tokens": completion.num_tokens,
                    "sample_seed": draw,
                    "policy": policy,
                }
            )
        return ShardResult(frame_of(found, RESPONSES_COLUMNS), dict(+counts))


def without_thinking(text: str, tags: Sequence[str] | None, *, opened: bool = False) -> tuple[str, Thinking]:
    """Cut a thinking block off a response: nothing is left of one whose block never ends."""
    if tags is None:
        return text, "none"
    start, end = tags
    return cut_thinking(text, (start, end), opened=opened)
