"""Workers that are processes of this machine: they end with the process that started them and hold its locks."""

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import IO, Any

from builders.executors.handing import Worker
from builders.executors.processes import Held, end_with_parent, without_ctrl_c
from builders.executors.worker import LOST, Message, serve
from builders.settings.base import ExecutorSettings
from scorers.errors import UserError

GPUS = "CUDA_VISIBLE_DEVICES"
LOOK = 1.0
"""Seconds after which a worker that says nothing is looked after: a child of its own may keep the connection open."""
GRACE = 10.0
"""Seconds that an idle worker has to release its models and end."""


@contextlib.contextmanager
def process_team(settings: ExecutorSettings, held: Sequence[IO[Any]] = ()) -> "Iterator[ProcessTeam]":
    """Open a team of processes.

    Args:
        settings: the section `executor`; `workers` is set.
        held: open files whose locks the workers hold too.

    Raises:
        UserError: this machine has fewer GPUs than the workers need.
    """
    most = settings.workers or 1
    yield ProcessTeam(most, shares(visible_gpus(), most, settings.gpus), held)


@dataclass(eq=False)
class ProcessWorker(Worker):
    """A process and this end of the connection to it."""

    process: BaseProcess
    connection: Connection


class ProcessTeam:
    """Starts processes and carries messages to and from them; see `Team`.

    Args:
        most: how many there may be.
        gpus: the GPUs that each sees, as `CUDA_VISIBLE_DEVICES` has them.
        held: open files whose locks they hold too.
    """

    def __init__(self, most: int, gpus: Sequence[str], held: Sequence[IO[Any]]) -> None:
        self.most = most
        self._gpus, self._held = gpus, held

    def start(self, place: int) -> ProcessWorker:
        """Start a process."""
        # spawn: a forked child of a process that has used torch's threads may hang.
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        values = (theirs, os.getpid(), [Held(file) for file in self._held], self._gpus[place])
        # Not a daemon, which may have no children, as vLLM's engine has.
        process = context.Process(target=_work, args=values, name=f"worker {place}")
        with without_ctrl_c():
            process.start()
        theirs.close()  # so that the connection ends with the process
        return ProcessWorker(place, process, ours)

    def send(self, worker: Worker, message: object) -> None:
        """Send a message; that the process has ended is told by `receive`."""
        with contextlib.suppress(OSError):
            _of(worker).connection.send(message)

    def receive(self, workers: Sequence[Worker]) -> tuple[Worker, Message]:
        """Wait for a message from any of the processes, or for the end of one."""
        ours = [_of(worker) for worker in workers]
        while True:
            ready = wait([end for worker in ours for end in (worker.connection, worker.process.sentinel)], LOOK)
            for worker in ours:
                # What it has said is heard before its end is.
                if worker.connection in ready:
                    with contextlib.suppress(OSError, EOFError):
                        message: Message = worker.connection.recv()
                        return worker, message
                if worker.process.exitcode is not None:
                    return worker, (LOST, _reason(worker.process.exitcode))

    def end(self, workers: Sequence[Worker]) -> None:
        """End processes: one without a task by itself, the others at once, with the processes that they started."""
        ours = [_of(worker) for worker in workers]
        for worker in ours:
            if worker.task is None:
                self.send(worker, None)
            else:
                _kill(worker.process)
        for worker in ours:
            worker.process.join(GRACE)
            _kill(worker.process)
            worker.process.join()
            worker.connection.close()


def _of(worker: Worker) -> ProcessWorker:
    """Return a worker as one of this team's, which are all that it is given."""
    if not isinstance(worker, ProcessWorker):
        raise TypeError(f"{worker} is of another team")
    return worker


def _work(connection: Connection, parent: int, held: Sequence[object], gpus: str | None) -> None:
    """Work in a new process until its parent says that there is no more, or ends.

    Args:
        connection: to the parent.
        parent: process id of the parent.
        held: what pickling `Held` left.
        gpus: the GPUs that it sees; None for all.
    """
    # A group of its own, which vLLM's processes belong to as well: all of them can be ended at once.
    os.setpgid(0, 0)
    end_with_parent(parent, held)
    if gpus is not None:
        os.environ[GPUS] = gpus  # before torch looks for GPUs
    with contextlib.suppress(EOFError):  # the parent has ended
        serve(connection.recv, connection.send)


def _kill(process: BaseProcess) -> None:
    """End a process and its children, if it has not ended."""
    if process.pid is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()  # where it had no group of its own yet


def _reason(exitcode: int) -> str:
    """Return in words how a process ended."""
    if exitcode == -signal.SIGKILL:
        return "signal SIGKILL, as when memory runs out"
    return f"signal {signal.Signals(-exitcode).name}" if exitcode < 0 else f"exit status {exitcode}"


def visible_gpus() -> list[str]:
    """List the GPUs that this process sees, as `CUDA_VISIBLE_DEVICES` names them."""
    named = os.environ.get(GPUS)
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]
    if find_spec("torch") is None:
        return []
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def shares(visible: Sequence[str], workers: int, each: float | None) -> list[str]:
    """Divide GPUs among workers.

    Args:
        visible: the names of the GPUs.
        workers: number of workers.
        each: GPUs of each worker; below 1 several share one; None for one, or none where there are none.

    Returns:
        Per worker the names of its GPUs, divided by commas.

    Raises:
        UserError: there are too few.

    >>> shares(["4", "5", "6", "7"], 2, 2), shares(["0"], 2, 0.5), shares([], 2, None)
    (['4,5', '6,7'], ['0', '0'], ['', ''])
    """
    share = float(bool(visible)) if each is None else each
    together = int(1 / share) if 0 < share < 1 else 1  # workers of one GPU
    needed = -(-workers // together) if 0 < share < 1 else int(share) * workers
    if needed > len(visible):
        raise UserError(
            f"executor: {workers} workers with {share:g} GPU each need {needed}, and this machine has {len(visible)}; "
            "lower executor.workers (--workers), or set executor.gpus to a share such as 0.5"
        )
    if 0 < share < 1:
        return [visible[place // together] for place in range(workers)]
    size = int(share)
    return [",".join(visible[place * size : (place + 1) * size]) for place in range(workers)]
