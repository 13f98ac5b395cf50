"""Which model fills each role of RationAlign, from the configuration."""

from collections.abc import Sequence

from builders.rationalign.settings import FOLDS, RationAlignSettings


def teacher(config: RationAlignSettings, round_: int) -> str:
    """The model that explains edits."""
    return config.models.teacher


def base(config: RationAlignSettings, round_: int) -> str:
    """The model that fold models and the writing assistant start from."""
    return config.models.base


def reward(config: RationAlignSettings, round_: int) -> str:
    """The model that the reward model starts from."""
    return config.models.reward


def policy(config: RationAlignSettings, round_: int) -> str:
    """The writing assistant that samples and is aligned."""
    return config.models.policy


def folds(config: RationAlignSettings, round_: int) -> Sequence[str]:
    """The fold models, in the order of their folds."""
    return FOLDS[: config.pairs.folds]


def scorer(config: RationAlignSettings, round_: int) -> str:
    """The trained reward model."""
    return "reward"
