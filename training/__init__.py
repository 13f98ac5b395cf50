"""Training and whole pipelines: the weighted KTO trainer, its loss, and building any stage from Python."""

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
    """Import a public name when it is first asked for; torch and TRL load with the trainer alone."""
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
