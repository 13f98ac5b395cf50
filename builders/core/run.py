"""The one runner: it turns stages into immutable revisions, of datasets and of models alike.

Resolve the inputs, hash them, keep what is fresh, build what is missing or stale (shards, or a training), write the
manifest and the card, move the whole into the store by one rename. The finished shard file is the marker of resume: a
rerun checks the shards that are there and makes the others, and yields the same bytes as an undisturbed run.
"""

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from builders.core.assemble import add_dataset, add_model
from builders.core.console import Progress
from builders.core.models import Loaded, LocalModel, ModelFinder, set_threads
from builders.core.pipeline import Pipeline, command_of
from builders.core.plan import Graph, Inputs, Node, model_node, node_of, origin_of
from builders.core.stage import At, Context, Shard, Stage, Trained
from builders.executors.processes import process_pool
from builders.hub.refs import open_revision
from builders.settings.base import Settings
from builders.store.columns import check_frame, require_columns
from builders.store.shards import shard_counts, shard_is_whole, shard_rows, write_shard
from builders.store.store import Revision, Store
from scorers.errors import UserError

MAX_SHARDS = 10_000  # the Hub takes no more entries in one folder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageResult:
    """What happened to one stage: the revision, whether it was built now, why, and how long that took."""

    stage: str
    round: int
    revision: Revision
    built: bool
    reason: str
    seconds: float


@dataclass(frozen=True)
class StagePlan:
    """What a dry run says of one stage."""

    stage: str
    round: int
    repo: str
    action: str
    reason: str


@dataclass(frozen=True)
class _Job:
    """A node that has to be built."""

    node: Node
    inputs: Inputs
    reason: str
    began: float = field(default_factory=time.monotonic)


def run(
    pipeline: Pipeline,
    config: Settings,
    target: str,
    *,
    round_: int = 1,
    start: str | None = None,
    force: bool = False,
    require_pinned: bool = False,
) -> list[StageResult]:
    """Build what is missing or stale up to a stage, and nothing else; the target comes last in the result.

    Args:
        target: name of the last stage, of a dataset or of a model.
        round_: round of the semi-online loop.
        start: REF of a dataset that takes the place of the stages above; its stage follows from its manifest, or else
            from its columns.
        force: build the target and the datasets of its round even where they are fresh.
        require_pinned: refuse a branch in `start`.

    Raises:
        UserError: for a user's mistake; nothing half-written is left in the store.
    """
    store = Store(Path(config.store))
    node = node_of(pipeline, target, round_)
    given = _given(pipeline, store, target, round_, start, require_pinned)
    graph = Graph(pipeline, config, store, [node], given)
    set_threads(config.threads)
    with store.lock() if first_process() else contextlib.nullcontext():
        return _Runner(graph, _forced(graph, node) if force else set()).run([node])


def materialise(
    pipeline: Pipeline, config: Settings, wanted: Mapping[str, "str | At"], finder: ModelFinder | None = None
) -> tuple[dict[str, LocalModel], ModelFinder]:
    """Models by role, those that stages make built where they are missing or stale, and the finder that knows them.

    Raises:
        UserError: for a name that stands for nothing, and as `run`.
    """
    store = Store(Path(config.store))
    finder = finder or ModelFinder(store)
    found = {role: model_node(pipeline, name, 0) for role, name in wanted.items()}
    nodes = [node for node in found.values() if isinstance(node, Node)]
    graph = Graph(pipeline, config, store, nodes, {})
    set_threads(config.threads)
    with store.lock():
        runner = _Runner(graph, set())
        runner.run(nodes)
    models = {
        role: finder.of(runner.made[node]) if isinstance(node, Node) else finder.find(node)
        for role, node in found.items()
    }
    return models, finder


def dry_run(
    pipeline: Pipeline, config: Settings, target: str, *, round_: int = 1, start: str | None = None
) -> list[StagePlan]:
    """What `run` would do and why, without doing it."""
    store = Store(Path(config.store))
    graph = Graph(
        pipeline, config, store, [node_of(pipeline, target, round_)], _given(pipeline, store, target, round_, start)
    )
    finder = ModelFinder(store)
    made = dict(graph.given)
    plans = []
    for node in graph.sorted():
        if node in graph.given and node not in graph.pulled:
            continue
        stage = pipeline.stage(node.stage)
        missing = sorted(above for above in graph.needs[node].nodes() if above not in made)
        if node in graph.pulled:
            reason: str | None = None
        elif missing:
            reason = f"{missing[0].stage} is built first"
        else:
            reason = graph.stale_reason(node, graph.inputs(node, made, finder))
        existing = graph.existing(node)
        if reason is None and existing is not None:
            made[node] = existing
        action = "keep" if reason is None else "build"
        said = reason or f"fresh at {str(existing and existing.revision)[:12]}"
        plans.append(StagePlan(stage.name, node.round, pipeline.repo(stage, config), action, said))
    return plans


