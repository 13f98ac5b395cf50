"""The units of work, one shard of a dataset or one training, as functions of plain values that any executor can run.

The finished shard file is the marker of resume: a rerun checks the shards that exist and makes the others.
"""

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from builders.core.asking import answered
from builders.core.console import Progress, quiet_libraries
from builders.core.machine import require_engine
from builders.core.models import Loaded, LocalModel, set_threads
from builders.core.shared import Mark, await_seen, mark, require_shared
from builders.core.stage import Asks, Context, Shard, Stage, Step, Trained
from builders.settings.base import Settings
from builders.store.columns import check_frame, present
from builders.store.files import naming_full_disk
from builders.store.shards import shard_counts, shard_is_whole, shard_rows, write_shard
from scorers.errors import UserError

MAX_SHARDS = 10_000  # the Hub takes no more entries in one folder


def first_process() -> bool:
    """Whether this is the only process, or the first of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def train(stage: Stage, context: Context[Settings], output: Path) -> Trained:
    """Run a model stage's training, which writes the model into the folder `output`."""
    if stage.train is None:
        raise TypeError(f"stage {stage.name} is a model stage without a training")
    if first_process():
        shutil.rmtree(output, ignore_errors=True)  # what a killed run left; checkpoints lie elsewhere
    with naming_full_disk(output.parent):
        return stage.train(context, output)


def train_apart(stage: Stage, context: Context[Settings], output: Path) -> Trained:
    """Run `train` in a worker process, which has torch's default number of threads and loud libraries at first."""
    quiet_libraries()
    set_threads(context.config.threads)
    return train(stage, context, output)


def train_as_one_of(processes: int, stage: Stage, context: Context[Settings], output: Path) -> Trained:
    """Run `train` in one of several processes that train together; without `threads` they share the cores."""
    import torch

    torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    trained = train_apart(stage, context, output)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return trained


def build_shards(stage: Stage, context: Context[Any]) -> list[Path]:
    """Build the shards of a dataset that are missing or damaged, and return the paths of all, in order."""
    if stage.plan is None:
        raise TypeError(f"stage {stage.name} is a dataset stage without a plan")
    shards = stage.plan(context)
    if not 1 <= len(shards) < MAX_SHARDS:
        raise UserError(
            f"stage {stage.name}: {len(shards)} shards; between 1 and {MAX_SHARDS - 1} are possible: "
            "leave out the settings named shard_rows or shard_queries, which set their size; or look at its parent"
        )
    if len({shard.index for shard in shards}) < len(shards):
        raise ValueError(f"stage {stage.name}: its plan gives two shards the same index, and so the same file")
    return build_missing(stage, context, shards)


def build_missing(step: Stage | Step, context: Context[Any], shards: Sequence[Shard]) -> list[Path]:
    """Build those of the shards whose files are missing or damaged, and return the paths of all, in order.

    No shard reads another's file, so they may be built in any order and by any number of processes.
    """
    paths = [shard_path(context.work, shard) for shard in shards]
    context.work.mkdir(parents=True, exist_ok=True)
    with Progress(step.name, len(shards)) as progress:
        missing = []
        for shard, path in zip(shards, paths, strict=True):
            # Every random draw comes from a hash of what is drawn, so a shard made later has the same bytes.
            if shard_is_whole(path):
                progress.advance(shard_rows(path), 0)  # shards of an earlier run do not count in the rate of tokens
            else:
                missing.append(shard)
        build = build_each if context.executor is None else build_apart
        for path in build(step, context, missing):
            progress.advance(shard_rows(path), shard_counts(path).get("tokens", 0))
    return paths


