"""A store with the generated world and its first policy, built once by the product itself and copied for each test.

It lies in .grace/test-store of the checkout; a later test run reuses every revision that is still fresh.
"""

import fcntl
import shutil
from pathlib import Path

from builders.grace_kto.settings import GraceKTOSettings
from training.pipelines import load_config

ROOT = Path(__file__).parents[2] / ".grace" / "test-store"
SMALL = ("generate.queries=8", "generate.shard_queries=4", "sample.responses=4", "sample.shard_queries=2")
SMALL_LOOP = (*SMALL, "loop.rounds=2", "train.batch_size=8", "train.device_batch_size=8", "train.save_steps=1")


def prepared_store() -> Path:
    """The shared store; the first process to ask makes it, others wait."""
    from training.grace_kto.evaluate import evaluation_models

    ROOT.mkdir(parents=True, exist_ok=True)
    with (ROOT.parent / "test-store.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        evaluation_models(load_config("tiny", store=str(ROOT)))
    return ROOT


def copy_store(target: Path) -> Path:
    """A copy of the shared store to work in."""
    shutil.copytree(prepared_store(), target, symlinks=True)
    return target


def small_config(store: Path, *overrides: str) -> GraceKTOSettings:
    """The tiny preset with two rounds of 32 rows."""
    config: GraceKTOSettings = load_config("tiny", [*SMALL_LOOP, *overrides], str(store))
    return config