def _given(
    pipeline: Pipeline, store: Store, target: str, round_: int, start: str | None, require_pinned: bool = False
) -> dict[Node, Revision]:
    """The dataset that the user gives in place of a stage, under that stage's node."""
    last = pipeline.stage(target)
    if start is None:
        return {}
    if not last.parents:
        raise UserError(f"--from {start}: stage {target} reads its source, not another stage's dataset")
    revision = open_revision(start, store, "dataset", require_pinned=require_pinned)
    schema = revision.schema()
    origin = origin_of(pipeline, revision, last)
    if origin is None:
        raise UserError(
            f"--from {start}: none of its columns ({', '.join(schema.names())}) is one that a stage above {target} "
            f"adds; {target} takes a {pipeline.stage(last.parents[0]).suffix} dataset"
        )
    require_columns(schema, origin.columns, f"--from {start}")
    if revision.scan().select(pl.len()).collect().item() == 0:
        raise UserError(f"--from {start} is empty; at least one row is needed")
    return {node_of(pipeline, origin.name, round_): revision}


def _forced(graph: Graph, target: Node) -> set[Node]:
    datasets = {node for node in graph.needs if graph.pipeline.stage(node.stage).kind == "dataset"}
    return {target, *(node for node in datasets if node.round in (0, target.round))} - graph.given.keys()


class _Runner:
    """One run over a graph: what was made so far, and the models in memory."""

    def __init__(self, graph: Graph, forced: set[Node]) -> None:
        self.graph = graph
        self.forced = forced
        self.made = dict(graph.given)
        self.finder = ModelFinder(graph.store)
        self.loaded = Loaded()
        self.results: list[StageResult] = []

    def run(self, targets: Sequence[Node]) -> list[StageResult]:
        """Build in topological order; models that wait for nothing and for no other are trained at the same time."""
        sorter = self.graph.order()
        waiting: list[_Job] = []
        running: dict[Future[Trained], _Job] = {}
        with contextlib.ExitStack() as stack:
            stack.callback(self.loaded.keep, ())
            pool: ProcessPoolExecutor | None = None
            while sorter.is_active():
                for node in sorter.get_ready():
                    job = self._job(node)
                    if job is None:
                        sorter.done(node)
                    else:
                        self._require_possible(job, targets)
                        waiting.append(job)
                for job in self._apart(waiting, running):
                    pool = pool or stack.enter_context(process_pool(self.graph.config.workers))
                    running[pool.submit(_train_apart, *self._training(job))] = job
                if (here := self._next_here(waiting, running)) is not None:
                    waiting.remove(here)
                    self._build(here)
                    sorter.done(here.node)
                elif running:
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        job = running.pop(future)
                        self._finish_model(job, future.result())
                        sorter.done(job.node)
        return self.results

    def _job(self, node: Node) -> _Job | None:
        """What has to be done for a node; None for a fresh or given one, which is noted as kept."""
        if node in self.graph.given:
            if node in self.graph.pulled:
                self._keep(node, self.graph.given[node], "as it was pulled")
            return None
        inputs = self.graph.inputs(node, self.made, self.finder)
        reason = "forced" if node in self.forced else self.graph.stale_reason(node, inputs)
        existing = self.graph.existing(node)
        if reason is None and existing is not None:
            self._keep(node, existing, "fresh")
            return None
        return _Job(node, inputs, reason or "missing")

    def _keep(self, node: Node, revision: Revision, reason: str) -> None:
        self.made[node] = revision
        self.results.append(StageResult(node.stage, node.round, revision, False, reason, 0.0))

    def _require_possible(self, job: _Job, targets: Sequence[Node]) -> None:
        """Several processes train one model together; what it needs has to be there."""
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and job.node not in targets:
            raise UserError(
                f"stage {job.node.stage} is {job.reason}, and several processes build only the stage they are started "
                f"for; run `{command_of(self._stage(job), self.graph.pipeline, job.node.round)}` in one process first"
            )

    def _apart(self, waiting: list[_Job], running: dict[Future[Trained], _Job]) -> list[_Job]:
        """Take out of `waiting` the trainings that get a process of their own: only where there is other work too."""
        models = [job for job in waiting if self._stage(job).kind == "model"]
        alone = len(waiting) + len(running) < 2
        room = self.graph.config.workers - len(running)
        if self.graph.config.workers == 1 or alone or room < 1:
            return []
        for job in models[:room]:
            waiting.remove(job)
        return models[:room]

    def _next_here(self, waiting: list[_Job], running: dict[Future[Trained], _Job]) -> _Job | None:
        """What this process does next: a dataset, or a training where no other is under way; None to wait."""
        datasets = [job for job in waiting if self._stage(job).kind == "dataset"]
        return next(iter(datasets or ([] if running else waiting)), None)

    def _stage(self, job: _Job) -> Stage:
        return self.graph.pipeline.stage(job.node.stage)

    def _context(self, job: _Job) -> Context[Settings]:
        config, store = self.graph.config, self.graph.store
        work = store.work_path(self.graph.pipeline.repo(self._stage(job), config), job.inputs.fingerprint)
        work.mkdir(parents=True, exist_ok=True)
        return Context(config, store, job.node.round, job.inputs.parents, job.inputs.models, work, self.loaded)

    def _training(self, job: _Job) -> tuple[Stage, Context[Settings], Path]:
        stage, context = self._stage(job), self._context(job)
        log.info("%s: training", stage.name)
        return stage, context, context.work / "model"

    def _build(self, job: _Job) -> None:
        stage = self._stage(job)
        if stage.kind == "model":
            self.loaded.keep(())  # training needs the memory
            self._finish_model(job, _train(*self._training(job)))
            return
        self.loaded.keep(job.inputs.models.values())
        context = self._context(job)
        paths = _build_shards(stage, context)
        revision = add_dataset(self.graph, job.node, job.inputs, context.work, paths)
        self._done(job, revision, context.work)

    def _finish_model(self, job: _Job, trained: Trained) -> None:
        if not first_process():
            raise SystemExit(0)  # of several processes the first one writes to the store
        context = self._context(job)
        revision = add_model(self.graph, job.node, job.inputs, context.work / "model", trained)
        self._done(job, revision, context.work, *trained.scratch)

    def _done(self, job: _Job, revision: Revision, *scratch: Path) -> None:
        for folder in scratch:
            shutil.rmtree(folder, ignore_errors=True)
        self.made[job.node] = revision
        seconds = time.monotonic() - job.began
        self.results.append(StageResult(job.node.stage, job.node.round, revision, True, job.reason, seconds))


