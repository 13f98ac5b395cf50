"""Making what a build needs and nobody else makes: the generated world and the first policy."""

import sys
from pathlib import Path

from builders.config import Config
from builders.models import ModelNotReady, policy_model, world_folder
from builders.store import Store


def log(line: str) -> None:
    """A line of progress on stderr."""
    print(line, file=sys.stderr, flush=True)


def set_threads(config: Config) -> None:
    """Give torch the configured number of threads; results are bit for bit the same only for equal numbers."""
    if config.threads is not None:
        import torch

        torch.set_num_threads(config.threads)


def prepare_world(config: Config) -> None:
    """Make the generated world's texts and models, if the configuration uses one and it is not there."""
    set_threads(config)
    if config.world is None:
        return
    from training.world_models import prepare_world as make_world

    store = Store(Path(config.store))
    with store.lock():
        make_world(world_folder(config, store), config.world.seed, log)


def prepare(config: Config, stage: str, round_: int) -> None:
    """Make the world, and train the first policy where a stage up to this one samples from it."""
    prepare_world(config)
    if stage == "seed" or round_ > 1 or config.models.policy != "sft":
        return
    try:
        policy_model(config, Store(Path(config.store)), round_)
    except ModelNotReady:
        from training.stages import train_sft

        log("first policy: supervised fine-tuning on the seed documents")
        train_sft(config)
