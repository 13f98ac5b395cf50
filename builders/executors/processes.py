"""Worker processes that end with the process that started them, even if that is killed."""

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import active_children, get_context
from typing import Any, TypeVar

T = TypeVar("T")
_PR_SET_PDEATHSIG = 1  # prctl(2)


@contextlib.contextmanager
def process_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Open a pool of fresh processes; a task is a function and values that pickle takes, see `submit`.

    Where the work ends by an error or an interruption, the processes are ended at once: nobody waits for their results.
    """
    # spawn: a forked child of a process that has used torch's threads may hang.
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=end_with_parent, initargs=(os.getpid(),)
    ) as pool:
        try:
            yield pool
        except BaseException:
            for process in active_children():
                process.kill()
            raise


def submit(pool: ProcessPoolExecutor, task: Callable[..., T], *values: Any) -> "Future[T]":
    """Hand a task to a pool whose processes leave Ctrl-C to this one, which ends them.

    A terminal sends it to all; each would print a traceback of its own.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread may change it
        return pool.submit(task, *values)
    # A process that is started while the signal is ignored ignores it too.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return pool.submit(task, *values)
    finally:
        signal.signal(signal.SIGINT, before)


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
