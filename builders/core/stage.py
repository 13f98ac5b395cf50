"""What a stage is: the parts that `run` needs to turn it into shards and one revision."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from builders.core.models import Models
from builders.grace_kto.columns import Column
from builders.settings.load import Config
from builders.store.store import Revision, Store


@dataclass(frozen=True)
class Shard:
    """One unit of work: its number, and what it covers (a file of the parent, a range of rows, a count)."""

    index: int
    spec: Any


@dataclass(frozen=True)
class ShardResult:
    """A shard's rows, and counts: `read`, `dropped.<reason>`, and whatever else the stage counts."""

    frame: pl.DataFrame
    counts: dict[str, int]


@dataclass
class Context:
    """What a stage may read while it builds.

    `inputs` holds the parent's revision under the parent stage's name and further ones as the stage declares them;
    `work` is the folder of this build's finished shards.
    """

    config: Config
    store: Store
    round: int
    inputs: dict[str, Revision]
    models: Models
    work: Path = field(default_factory=Path)

    def finished_shards(self) -> list[Path]:
        """Shards of this build that are in place, in order."""
        return sorted(self.work.glob("shard-*.parquet"))


@dataclass(frozen=True)
class Stage:
    """One stage of a pipeline.

    `sections` are the configuration's sections and `roles` the models that decide its result; `dataset` ends its
    repository's name. `plan` lists the shards, `build` makes one. `extra_inputs` names further revisions it reads
    beside its parent's, `source` identifies what a stage without a parent reads, `prompts` are the texts by name that
    the manifest keeps. With `sequential`, a shard may read the shards before it.
    """

    name: str
    dataset: str
    version: int
    parent: str | None
    columns: Sequence[Column]
    sections: Sequence[str]
    plan: Callable[[Context], list[Shard]]
    build: Callable[[Context, Shard], ShardResult]
    roles: Sequence[str] = ()
    prompts: Callable[[Config, Mapping[str, Revision]], dict[str, str]] = lambda config, inputs: {}
    extra_inputs: Callable[[Config, Store, int], dict[str, Revision]] = lambda config, store, round_: {}
    source: Callable[[Config, Store], str] | None = None
    summaries: Sequence[str] = ()
    per_round: bool = True
    sequential: bool = False


def file_shards(parent: Revision) -> list[Shard]:
    """One shard for each data file of the parent."""
    return [Shard(index, str(path)) for index, path in enumerate(parent.data_files())]
