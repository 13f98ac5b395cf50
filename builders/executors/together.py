"""Several processes of this machine that train one model together, with the variables that torchrun would give them."""

import os
import signal
import socket
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from typing import IO, Any, TypeVar

from builders.executors.processes import Held, end_with_parent, without_ctrl_c
from scorers.errors import UserError

T = TypeVar("T")


def run_together(processes: int, task: Callable[..., T], *values: Any, held: Sequence[IO[Any]] = ()) -> T:
    """Run a task in several fresh processes that find one another through torch.distributed.

    Where one of them fails or is killed, the others are ended; so are all where this process is interrupted or ends.

    Args:
        processes: their number.
        task: a function that pickle takes, which every one of them calls.
        values: its arguments.
        held: open files whose locks the processes hold too, see `process_pool`.

    Returns:
        What the first process returned.

    Raises:
        UserError: one process raised it.
        torch.multiprocessing.spawn.ProcessException: one process failed otherwise; its traceback is in the message.
    """
    from torch.multiprocessing.spawn import ProcessException, start_processes

    said = get_context("spawn").SimpleQueue()
    locks = [Held(file) for file in held]
    arguments = (processes, _free_port(), os.getpid(), locks, said, task, values)
    with without_ctrl_c():
        started = start_processes(  # type: ignore[no-untyped-call]
            _one, arguments, nprocs=processes, join=False, start_method="spawn"
        )
    try:
        while not started.join():  # False where some have ended and others work on
            continue
    except ProcessException:
        if not said.empty() and isinstance(error := said.get(), UserError):
            raise error from None
        raise
    finally:
        for process in started.processes:
            process.kill()
    result: T = said.get()
    return result


def _one(
    rank: int,
    processes: int,
    port: int,
    parent: int,
    held: Sequence[object],
    said: Any,
    task: Callable[..., Any],
    values: Sequence[Any],
) -> None:
    """Work as one of the processes; the first one hands over what the task returned, any one a user's mistake."""
    end_with_parent(parent, held)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    os.environ |= {name: str(value) for name, value in place.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        result = task(*values)
    except UserError as error:
        # The exit status alone ends the others, which may wait for this one.
        said.put(error)
        raise
    if rank == 0:
        said.put(result)


def _free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
