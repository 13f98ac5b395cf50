"""Making what a build needs and nobody else makes: the generated world and the first policy."""

import sys
from collections.abc import Sequence
from pathlib import Path

from builders.core.models import WORLD_PREFIX, world_folder
from builders.core.stage import Stage
from builders.settings.load import Config
from builders.store.store import Store


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
    from training.world.models import prepare_world as make_world

    store = Store(Path(config.store))
    with store.lock():
        make_world(world_folder(config, store), config.world.seed, log)


def prepare_texts(config: Config) -> None:
    """Make the generated world's seed documents alone, which takes a second."""
    if config.world is None:
        return
    from training.world.models import write_texts

    store = Store(Path(config.store))
    with store.lock():
        write_texts(world_folder(config, store), config.world.seed)


def prepare(config: Config, stages: Sequence[Stage], round_: int) -> None:
    """Make what these stages need: the world's texts or models, and the first policy where one samples from it."""
    roles = {role for stage in stages for role in stage.roles}
    if not roles:
        if config.seed.source.startswith(WORLD_PREFIX) and any(stage.parent is None for stage in stages):
            prepare_texts(config)
        return
    prepare_world(config)
    if "policy" in roles and round_ == 1:
        prepare_policy(config)


def prepare_policy(config: Config) -> None:
    """Make the first policy, and the world it comes from, where they are missing or stale."""
    set_threads(config)
    if config.models.policy == "sft":
        from training.kto.stage import train_sft

        prepare_world(config)
        train_sft(config)
    elif config.models.policy.startswith(WORLD_PREFIX):
        prepare_world(config)
