"""The learning-rate schedule: one linear warm-up and one cosine over all rounds (GRACE-KTO, §3.5)."""

import math


def learning_rate_factor(step: int, warmup_steps: int, total_steps: int, floor: float) -> float:
    """The share of the peak learning rate at an optimizer step.

    Args:
        step: steps done before this one, from 0.
        warmup_steps: steps of the linear rise from 0 to 1.
        total_steps: steps of the whole schedule.
        floor: the share reached at `total_steps` and kept afterwards, in [0, 1].

    Returns:
        A factor in [0, 1].
    """
    if step < warmup_steps:
        return step / warmup_steps
    # 0 at the end of the warm-up, 1 at the end of the schedule; never a division by 0 where the warm-up fills it.
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
