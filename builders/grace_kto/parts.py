"""Parts of stage `generate`: files with what the policy's replies to some prompts in a row hold.

A part's rows are the usable queries of its replies and, one row each, what was dropped or left out::

    {"prompt": 17, "counted": None, "query_id": "03ad…", "query": "Please write …", …}
    {"prompt": 17, "counted": "dropped.blank", "query_id": "", "query": "", …}

What a reply holds does not depend on how many queries are wanted, nor on which of them are kept. So the folder of the
parts stands beside the folders of the builds, is named by what does decide a reply, and goes on serving where the other
settings change: after "attempts spent" a larger `max_attempts` asks only the prompts that were not asked before. A
part's file is named by the number of its first prompt, and the file says how many it has, so parts of different sizes
lie side by side.
"""

from pathlib import Path

import polars as pl

from builders.core.stage import Context, Shard
from builders.core.work import finished_shards
from builders.grace_kto.columns import QUERIES_COLUMNS
from builders.grace_kto.settings import GraceKTOSettings
from builders.settings.base import identities
from builders.store.columns import column
from builders.store.manifest import fingerprint_of, portable
from builders.store.shards import shard_counts

PROMPTS_AT_ONCE = 512  # that the engine is handed together: a large engine's slots stay full; also the unit of resume
PARTS_COLUMNS = (
    column("prompt", pl.Int64, "number of the prompt in the round, from 0"),
    column("counted", pl.String, "the count that the row adds one to; null for a usable query", nullable=True),
    *QUERIES_COLUMNS,
)
VERSION = 2  # of the stage; raise it when equal inputs give other queries
# The settings that decide the stage's queries. Those of `sample` say which queries leave room for a response.
SECTIONS = (
    "generate",
    "sample.thinking_tags",
    "sample.system_prompt",
    "sample.max_new_tokens",
    "engines.policy",
    "random_seed",
    "threads",
)
# Of the section `generate`: how many queries are wanted and which are kept. They decide nothing about a reply.
SORTING = ("queries", "max_attempts", "near_duplicate_threshold", "shard_queries")


def parts_folder(context: Context[GraceKTOSettings], prompts: dict[str, str]) -> Path:
    """Return the folder of the parts, whose name is a hash of everything that decides what is in them.

    Args:
        context: configuration, round, seeds and policy.
        prompts: texts of the prompts by name.
    """
    settings = identities(context.config, SECTIONS)
    settings["generate"] = {name: value for name, value in settings["generate"].items() if name not in SORTING}
    policy = context.models["policy"].record
    key = {
        "version": VERSION,
        "round": context.round,
        "configuration": portable(settings),
        "prompts": prompts,
        "seed": context.inputs["seed"].digest,
        "policy": [policy.id, policy.revision],
    }
    return context.work.parent / f"parts-{fingerprint_of(key)[:16]}"


def plan_parts(folder: Path, prompts: range) -> list[Shard]:
    """Plan the parts that hold the replies to a range of prompts: those that are there, and new ones between them.

    A part that is there may begin before the range or end after it.

    Returns:
        Parts in order without gap or overlap; index and spec are (first prompt, (first prompt, number of prompts)).
    """
    planned: list[Shard] = []
    start = prompts.start
    for first, file in finished_shards(folder).items():
        size = shard_counts(file)["read"]
        if first < prompts.stop and first + size > start:
            planned += [*_new_parts(start, first), Shard(first, (first, size))]
            start = first + size
    return planned + _new_parts(start, prompts.stop)


def _new_parts(start: int, stop: int) -> list[Shard]:
    """Plan parts of at most `PROMPTS_AT_ONCE` prompts from one prompt up to another; none where there is nothing."""
    starts = range(start, stop, PROMPTS_AT_ONCE)
    return [Shard(first, (first, min(PROMPTS_AT_ONCE, stop - first))) for first in starts]
