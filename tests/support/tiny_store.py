"""A store with the generated world and its first policy, built once by the product itself and copied for each test.

It lies in .grace/test-store of the checkout; a later test run reuses every revision that is still fresh. Its models are
trained for fewer steps than the demo's: they answer in the form, and how well does not matter here.
"""

import fcntl
import shutil
from functools import partial
from pathlib import Path

from builders.grace_kto.settings import GraceKTOSettings
from training.pipelines import load_config

ROOT = Path(__file__).parents[2] / ".grace" / "test-store"
SMALL = (
    "generate.queries=8", "generate.shard_queries=4", "sample.responses=4", "sample.shard_queries=2", "sft.steps=250",
)  # fmt: skip
SMALL_LOOP = (
    *SMALL,
    "loop.rounds=2",
    "loop.held_out=4",
    "loop.min_matched=0",
    "train.batch_size=8",
    "train.device_batch_size=8",
    "train.save_steps=1",
)
STEPS = {
    "models.train_base": 200,
    "models.train_general": 60,
    "models.train_domain": 20,
    "relevance.train_relevance": 30,
}


def prepared_store() -> Path:
    """The shared store; the first process to ask makes it, others wait."""
    ROOT.mkdir(parents=True, exist_ok=True)
    with (ROOT.parent / "test-store.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        make_store(ROOT)
    return ROOT


def make_store(root: Path) -> None:
    """Make what is missing in the shared store, in this process."""
    import training.world.models
    import training.world.relevance
    from training.grace_kto.evaluate import evaluation_models

    for name, steps in STEPS.items():
        module, function = name.split(".")
        target = getattr(training.world, module)
        setattr(target, function, partial(getattr(target, function), steps=steps))
    evaluation_models(load_config("tiny", [*SMALL, "workers=1"], str(root)))


def copy_store(target: Path) -> Path:
    """A copy of the shared store to work in."""
    shutil.copytree(prepared_store(), target, symlinks=True)
    return target


def small_config(store: Path, *overrides: str) -> GraceKTOSettings:
    """The tiny preset with two rounds of 32 rows."""
    config: GraceKTOSettings = load_config("tiny", [*SMALL_LOOP, *overrides], str(store))
    return config
