"""The runner: builds the nodes of a graph into immutable revisions, datasets and models alike.

For each node it resolves the inputs, hashes them, keeps a fresh revision, or else builds one (shard by shard, or by a
training), writes manifest and card, and moves the result into the store by one rename. A finished shard file is the
marker of resume: a rerun checks the shards that exist, makes the others, and yields the same bytes as an undisturbed
run.
"""

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Iterator, Sequence, Set
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from builders.core.assemble import add_dataset, add_model
from builders.core.given import with_source
from builders.core.models import AnyModel, Loaded, ModelFinder, served_by, set_threads
from builders.core.nodes import Node
from builders.core.pipeline import Pipeline, command_of
from builders.core.plan import Graph, Inputs
from builders.core.stage import Context, Stage, Trained
from builders.core.work import build_shards, first_process, train, train_apart, train_as_one_of
from builders.executors import open_executor
from builders.executors.handing import Executor
from builders.executors.processes import process_pool, submit
from builders.executors.together import run_together
from builders.settings.base import Settings
from builders.store.names import naming_near
from builders.store.revision import Revision
from scorers.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageResult:
    """What a run did for one stage and round.

    Attributes:
        stage: name of the stage.
        round: its round; 0 where all rounds share the result.
        revision: the revision, new or kept.
        built: whether it was built by this run.
        reason: why it was built or kept, in words.
        seconds: wall-clock time from when all its inputs were there; 0 for a kept revision.
    """

    stage: str
    round: int
    revision: Revision
    built: bool
    reason: str
    seconds: float


@dataclass(frozen=True)
class _Job:
    """A node that has to be built, its resolved inputs, why, and since when (monotonic seconds)."""

    node: Node
    inputs: Inputs
    reason: str


def find_model(pipeline: Pipeline, finder: ModelFinder, name: str) -> AnyModel:
    """Find a model that no stage makes.

    Raises:
        UserError: where there is none; the message names stages and models of the store whose names are near.
    """
    with naming_near(
        name, finder.store, ("model",), [stage.name for stage in pipeline.stages if stage.kind == "model"]
    ):
        return finder.find_any(name)


def outlook(graph: Graph, finder: ModelFinder, forced: Set[Node] = frozenset()) -> Iterator[tuple[Node, str | None]]:
    """Yield the nodes in the order of the work, each with the reason to build it; None for one that is kept.

    Raises:
        UserError: for a revision that is kept and damaged: what comes after it may read it to know its own inputs.
    """
    made = dict(graph.given)
    for node in graph.sorted():
        if node in graph.given and node not in graph.kept:
            continue
        # Only fresh revisions are in `made`: below a node that has to be built the digests are not known yet.
        missing = sorted(above for above in graph.needs[node].nodes() if above not in made)
        if node in graph.kept or node in graph.awaited:
            reason: str | None = None
        elif node in forced:
            reason = "forced"
        elif missing:
            reason = f"{missing[0].stage} is {'pulled' if missing[0] in graph.awaited else 'built'} first"
        else:
            reason = graph.stale_reason(node, graph.inputs(node, made, finder))
        held = graph.held(node)
        if reason is None and held is not None:
            graph.store.require_whole(held)
            made[node] = held
        yield node, reason


