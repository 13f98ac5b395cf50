"""Worker processes that end with the process that started them, even if that is killed."""

import ctypes
import os
import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

_PR_SET_PDEATHSIG = 1  # prctl(2)


def process_pool(workers: int) -> ProcessPoolExecutor:
    """Return a pool of fresh processes; a task is a function and values that pickle takes."""
    # spawn: a forked child of a process that has used torch's threads may hang.
    return ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=end_with_parent, initargs=(os.getpid(),)
    )


def end_with_parent(parent: int) -> None:
    """Ask the system to end this process when its parent ends, even by SIGKILL.

    This is a feature of Linux; elsewhere nothing happens.

    Args:
        parent: process id of the parent.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent ended before prctl was called
        os._exit(1)
