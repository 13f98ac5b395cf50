"""How many processes train a model together, and how an optimizer batch is shared among them."""

import os

from scorers.errors import UserError


def process_count() -> int:
    """Number of processes that train together, as torchrun or `nproc` started them; 1 without either."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def share_batch(section: str, batch_size: int, device_batch_size: int | None, processes: int) -> tuple[int, int]:
    """Rows per forward pass of one process, and forward passes per optimizer step.

    Args:
        section: `sft` or `train`, for the message.
        batch_size: rows of an optimizer batch, of all processes.
        device_batch_size: rows per forward pass of one process; None: as many as need no second pass.
        processes: processes that train together.

    Raises:
        UserError: they do not make up the optimizer batch.
    """
    rows = device_batch_size or max(1, batch_size // processes)
    if batch_size % (rows * processes):
        parts = [] if device_batch_size is None else [f"{section}.device_batch_size {rows}"]
        parts += [] if processes == 1 else [f"{processes} processes"]
        raise UserError(
            f"{section}.batch_size {batch_size} is not a multiple of {' times '.join(parts)}; change one of them"
        )
    return rows, batch_size // (rows * processes)
