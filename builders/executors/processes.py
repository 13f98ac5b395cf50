"""Worker processes that end with the process that started them, even if it is killed, and hold its locks until then."""

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import active_children, get_context, parent_process, resource_tracker
from multiprocessing.reduction import DupFd
from typing import IO, Any, TypeVar

T = TypeVar("T")
_PR_SET_PDEATHSIG = 1  # prctl(2)


class Held:
    """An open file that a worker process holds open too, and with it the lock on the file, until the worker ends."""

    def __init__(self, file: IO[Any]) -> None:
        self._file = file

    def __reduce__(self) -> tuple[Any, ...]:
        # The worker inherits the descriptor and never closes it.
        return _detached, (DupFd(self._file.fileno()),)


def _detached(duplicate: Any) -> int:
    """Return the inherited descriptor of a file."""
    descriptor: int = duplicate.detach()
    return descriptor


@contextlib.contextmanager
def process_pool(workers: int, held: Sequence[IO[Any]] = ()) -> Iterator[ProcessPoolExecutor]:
    """Open a pool of fresh processes; a task is a function and values that pickle takes, see `submit`.

    Where the work ends by an error or an interruption, the processes are ended at once: nobody waits for their results.

    Args:
        workers: number of processes.
        held: open files whose locks the workers hold too: a new run must not begin before they have ended.
    """
    # spawn: a forked child of a process that has used torch's threads may hang.
    with ProcessPoolExecutor(
        workers,
        mp_context=get_context("spawn"),
        initializer=end_with_parent,
        initargs=(os.getpid(), [Held(file) for file in held]),
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
    with without_ctrl_c():
        return pool.submit(task, *values)


@contextlib.contextmanager
def without_ctrl_c() -> Iterator[None]:
    """Let Ctrl-C not reach the processes that are started in this block; pressed meanwhile, it is met after it here."""
    resource_tracker.ensure_running()  # its start would let the signal through
    # A process inherits what the thread that starts it holds back.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent(parent: int, held: Sequence[object] = ()) -> None:
    """Let this process end when its parent ends, even by SIGKILL.

    Args:
        parent: process id of the parent.
        held: what pickling `Held` left; the files stay open because nobody closes them.
    """
    threading.Thread(target=_watch, daemon=True).start()
    if sys.platform == "linux":
        # At once, and also while this process computes without letting another thread run.
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent ended before prctl was called
            os._exit(1)


def _watch() -> None:
    """End this process when its parent has ended, which closes a pipe between them."""
    found = parent_process()
    if found is not None:
        found.join()
        os._exit(1)