def first_process() -> bool:
    """Whether this is the only process, or the first of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def _train(stage: Stage, context: Context[Settings], output: Path) -> Trained:
    if stage.train is None:
        raise TypeError(f"stage {stage.name} is a model stage without a training")
    if first_process():
        shutil.rmtree(output, ignore_errors=True)  # what a killed run left; checkpoints lie elsewhere
    return stage.train(context, output)


def _train_apart(stage: Stage, context: Context[Settings], output: Path) -> Trained:
    """`_train` in a process of its own."""
    set_threads(context.config.threads)
    return _train(stage, context, output)


def _build_shards(stage: Stage, context: Context[Settings]) -> list[Path]:
    """All shards of a dataset, those that are whole already kept."""
    if stage.plan is None:
        raise TypeError(f"stage {stage.name} is a dataset stage without a plan")
    shards = stage.plan(context)
    if not 1 <= len(shards) < MAX_SHARDS:
        raise UserError(
            f"stage {stage.name}: {len(shards)} shards; between 1 and {MAX_SHARDS - 1} are possible: "
            "raise the settings named shard_rows or shard_queries, which set their size; or look at its parent"
        )
    with Progress(stage.name, len(shards)) as progress:
        for shard in shards:
            path = shard_path(context.work, shard)
            if not shard_is_whole(path):
                _forget_following(stage, context.work, shard)
                build_shard(stage, context, shard)
            progress.advance(shard_rows(path), shard_counts(path).get("tokens", 0))
    return [shard_path(context.work, shard) for shard in shards]


def shard_path(work: Path, shard: Shard) -> Path:
    """Where a finished shard lies until the revision is whole."""
    return work / f"shard-{shard.index:05d}.parquet"


def _forget_following(stage: Stage, work: Path, shard: Shard) -> None:
    """Where shards build on the ones before, a damaged one takes those after it along."""
    if not stage.sequential:
        return
    for path in work.glob("shard-*.parquet"):
        if path.name >= shard_path(work, shard).name:
            path.unlink()


def build_shard(stage: Stage, context: Context[Settings], shard: Shard) -> Path:
    """Make one shard and put its file in place: the unit of work that any executor can run.

    The three arguments are plain values that pickle takes; models are loaded where the work is done.
    """
    if stage.build is None:
        raise TypeError(f"stage {stage.name} is a dataset stage without a build")
    result = stage.build(context, shard)
    check_frame(result.frame, stage.columns, f"stage {stage.name}, shard {shard.index}")
    path = shard_path(context.work, shard)
    write_shard(result.frame, stage.columns, path, result.counts)
    return path
