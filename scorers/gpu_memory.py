"""What to do where a GPU's memory runs out: work once more in batches of half the size, and say so."""

import contextlib
import gc
import logging
from collections.abc import Callable
from typing import TypeVar

from scorers.errors import UserError

T = TypeVar("T")
log = logging.getLogger(__name__)


class BatchSize:
    """The largest size of a batch, which is halved once where the GPU's memory runs out.

    Args:
        size: in the unit of the setting, such as rows or tokens; at least 1.
        setting: path of the setting that it comes from, for messages.
        divides: what it has to divide, such as the rows of an optimizer step; None: nothing.
        alone: whether this process works alone; the batches of several have to stay equal.

    Attributes:
        size: the size in force.
    """

    def __init__(self, size: int, setting: str, *, divides: int | None = None, alone: bool = True) -> None:
        self.size = size
        self._setting = setting
        self._divides = divides
        self._fixed = not alone

    def fitting(self, work: Callable[[int], T]) -> T:
        """Return what `work` returns for the size in force; if the memory does not suffice, for half of it.

        Args:
            work: takes the size; may be called twice, the second time from the start.

        Raises:
            UserError: the memory runs out although the size has been halved, is 1, or must stay.
        """
        import torch

        with contextlib.suppress(torch.OutOfMemoryError):
            return work(self.size)
        # Not before the error has gone with its traceback are the tensors of the failed attempt free.
        gc.collect()
        torch.cuda.empty_cache()
        half = self._half()
        if self._fixed or self.size == 1:
            raise UserError(
                f"the GPU's memory ran out with {self._setting} {self.size}; "
                + (f"set it to {half}, or " if self.size > 1 else "")
                + "end what else runs on this GPU, or take a smaller model or shorter texts"
            )
        log.warning(
            "the GPU's memory ran out with %s %d: once more with %d; set it to that number to spare the attempt",
            self._setting, self.size, half,
        )  # fmt: skip
        self.size, self._fixed = half, True
        return self.fitting(work)

    def _half(self) -> int:
        """Return half of the size, or the largest number below it that divides what it has to."""
        half = max(self.size // 2, 1)
        return half if self._divides is None else max(n for n in range(1, half + 1) if self._divides % n == 0)
