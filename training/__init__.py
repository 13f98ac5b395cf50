"""Training and whole pipelines: the weighted KTO trainer, its loss, and functions that build any stage from Python.

    from training import build, load_config

    results = build(load_config("tiny"), "calibrate")

Importing the package loads nothing heavy: each public name is imported from its module on first use.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.kto.config import GraceKTOConfig
    from training.kto.loss import grace_kto_loss
    from training.kto.trainer import GraceKTOTrainer
    from training.loop import run_loop
    from training.pipelines import PIPELINES, build, evaluate_policies, load_config, plan

__all__ = [
    "PIPELINES",
    "GraceKTOConfig",
    "GraceKTOTrainer",
    "build",
    "evaluate_policies",
    "grace_kto_loss",
    "load_config",
    "plan",
    "run_loop",
]

# The module that defines each public name; one entry for every name of `__all__`.
_HOME = {
    "GraceKTOConfig": "training.kto.config",
    "GraceKTOTrainer": "training.kto.trainer",
    "PIPELINES": "training.pipelines",
    "build": "training.pipelines",
    "evaluate_policies": "training.pipelines",
    "grace_kto_loss": "training.kto.loss",
    "load_config": "training.pipelines",
    "plan": "training.pipelines",
    "run_loop": "training.loop",
}


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562); torch and TRL load with the names that need them.

    Raises:
        AttributeError: the package has no such public name.
    """
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
