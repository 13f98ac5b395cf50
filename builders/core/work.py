"""The units of work, one shard of a dataset or one training, as functions of plain values that any executor can run.

The finished shard file is the marker of resume: a rerun checks the shards that exist and makes the others.
"""

import os
import shutil
from pathlib import Path
from typing import Any

from builders.core.console import Progress, quiet_libraries
from builders.core.models import set_threads
from builders.core.stage import Context, Shard, Stage, Trained
from builders.settings.base import Settings
from builders.store.columns import check_frame
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
    return stage.train(context, output)


def train_apart(stage: Stage, context: Context[Settings], output: Path) -> Trained:
    """Run `train` in a worker process, which has torch's default number of threads and loud libraries at first."""
    quiet_libraries()
    set_threads(context.config.threads)
    return train(stage, context, output)


def build_shards(stage: Stage, context: Context[Settings]) -> list[Path]:
    """Build the shards of a dataset that are missing or damaged, and return the paths of all, in order."""
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
            # Every random draw comes from a hash of what is drawn, so a shard made later has the same bytes.
            whole = shard_is_whole(path)
            if not whole:
                _forget_following(stage, context.work, shard)
                build_shard(stage, context, shard)
            # Shards of an earlier run count as rows, not in the rate of tokens.
            progress.advance(shard_rows(path), 0 if whole else shard_counts(path).get("tokens", 0))
    return [shard_path(context.work, shard) for shard in shards]


def shard_path(work: Path, shard: Shard) -> Path:
    """Return the path of a finished shard in the working folder."""
    return work / f"shard-{shard.index:05d}.parquet"


def _forget_following(stage: Stage, work: Path, shard: Shard) -> None:
    """In a sequential stage, delete a shard that is built again and all later ones, made from it."""
    if not stage.sequential:
        return
    for path in work.glob("shard-*.parquet"):
        # The numbers are zero-padded: names compare as indices do.
        if path.name >= shard_path(work, shard).name:
            path.unlink()


def build_shard(stage: Stage, context: Context[Any], shard: Shard) -> Path:
    """Build one shard and write its file: the unit of work that any executor can run.

    The arguments can be pickled; models are loaded in the process that does the work.

    Raises:
        UserError: for a null, NaN or infinite value where the stage's columns allow none.
        TypeError: for a stage without `build`, or rows whose columns are not the stage's.
    """
    if stage.build is None:
        raise TypeError(f"stage {stage.name} is a dataset stage without a build")
    result = stage.build(context, shard)
    # Checked before it is written: a faulty shard never becomes a marker of resume.
    check_frame(result.frame, stage.columns, f"stage {stage.name}, shard {shard.index}")
    path = shard_path(context.work, shard)
    write_shard(result.frame, stage.columns, path, result.counts)
    return path
