"""The learning-rate schedule: one linear warm-up and one cosine over all rounds (DESIGN, semi-online)."""

import math


def learning_rate_factor(step: int, warmup_steps: int, total_steps: int, floor: float) -> float:
    """Share of the peak learning rate at an optimizer step.

    Args:
        step: steps done before this one, from 0.
        warmup_steps: steps of the linear rise from 0 to 1.
        total_steps: steps of the whole schedule.
        floor: the share that is reached at `total_steps`, 0 to 1, and kept afterwards.

    Returns:
        A factor in [0, 1].
    """
    if step < warmup_steps:
        return step / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
