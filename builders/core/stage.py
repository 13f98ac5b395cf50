"""What a stage and a pipeline are: plain data and plain functions that the runner, the cards and `verify` are handed.

A stage yields one revision, of a dataset or of a model, from its parents. A dataset stage plans shards and builds each;
a model stage trains. A pipeline is a literal tuple of stages; see docs/architecture.md.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import polars as pl

from builders.cards.card import Card
from builders.core.models import Loaded, LocalModel, load_engine_for
from builders.engines import Engine
from builders.settings.base import Settings
from builders.store.check import Finding
from builders.store.columns import Column
from builders.store.manifest import Kind, Manifest
from builders.store.store import Revision, Store

ConfigT = TypeVar("ConfigT", bound=Settings)


@dataclass(frozen=True)
class At:
    """The revision of a stage, of the round being built or of another one."""

    stage: str
    round: int | None = None


@dataclass(frozen=True)
class Shard:
    """One unit of work: its number, and what it covers as plain values (a file, a range of rows, a count)."""

    index: int
    spec: Any


@dataclass(frozen=True)
class ShardResult:
    """A shard's rows, and counts: `read`, `dropped.<reason>`, and whatever else the stage counts."""

    frame: pl.DataFrame
    counts: dict[str, int]


@dataclass(frozen=True)
class Trained:
    """What a training says of itself: rows it was made from, results (means, losses) and counts for the manifest.

    `scratch` are folders that are of no use once the revision is in the store.
    """

    rows: int
    results: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    scratch: Sequence[Path] = ()


@dataclass
class Context(Generic[ConfigT]):
    """What a stage may read while it builds; plain values, so that it can travel to another process.

    `inputs` holds the parents' revisions by the name under which the stage asks for them, `models` the models by role.
    `work` is the folder of this build's finished shards. `loaded` keeps models in memory from shard to shard.
    """

    config: ConfigT
    store: Store
    round: int
    inputs: dict[str, Revision]
    models: dict[str, LocalModel]
    work: Path = field(default_factory=Path)
    loaded: Loaded = field(default_factory=Loaded)

    def engine(self, role: str) -> Engine:
        """The engine of a role, with its model loaded."""
        settings = getattr(self.config.engines, role)  # type: ignore[attr-defined]
        model = self.models[role]
        return self.loaded.get(model, ("engine", settings), lambda: load_engine_for(settings, model))

    def finished_shards(self) -> list[Path]:
        """Shards of this build that are in place, in order."""
        return sorted(self.work.glob("shard-*.parquet"))


@dataclass(frozen=True)
class Stage:
    """One stage of a pipeline.

    Of every stage: `name` (also `--stage`), `kind`, `suffix` (ends its repository's name), `version` (raise it when the
    same inputs give other data). `parents` are the stages whose revisions of the same round it reads; `also` gives
    further ones by the name under which it reads them (an `At`, or a setting's text, which counts where it is the name
    of a stage; one called `source` takes the place of what `source` identifies). `roles` say which model fills each
    role: a stage's, or a name for the store, a folder or the Hub.
    `sections` are the settings that decide its result, as dotted paths. `source` identifies what it reads from outside,
    `prompts` are the texts by name that the manifest keeps. `per_round` is false for what is the same in all rounds;
    `stem` names repositories that are not the run's own. `bytes_depend_on` says what the bytes depend on beyond the
    fingerprint, `check` what `verify` recomputes.

    A dataset stage has `columns`, `plan` (lists the shards), `build` (makes one), `summaries` (columns whose
    distribution the manifest keeps) and `sequential` (a shard may read those before it). A model stage has `train`,
    which writes the model's files into a folder that is not there yet.
    """

    name: str
    kind: Kind
    suffix: str
    version: int
    card: Card
    parents: Sequence[str] = ()
    also: Callable[[Any, int], Mapping[str, "str | At"]] | None = None
    roles: Mapping[str, Callable[[Any, int], "str | At"]] = field(default_factory=dict)
    sections: Sequence[str] = ()
    source: Callable[[Any], str | None] | None = None
    prompts: Callable[[Any, Mapping[str, Revision]], dict[str, str]] | None = None
    per_round: bool = True
    stem: Callable[[Any], str] | None = None
    bytes_depend_on: Callable[[Any], Sequence[str]] | None = None
    check: Callable[[Manifest, Mapping[str, Path], bool], list[Finding]] | None = None
    columns: Sequence[Column] = ()
    plan: Callable[[Context[Any]], list[Shard]] | None = None
    build: Callable[[Context[Any], Shard], ShardResult] | None = None
    summaries: Sequence[str] = ()
    sequential: bool = False
    train: Callable[[Context[Any], Path], Trained] | None = None


def file_shards(parent: Revision) -> list[Shard]:
    """One shard for each data file of the parent."""
    return [Shard(index, str(path)) for index, path in enumerate(parent.data_files())]