def build_each(step: Stage | Step, context: Context[Any], shards: Iterable[Shard]) -> Iterator[Path]:
    """Build shards and write their files, and yield the path of each one once it is there, in any order.

    Raises:
        UserError: for a null, NaN or infinite value where the columns allow none.
        TypeError: for a stage without `build`, or rows whose columns are not the stage's.
    """
    build = step.build
    if build is None:
        raise TypeError(f"stage {step.name} is a dataset stage without a build")
    if isinstance(build, Asks):
        built = answered(build, context, shards)
    else:
        built = ((shard, build(context, shard)) for shard in shards)
    for shard, result in built:
        # Checked before it is written: a faulty shard never becomes a marker of resume.
        check_frame(result.frame, step.columns, f"stage {step.name}, shard {shard.index}")
        path = shard_path(context.work, shard)
        write_shard(result.frame, present(step.columns, result.frame.columns), path, result.counts)
        yield path


def build_apart(step: Stage | Step, context: Context[Any], shards: Sequence[Shard]) -> Iterator[Path]:
    """Let the workers of the context's executor build shards, and yield the path of each one once it is there.

    Raises:
        UserError: as `build_each`; a worker does not see the store; a shard costs too many workers.
    """
    executor, build = context.executor, step.build
    if executor is None or build is None:
        raise TypeError(f"stage {step.name} has no build, or its context no executor")
    # Of a stage no more travels than its shards need.
    plain = Step(step.name, step.columns, build)
    task = partial(build_handed, plain, replace(context, executor=None), _threads(context), mark(context.work))
    by_index = {shard.index: shard for shard in shards}
    for index in executor.each(task, by_index, f"stage {step.name}"):
        path = shard_path(context.work, by_index[index])
        await_seen(path)
        yield path


def _threads(context: Context[Any]) -> int | None:
    """Return the number of torch's threads in this process; None where the stage has no model and needs no torch.

    Bits depend on it, and workers would have another one: by their machine, or by the cores that Ray sets aside.
    """
    if not context.models:
        return None
    import torch

    set_threads(context.config.threads)
    return torch.get_num_threads()


_LOADED = Loaded()
"""Models of a worker process, which live on from shard to shard and from stage to stage."""


def build_handed(
    step: Step, context: Context[Any], threads: int | None, made: Mark, shards: Iterator[Shard]
) -> Iterator[int]:
    """Build the shards that an executor hands to this worker process, and yield the index of each one.

    Args:
        step: what is built.
        context: as the process that started the worker has it, without its models.
        threads: threads of torch; None where there is no model.
        made: the mark of the working folder.
        shards: asks the executor for the next shard.

    Raises:
        UserError: as `build_each`; this machine does not see the working folder, a parent or a model, or this worker
            not the GPUs that the engine needs.
    """
    models = [model for model in context.models.values() if isinstance(model, LocalModel)]
    folders = [model.path for model in models] + [model.adapter for model in models if model.adapter is not None]
    require_shared(made, [*(revision.path for revision in context.inputs.values()), *folders])
    quiet_libraries()
    set_threads(threads)
    if isinstance(step.build, Asks):  # the GPUs of a worker are not those of the process that started it
        settings, setting = context.engine_settings(step.build.role)
        require_engine(setting, settings)
    _LOADED.keep(context.models.values())
    for path in build_each(step, replace(context, loaded=_LOADED), shards):
        yield shard_index(path)


def shard_path(work: Path, shard: Shard) -> Path:
    """Return the path of a finished shard in the working folder."""
    return work / f"shard-{shard.index:05d}.parquet"


def shard_index(path: Path) -> int:
    """Return the index of a finished shard by its path."""
    return int(path.stem.rpartition("-")[2])


def finished_shards(work: Path) -> dict[int, Path]:
    """Return the finished shards in a working folder by their index, in order."""
    found = {shard_index(path): path for path in work.glob("shard-*.parquet") if shard_is_whole(path)}
    return dict(sorted(found.items()))


def build_shard(step: Stage | Step, context: Context[Any], shard: Shard) -> Path:
    """Build one shard and write its file: the unit of work that any executor can run.

    The arguments can be pickled; models are loaded in the process that does the work.

    Raises:
        UserError: as `build_each`.
        TypeError: as `build_each`.
    """
    return next(build_each(step, context, [shard]))
