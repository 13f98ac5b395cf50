"""Stages: plain data and plain functions that the runner, the cards and `grace verify` are handed.

A stage yields one revision, of a dataset or of a model, from its parents: a dataset stage plans shards and builds each
of them, a model stage trains. See docs/architecture.md.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import polars as pl

from builders.cards.card import Card
from builders.core.models import AnyModel, Loaded, LocalModel, load_engine_for, load_window, on_disk
from builders.engines import Batch, Completion, Engine, Windowed
from builders.executors.handing import Executor
from builders.settings.base import Settings
from builders.store.check import Finding
from builders.store.columns import Column
from builders.store.manifest import Kind, Manifest
from builders.store.ref import Ref
from builders.store.revision import Choice, Revision
from builders.store.store import Store

MANY_SHARDS = 2_000  # no more where a stage chooses their size: every reader of a dataset opens all of its files

FindModel = Callable[[str], AnyModel | None]
ConfigT = TypeVar("ConfigT", bound=Settings)


@dataclass(frozen=True)
class At:
    """A reference to the revision of a stage.

    Attributes:
        stage: name of the stage.
        round: its round; None for the round that is being built.
    """

    stage: str
    round: int | None = None


@dataclass(frozen=True)
class Source:
    """What a stage reads from outside the pipeline.

    Attributes:
        identity: what identifies its content, such as a file's SHA-256 or a dataset's commit; part of the fingerprint.
        ref: a dataset at its commit, or the folder of one; the stage reads it as its parent `source`. None for what the
            stage reads itself, such as a file.
        choice: the part of that dataset; None for its default subset and `train`.
    """

    identity: str
    ref: Ref | None = None
    choice: Choice | None = None


@dataclass(frozen=True)
class Shard:
    """One unit of work.

    Attributes:
        index: position in the dataset, from 0.
        spec: what the shard covers, as plain values: a file, a range of rows, a count.
    """

    index: int
    spec: Any


@dataclass(frozen=True)
class ShardResult:
    """What building a shard yields.

    Attributes:
        frame: the rows, with the columns of the stage's contract.
        counts: `read`, `dropped.<reason>`, and whatever else the stage counts; summed over the shards.
    """

    frame: pl.DataFrame
    counts: dict[str, int]


Asking = Generator[Batch, list[Completion], ShardResult]
"""A shard that asks an engine: it yields batches of prompts and is sent their completions."""


@dataclass(frozen=True)
class Asks:
    """How a stage builds its shards where that asks an engine, see `builders.core.asking`.

    Attributes:
        role: whose engine.
        build: makes the rows of one shard.
    """

    role: str
    build: Callable[["Context[Any]", Shard], Asking]


Build = Callable[["Context[Any]", Shard], ShardResult] | Asks


@dataclass(frozen=True)
class Trained:
    """What a training reports for the manifest.

    Attributes:
        rows: rows the model was trained on.
        results: means and losses by name.
        counts: further counts by name.
    """

    rows: int
    results: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass
class Context(Generic[ConfigT]):
    """What a stage may read while it builds: plain values, so that the context can travel to another process.

    Attributes:
        config: the configuration.
        store: the local store.
        round: the round that is being built; 0 for a stage whose result all rounds share.
        inputs: the parents' revisions, by the name under which the stage asks for them.
        models: the models, by role.
        work: folder of this build's finished shards.
        loaded: models in memory, kept from shard to shard.
        executor: whose workers build the shards, each with models of its own; None where this process does.
    """

    config: ConfigT
    store: Store
    round: int
    inputs: dict[str, Revision]
    models: Mapping[str, AnyModel]
    work: Path = field(default_factory=Path)
    loaded: Loaded = field(default_factory=Loaded)
    executor: Executor | None = None

    def local(self, role: str) -> LocalModel:
        """Return the model of a role whose files are needed.

        Raises:
            UserError: for one that a server runs.
        """
        return on_disk(self.models[role], f"role {role}")

    def engine(self, role: str) -> Engine:
        """Return the engine of a role with its model loaded, from the cache where it was loaded before."""
        settings, setting = self.engine_settings(role)
        model = self.models[role]
        # The settings are part of the key: two roles may run one model in different ways.
        rank = self.config.adapter_rank(role)
        return self.loaded.get(model, ("engine", settings), lambda: load_engine_for(settings, model, rank, setting))

    def window(self, role: str) -> Windowed:
        """Return what planning needs of a role's engine: the tokenizer and the window.

        That is the engine itself where this process builds the shards. Workers have engines of their own, and a second
        one here would take a GPU's memory from them.
        """
        if self.executor is None:
            return self.engine(role)
        settings, setting = self.engine_settings(role)
        model = self.models[role]
        return self.loaded.get(model, ("window", settings), lambda: load_window(settings, model, setting))

    def engine_settings(self, role: str) -> tuple[Any, str]:
        """Return the settings of a role's engine, and their path; the models of one role share them."""
        name = role.partition("-")[0]
        return getattr(self.config.engines, name), f"engines.{name}"  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Step:
    """Files that a stage needs before its shards can be planned, made shard by shard as the stage's own are.

    Its function and values can be pickled, so that whatever runs a stage's shards runs a step's too.

    Attributes:
        name: what the progress bar and error messages call it.
        columns: the columns of its files.
        build: makes the rows of one file.
    """

    name: str
    columns: Sequence[Column]
    build: Build