class Runner:
    """One run over a graph.

    Attributes:
        lock: the store's locked file, which trainings in processes of their own hold open too; None in a process that
            torchrun started beside the first one.
        made: revisions by node: given, kept or built so far.
        loaded: models in memory.
        executor: whose workers build the shards of datasets; None where this process does.
        results: what was done so far.
    """

    def __init__(self, graph: Graph, forced: set[Node], lock: IO[str] | None) -> None:
        self.graph = graph
        self.forced = forced
        self.lock = lock
        self.made = dict(graph.given)
        self.finder = ModelFinder(graph.store, served_by(graph.config))
        self.loaded = Loaded()
        self.executor: Executor | None = None
        self.results: list[StageResult] = []
        self.began: dict[Node, float] = {}  # when work on a node began, by the monotonic clock

    def run(self, targets: Sequence[Node]) -> list[StageResult]:
        """Build all nodes in topological order and return the results.

        Trainings that do not depend on one another run at the same time, each in a process of its own.
        """
        # A misspelt model is told before anything is built, and what is on the Hub is fetched first.
        for found in self.graph.needs.values():
            for wanted in found.models.values():
                if isinstance(wanted, str):
                    find_model(self.graph.pipeline, self.finder, wanted)
        datasets = self._require_ready()
        held = [] if self.lock is None else [self.lock]
        sorter = self.graph.order()
        waiting: list[_Job] = []
        running: dict[Future[Trained], _Job] = {}
        with contextlib.ExitStack() as stack:
            # However the run ends, the models' memory is released.
            stack.callback(self.loaded.keep, ())
            # Before anything is built: that a cluster cannot be reached is told at once.
            if datasets:
                self.executor = stack.enter_context(open_executor(self.graph.config.executor, held))
            pool: ProcessPoolExecutor | None = None
            while sorter.is_active():
                # 1. Nodes whose inputs are all made: keep what is fresh, queue the rest.
                for node in sorter.get_ready():
                    job = self._job(node)
                    if job is None:
                        sorter.done(node)
                    else:
                        self._require_possible(job, targets)
                        waiting.append(job)
                # 2. Hand trainings to worker processes; the pool is made on first need, since its start takes seconds.
                for job in self._apart(waiting, running):
                    pool = pool or stack.enter_context(process_pool(self.graph.config.workers, held))
                    running[submit(pool, train_apart, *self._training(job))] = job
                # 3. Build one job in this process; with none to build, wait until a worker has finished one.
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

    def _require_ready(self) -> bool:
        """Let every stage that will be built check the machine and the models, before the first one is built.

        Returns:
            Whether a dataset is among them.
        """
        datasets = False
        for node, reason in outlook(self.graph, self.finder, self.forced):
            stage = self.graph.pipeline.stage(node.stage)
            if reason is not None:
                datasets |= stage.kind == "dataset"
                if stage.ready is not None:
                    stage.ready(self.graph.config, self._find)
        return datasets

    def _find(self, name: str) -> AnyModel | None:
        """Return a model by the name that the configuration gives it.

        None for the name of a stage, and for a model that nothing in this run uses.
        """
        return (
            self.finder.find_any(name)
            if any(name in found.models.values() for found in self.graph.needs.values())
            else None
        )

    def _job(self, node: Node) -> _Job | None:
        """Return the job that builds a node; None where its revision is given or fresh, and so kept."""
        if node in self.graph.given:
            if node in self.graph.kept:
                self._keep(node, self.graph.given[node], self.graph.kept[node])
            return None
        inputs = self.graph.inputs(node, self.made, self.finder)
        reason = "forced" if node in self.forced else self.graph.stale_reason(node, inputs)
        # A damaged revision is not built again unasked: that may take days where a copy of it exists.
        if reason is None and (existing := self.graph.existing(node)) is not None:
            self._keep(node, existing, "fresh")
            return None
        return _Job(node, inputs, reason or "missing")

    def _keep(self, node: Node, revision: Revision, reason: str) -> None:
        """Record a revision that is used as it is.

        Raises:
            UserError: for one that is damaged.
        """
        self.graph.store.require_whole(revision)
        self.made[node] = revision
        self.results.append(StageResult(node.stage, node.round, revision, False, reason, 0.0))

    def _require_possible(self, job: _Job, targets: Sequence[Node]) -> None:
        """Refuse to build anything but a target when torchrun started several processes.

        They train one model together; the datasets and models above it have to be in the store already.
        """
        together = self._stage(job).kind == "model" and job.node in targets
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not together:
            raise UserError(
                f"stage {job.node.stage} is {job.reason}, and several processes only train the model they are started "
                f"for; run `{command_of(self._stage(job), self.graph.pipeline, job.node.round)}` in one process first"
            )

    def _apart(self, waiting: list[_Job], running: dict[Future[Trained], _Job]) -> list[_Job]:
        """Remove from `waiting` and return the trainings that get a process of their own.

        A job without others beside it stays in this process: a second process would gain nothing.
        """
        shared = self.graph.config.nproc > 1  # by several processes, which are enough at a time
        stages = [(job, self._stage(job)) for job in waiting]
        models = [job for job, stage in stages if stage.kind == "model" and not (shared and stage.together)]
        alone = len(waiting) + len(running) < 2
        room = self.graph.config.workers - len(running)
        if self.graph.config.workers == 1 or alone or room < 1:
            return []
        for job in models[:room]:
            waiting.remove(job)
        return models[:room]

    def _next_here(self, waiting: list[_Job], running: dict[Future[Trained], _Job]) -> _Job | None:
        """Return this process's next job: a dataset, else a training if none is running; None to wait."""
        # Datasets are built here alone; a training that waits may still get a worker process.
        datasets = [job for job in waiting if self._stage(job).kind == "dataset"]
        return next(iter(datasets or ([] if running else waiting)), None)

    def _stage(self, job: _Job) -> Stage:
        """Return the stage of a job."""
        return self.graph.pipeline.stage(job.node.stage)

    def _context(self, job: _Job) -> Context[Settings]:
        """Return what the job's stage may read; its working folder is created."""
        config, store = self.graph.config, self.graph.store
        # The folder's name holds the fingerprint, so shards of other inputs are never taken up.
        work = store.work_path(self.graph.pipeline.repo(self._stage(job), config), job.inputs.fingerprint)
        work.mkdir(parents=True, exist_ok=True)
        # Stages without a model need no torch.
        if self._stage(job).kind == "model" or job.inputs.models:
            set_threads(config.threads)
        return Context(config, store, job.node.round, job.inputs.parents, job.inputs.models, work, self.loaded)

    def _training(self, job: _Job) -> tuple[Stage, Context[Settings], Path]:
        """Return the arguments of `train`, all of which can be pickled."""
        stage, context = self._stage(job), self._context(job)
        self.began[job.node] = time.monotonic()
        # That something is made anew needs a reason, that it is made none.
        log.info("%s: training%s", stage.name, "" if job.reason == "missing" else f", {job.reason}")
        return stage, context, context.work / "model"

    def _build(self, job: _Job) -> None:
        """Build a job in this process, from start to revision."""
        stage = self._stage(job)
        if stage.kind == "model":
            self.loaded.keep(())  # training needs the memory, the workers' too
            if self.executor is not None:
                self.executor.end_workers()
            self._finish_model(job, self._train(job))
            return
        # Models of earlier stages make room for this stage's.
        self.loaded.keep(job.inputs.models.values())
        self.began[job.node] = time.monotonic()
        # Only now is a dataset from outside fetched: what is fresh needs none.
        job = replace(job, inputs=with_source(job.inputs, self.graph.store))
        context = replace(self._context(job), executor=self.executor)
        paths = build_shards(stage, context)
        revision = add_dataset(self.graph, job.node, job.inputs, context.work, paths)
        self._done(job, revision, context.work, *(stage.scratch(context) if stage.scratch else ()))

    def _train(self, job: _Job) -> Trained:
        """Run a training in this process, or in several beside it that train together."""
        processes = self.graph.config.nproc
        if processes == 1 or not self._stage(job).together:
            return train(*self._training(job))
        held = [] if self.lock is None else [self.lock]
        return run_together(processes, train_as_one_of, processes, *self._training(job), held=held)

    def _finish_model(self, job: _Job, trained: Trained) -> None:
        """Add a trained model to the store; under torchrun every process but the first ends here."""
        if not first_process():
            raise SystemExit(0)  # of several processes the first one writes to the store
        context = self._context(job)
        revision = add_model(self.graph, job.node, job.inputs, context.work / "model", trained)
        log.info("%s: trained in %.0f s", job.node.stage, time.monotonic() - self.began[job.node])
        self._done(job, revision, context.work)

    def _done(self, job: _Job, revision: Revision, *scratch: Path) -> None:
        """Delete a finished job's working folders and record its revision."""
        for folder in scratch:
            shutil.rmtree(folder, ignore_errors=True)
        self.made[job.node] = revision
        seconds = time.monotonic() - self.began[job.node]
        self.results.append(StageResult(job.node.stage, job.node.round, revision, True, job.reason, seconds))
