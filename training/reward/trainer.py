"""TRL's `RewardTrainer`, which sends nothing and draws its rows as the other trainings do.

This module imports torch and TRL, so import it inside functions.
"""

from trl import RewardTrainer  # noqa: TID253


class PreferenceTrainer(RewardTrainer):  # type: ignore[misc]
    """The loss −log σ(r(winner) − r(loser)), averaged over the pairs of a batch (RationAlign, §3.2.1)."""

    def _send_telemetry(self) -> None:
        """Send nothing; TRL would report the trainer, the model's architecture and the hardware."""