@dataclass(frozen=True)
class Stage:
    """One stage of a pipeline.

    Attributes:
        name: the value of `--stage`.
        kind: `dataset` or `model`.
        suffix: last part of the repository's name.
        version: to be raised when the same inputs give other data; part of the fingerprint.
        card: what its card shows.
        parents: stages whose revisions of the same round it reads.
        also: further dataset parents, by the name under which the stage reads them, from configuration and round. A
            value is an `At`, or a setting's text, which counts only where it is the name of a stage. A parent named
            `source` takes the place of what the function `source` identifies, one with a name of `parents` takes the
            place of that parent.
        instead: by the name of a parent, another dataset stage that can take its place: where `also` says so, or where
            the user gives a dataset of it.
        reads: columns that a dataset given in place of the first parent has to have; empty for all of that parent's.
        roles: by role, a function of configuration and round that says which model fills it: an `At`, the name of a
            stage, or a name in the store, of a folder or on the Hub. A sequence of names fills `role-1`, `role-2`, ….
        sections: dotted paths of the settings that decide its result.
        source: returns what the stage reads from outside, resolved once; nothing is fetched for it. Its second argument
            says whether what may move, such as a branch, is refused.
        prompts: returns the prompts by name; the manifest keeps their texts.
        per_round: False where all rounds share one result.
        stem: first part of the repository's name where it is not the run's own.
        ready: checks, before anything is built, that the machine and the models have what the settings ask for; its
            arguments are the configuration and a function that finds a model by name, None for one that a stage makes.
        bytes_depend_on: returns what the exact bytes depend on beyond the fingerprint, such as the kind of processor.
        check: what `grace verify` recomputes, from the manifest, the readable data files by path, and whether all of
            them are there and fit the contract.
        columns: the contract of the dataset's rows.
        plan: lists the shards; what it makes for all of them lies in the context's working folder or in `scratch`.
        build: makes the rows of one shard.
        scratch: lists folders beside the context's working folder that are deleted once the revision is in the store.
        summaries: numeric columns whose distribution the manifest keeps.
        train: writes the model's files into a folder that does not exist yet.
        together: whether several processes can train the model together.
    """

    name: str
    kind: Kind
    suffix: str
    version: int
    card: Card
    # What the stage reads.
    parents: Sequence[str] = ()
    also: Callable[[Any, int], Mapping[str, "str | At"]] | None = None
    instead: Mapping[str, str] = field(default_factory=dict)
    reads: Sequence[Column] = ()
    roles: Mapping[str, Callable[[Any, int], "str | At | Sequence[str]"]] = field(default_factory=dict)
    sections: Sequence[str] = ()
    source: Callable[[Any, bool], Source | None] | None = None
    prompts: Callable[[Any, Mapping[str, Revision]], dict[str, str]] | None = None
    # How its revisions are named, and what is said of them.
    per_round: bool = True
    stem: Callable[[Any], str] | None = None
    ready: Callable[[Any, FindModel], None] | None = None
    bytes_depend_on: Callable[[Any], Sequence[str]] | None = None
    check: Callable[[Manifest, Mapping[str, Path], bool], list[Finding]] | None = None
    # Of a dataset stage.
    columns: Sequence[Column] = ()
    plan: Callable[[Context[Any]], list[Shard]] | None = None
    build: Build | None = None
    scratch: Callable[[Context[Any]], Sequence[Path]] | None = None
    summaries: Sequence[str] = ()
    # Of a model stage.
    train: Callable[[Context[Any], Path], Trained] | None = None
    together: bool = False


def row_shards(rows: int, size: int | None, default: int) -> list[Shard]:
    """Plan shards of consecutive rows; a shard's spec is (first row, number of rows).

    Args:
        rows: rows in all.
        size: rows per shard; None for `default`, or as many as keep the shards down to `MANY_SHARDS`.
        default: rows per shard of a dataset that is not large.

    >>> [shard.spec for shard in row_shards(5, None, 2)], len(row_shards(1_000_000, None, 2))
    ([(0, 2), (2, 2), (4, 1)], 2000)
    """
    # -(-a // b) rounds a / b up.
    size = size or max(default, -(-rows // MANY_SHARDS))
    return [Shard(index, (start, min(size, rows - start))) for index, start in enumerate(range(0, rows, size))]


def content_shards(ids: Sequence[str], size: int | None, default: int) -> list[Shard]:
    """Plan shards of consecutive rows that begin where the rows' own ids say so; a spec is (first row, number of rows).

    A shard begins at a row whose id is the smallest of the `default` rows around it. So rows that are inserted or left
    out change the shards near them alone; all others keep their rows, and a push does not send them again. Without a
    size, shards have half of `default` rows at least, `default` on average and seldom more than twice as many; rows
    that fit into one shard are not cut.

    Args:
        ids: hexadecimal ids that are spread evenly, such as `query_id`, one per row; a row whose id is that of the row
            before it stays in the same shard.
        size: rows per shard, then cut by number; None for cuts by content.
        default: as for `row_shards`, but doubled until there are about `MANY_SHARDS` shards or fewer.
    """
    if size is not None or len(ids) <= default:
        return row_shards(len(ids), size, default)
    # In doublings, so that a few rows more do not move all ends.
    while default * MANY_SHARDS < len(ids):
        default *= 2
    around = 2 * (default // 2) + 1
    keys = pl.Series(ids).str.slice(0, 15).str.to_integer(base=16)
    smallest = (keys == keys.rolling_min(around, min_samples=around, center=True)) & (keys != keys.shift(1))
    starts = [0, *smallest.fill_null(False).arg_true()]
    ends = [*starts[1:], len(ids)]
    return [Shard(index, (start, end - start)) for index, (start, end) in enumerate(zip(starts, ends, strict=True))]
