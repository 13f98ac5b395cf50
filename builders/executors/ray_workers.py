"""Workers that are actors of Ray, on a cluster or on a Ray that lives as long as the run.

Each runs what a worker process runs, in a thread: the executor calls `exchange` with its answer, and that returns the
worker's next message. So there is one call under way to each actor that has something to do, and a lost actor, or a
lost node, is a call that fails.
"""

import contextlib
import logging
import os
import queue
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from builders.executors.handing import Worker
from builders.executors.worker import DONE, LOST, Message, serve
from builders.settings.base import ExecutorSettings
from scorers.errors import UserError

CLUSTER = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Read by the processes that Ray starts: with 0 they use the loopback address."""
OBJECTS = 80 * 2**20
"""Bytes of shared memory of a Ray of the run's own: nothing but messages passes through it."""
REACH = 5.0
"""Seconds in which a cluster's address has to answer."""
LOOK = 1.0
"""Seconds between two looks at the actors, so that Ctrl-C is never far."""
GRACE = 10.0
"""Seconds to wait until actors have ended."""
SAID = 300
"""Characters of Ray's own message that are shown."""


@contextlib.contextmanager
def ray_team(settings: ExecutorSettings) -> "Iterator[RayTeam]":
    """Open a team of actors, on the cluster at `address` or on a Ray that ends with this block.

    A program that has joined a cluster already stays in it.

    Raises:
        UserError: the cluster cannot be reached, or has no node with what a worker needs.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    joined = not ray.is_initialized()
    # Ray prints what ails its processes to stdout, which is for results.
    with contextlib.redirect_stdout(sys.stderr):
        if joined:
            _join(settings)
        try:
            yield RayTeam(settings)
        finally:
            if joined:
                ray.shutdown()


def _join(settings: ExecutorSettings) -> None:
    """Join the cluster at `address`, or start a Ray of one's own.

    Raises:
        UserError: it cannot be reached.
    """
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = settings.address
    if address is None:
        # As many cores as the workers ask for, though the machine may have fewer: that is the user's choice.
        wanted = settings.workers and max(settings.workers * settings.cpus, os.cpu_count() or 1)
        options |= {"include_dashboard": False, "object_store_memory": OBJECTS, "num_cpus": wanted}
    elif address == "auto":
        address = os.environ.get("RAY_ADDRESS") or address  # as Ray itself reads it
    if address not in (None, "auto"):
        _require_reachable(str(address))
    try:
        with _loopback_alone() if address is None else contextlib.nullcontext():
            ray.init(address="local" if address is None else address, **options)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        said = " ".join(str(error).split())[:SAID]
        if address is None:
            raise UserError(f"executor: no Ray could be started on this machine: {said}") from error
        raise UserError(
            f"executor.address {address}: no Ray cluster was joined: {said}; run this on one of its nodes, `ray start` "
            "makes one, and without an address a Ray of this run's own is started"
        ) from error


@contextlib.contextmanager
def _loopback_alone() -> Iterator[None]:
    """Let the Ray that is started in this block listen on the loopback address alone.

    Ray does what anybody who reaches its ports tells it to.
    """
    from ray._private import ray_constants

    # The name is of the systems where Ray does so by itself.
    before = ray_constants.ENABLE_RAY_CLUSTER
    os.environ[CLUSTER], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        del os.environ[CLUSTER]


def _require_reachable(address: str) -> None:
    """Check that something listens at an address; Ray itself would try for a long time.

    Raises:
        UserError: nothing does.
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH).close()
    except (OSError, OverflowError, ValueError) as error:
        raise UserError(
            f"executor.address {address}: no Ray cluster answers there ({error}); look at `ray status` on its head "
            "node, or leave the address out for a Ray of this run's own"
        ) from None


@dataclass(eq=False)
class RayWorker(Worker):
    """An actor, and the call to it that is under way; None while it has nothing to do."""

    actor: Any
    call: Any = None


class RayTeam:
    """Starts actors and carries messages to and from them; see `Team`."""

    def __init__(self, settings: ExecutorSettings) -> None:
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = float(any(node.get("GPU") for node in nodes)) if settings.gpus is None else settings.gpus
        room = sum(_room(node, settings.cpus, gpus) for node in nodes)
        if not room:
            cores, cards = (max((node.get(name, 0) for node in nodes), default=0) for name in ("CPU", "GPU"))
            raise UserError(
                f"executor: a worker needs {settings.cpus} CPU cores and {gpus:g} GPUs, and no node of the Ray cluster "
                f"has more than {cores:g} and {cards:g}; lower executor.cpus and executor.gpus"
            )
        self.most = settings.workers or room
        self._kind = ray.remote(Actor).options(
            num_cpus=settings.cpus,
            num_gpus=gpus,
            max_restarts=0,  # the executor starts another one
            scheduling_strategy="SPREAD",
        )

    def start(self, place: int) -> RayWorker:
        """Start an actor; Ray waits with it until a node has room."""
        return RayWorker(place, self._kind.remote(os.getcwd()))

    def send(self, worker: Worker, message: object) -> None:
        """Send a message and ask for the next one of the worker's."""
        ours = _of(worker)
        ours.call = ours.actor.exchange.remote(message)

    def receive(self, workers: Sequence[Worker]) -> tuple[Worker, Message]:
        """Wait for a message from any of the actors, or for the loss of one."""
        import ray

        by_call = {ours.call: ours for ours in map(_of, workers) if ours.call is not None}
        while not (done := ray.wait(list(by_call), num_returns=1, timeout=LOOK)[0]):
            continue
        worker = by_call[done[0]]
        worker.call = None
        try:
            message: Message = ray.get(done[0])
        except ray.exceptions.RayTaskError:
            raise
        except ray.exceptions.RayError as error:
            return worker, (LOST, f"Ray's {type(error).__name__}: {error}")
        if message[0] == DONE:  # it works on without an answer
            worker.call = worker.actor.exchange.remote()
        return worker, message

    def end(self, workers: Sequence[Worker]) -> None:
        """End actors at once, with the processes that they started, and those that still wait for room."""
        import ray

        # A call to an actor fails once it has ended.
        calls = [ours.call or ours.actor.exchange.remote() for ours in map(_of, workers)]
        for worker in workers:
            ray.kill(_of(worker).actor)
        if calls:
            ray.wait(calls, num_returns=len(calls), timeout=GRACE)


def _room(node: dict[str, float], cpus: int, gpus: float) -> int:
    """Return how many workers a node has room for."""
    by_cpus = int(node.get("CPU", 0) // cpus)
    return min(by_cpus, int(node.get("GPU", 0) / gpus)) if gpus else by_cpus


def _of(worker: Worker) -> RayWorker:
    """Return a worker as one of this team's, which are all that it is given."""
    if not isinstance(worker, RayWorker):
        raise TypeError(f"{worker} is of another team")
    return worker


class Actor:
    """A worker on a node of the cluster.

    Args:
        folder: the working folder of the executor's process, from which relative paths count; where the node has none
            of this name, the paths have to be absolute.
    """

    def __init__(self, folder: str) -> None:
        if os.path.isdir(folder):
            os.chdir(folder)
        self._inbox: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._outbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        threading.Thread(target=serve, args=(self._inbox.get, self._outbox.put), daemon=True).start()

    def exchange(self, *messages: object) -> Message:
        """Give the worker what it waits for, if it waits, and return its next message."""
        for message in messages:
            self._inbox.put(message)
        return self._outbox.get()
