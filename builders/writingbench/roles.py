"""Which model fills each role of WritingBench, from the configuration."""

from collections.abc import Sequence

from builders.writingbench.settings import WritingBenchSettings


def teacher(config: WritingBenchSettings, round_: int) -> str:
    """The model that writes requests, material and criteria."""
    return config.models.teacher


def policies(config: WritingBenchSettings, round_: int) -> Sequence[str]:
    """The models that respond."""
    return config.models.policies


def judge(config: WritingBenchSettings, round_: int) -> str:
    """The model that rates responses."""
    return config.models.judge


def base(config: WritingBenchSettings, round_: int) -> str:
    """The model that the writer's training starts from."""
    return config.models.base


def critic(config: WritingBenchSettings, round_: int) -> str:
    """The model that the critic's training starts from."""
    return config.models.critic
