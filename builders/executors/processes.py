"""Work in processes of its own, which end with the process that started them, however that ends."""

import ctypes
import os
import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

_PR_SET_PDEATHSIG = 1  # prctl(2)


def process_pool(workers: int) -> ProcessPoolExecutor:
    """A pool of fresh processes; a task is a function and plain values, as pickle takes them."""
    # spawn: a forked child of a process that has used torch's threads may hang.
    return ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=end_with_parent, initargs=(os.getpid(),)
    )


def end_with_parent(parent: int) -> None:
    """Ask the system to end this process when its parent ends, even by SIGKILL (Linux; elsewhere nothing happens)."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the request was made
        os._exit(1)
