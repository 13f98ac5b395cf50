"""One optimizer batch: its device batches, what its loss is divided by, and the sums behind a log line.

This module imports torch, so import it inside functions.
"""

from dataclasses import dataclass
from typing import Any

import torch  # noqa: TID253


@dataclass
class OptimizerBatch:
    """The quantities that are normalised over one optimizer batch.

    Attributes:
        samples: the device batches of this process, each with the column `counted` of `mark_counted`.
        rows: rows of the optimizer batch, over all processes.
        positive_tokens: completion tokens of its positive rows, over all processes.
        z_ref: scalar KL estimate in nats; None until the first device batch has needed it.
        sums: (7,) `device_sums` of this process's device batches so far, added up; None before the first.
        done: device batches behind `sums`.
    """

    samples: list[dict[str, Any]]
    rows: float
    positive_tokens: float
    z_ref: torch.Tensor | None = None
    sums: torch.Tensor | None = None
    done: int = 0

    def add(self, sums: torch.Tensor) -> bool:
        """Add the sums of one device batch; whether it was the last one."""
        self.sums = sums if self.sums is None else self.sums + sums
        self.done += 1
        return self.done == len(self.samples)


def optimizer_batch(samples: list[dict[str, Any]], accelerator: Any) -> OptimizerBatch:
    """Mark the rows of the device batches of one optimizer step and count them over all processes.

    Args:
        samples: device batches of this process from the collator; each gains `counted` (see `mark_counted`).
        accelerator: accelerate's, which knows the processes.
    """
    mark_counted(samples, accelerator)
    rows = sum(int(sample["counted"].sum()) for sample in samples)
    # Positive rows only. Column 0 is never predicted, so it counts nowhere.
    positive = [sample["completion_mask"][sample["label"] & sample["counted"], 1:] for sample in samples]
    tokens = sum(int(mask.sum()) for mask in positive)
    # float64: NCCL adds it up exactly, as float32 would not above 2**24 tokens.
    totals = torch.tensor([rows, tokens], dtype=torch.float64, device=accelerator.device)
    rows, tokens = accelerator.reduce(totals, reduction="sum").tolist()
    return OptimizerBatch(samples, rows, tokens)


def mark_counted(samples: list[dict[str, Any]], accelerator: Any) -> None:
    """Add `counted`, (B,) bool, to each device batch: False for a row that is there a second time.

    At the end of a dataset accelerate fills up the device batches of several processes with rows from its start. The
    column `position` numbers the rows in training order, and the k-th device batches of all processes follow one
    another, so the place of a row in the optimizer batch says which position it must have; a row with another one fills
    up.

    Args:
        samples: device batches of this process, in order; all processes have the same number of them.
        accelerator: accelerate's, which knows the processes.
    """
    if not samples:
        return
    # The first row of the first process is never a copy.
    first = int(accelerator.gather(samples[0]["position"][:1])[0])
    for sample in samples:
        found = sample["position"]
        at = first + accelerator.process_index * len(found)
        sample["counted"] = found == torch.arange(at, at + len(found), device=found.device)
        first += accelerator.num_processes * len(found)


def device_sums(
    labels: torch.Tensor,
    counted: torch.Tensor,
    rewards: torch.Tensor,
    policy: torch.Tensor,
    cross_entropy: torch.Tensor,
) -> torch.Tensor:
    """Sum what a log line averages, over the rows of one device batch.

    Args:
        labels: (B,) bool.
        counted: (B,) bool, False for rows that are left out.
        rewards: (B,) β·(log π_θ − log π_ref), in nats.
        policy: (B,) log π_θ of each completion, in nats.
        cross_entropy: scalar, this device batch's share of the optimizer batch's mean in nats per token.

    Returns:
        (7,) float64: count, rewards and log-probabilities of positive, then of negative rows; the cross-entropy.
    """
    sums = []
    for chosen in (labels & counted, ~labels & counted):
        sums += [chosen.sum(), rewards[chosen].sum(), policy[chosen].sum()]
    sums.append(cross_entropy)
    return torch.stack([value.detach().double() for value in sums])


def logged_means(totals: list[float]) -> dict[str, float]:
    """The means of a log line from `device_sums` added up over device batches and processes.

    Returns:
        cross_entropy; rewards/chosen, logps/chosen, rewards/rejected, logps/rejected: means over the positive (chosen)
        and the negative (rejected) rows, absent where there is no such row.
    """
    means = {"cross_entropy": totals[6]}
    for name, (count, reward, logps) in (("chosen", totals[:3]), ("rejected", totals[3:6])):
        if count:
            means |= {f"rewards/{name}": reward / count, f"logps/{name}": logps / count}
    return means
