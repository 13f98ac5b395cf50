"""Handing units of work to workers, one at a time, and again to another where a worker is lost.

A task is a function that pickle takes. It is handed an iterator of units, and yields the key of each that is done::

    def task(units):
        for unit in units:
            ...
            yield unit.index

Each worker runs the task over the units that it asks for. So a slow worker takes fewer, one that is lost costs no more
than what it had in hand, and a task that works on many at a time, such as one that fills an engine's slots, takes as
many as it has room for. What workers are is a team's matter: processes of this machine, or actors of Ray.
"""

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from builders.executors.worker import DONE, FAILED, LOST, NEXT, Message, unpacked
from scorers.errors import UserError, plain

log = logging.getLogger(__name__)

Task = Callable[[Iterator[Any]], Iterator[int]]
TRIES = 3
"""Workers that a unit may cost."""
SAID = 300
"""Characters of the reason for a loss that a message shows."""


@dataclass(eq=False)
class Worker:
    """A worker as the executor sees it.

    Attributes:
        place: its number among the workers, from 0; one that takes the place of a lost one has the same.
        task: what it works on; None while it has nothing to do.
        hand: keys of the units that it was given and has not done.
    """

    place: int
    task: Task | None = field(default=None, init=False)
    hand: list[int] = field(default_factory=list, init=False)


class Team(Protocol):
    """What starts workers and carries messages to and from them.

    Attributes:
        most: how many workers there may be.
    """

    most: int

    def start(self, place: int) -> Worker:
        """Start a worker; it need not be ready yet."""

    def send(self, worker: Worker, message: object) -> None:
        """Send a task to a worker without one, or what it asked for. That it is lost is told by `receive`."""

    def receive(self, workers: Sequence[Worker]) -> tuple[Worker, Message]:
        """Wait for the next message; `LOST` with the reason where a worker has ended."""

    def end(self, workers: Sequence[Worker]) -> None:
        """End workers, and return once they have ended: one without a task by itself, the others at once."""


class Executor:
    """Runs tasks on a team of workers, which live on from task to task."""

    def __init__(self, team: Team) -> None:
        self._team = team
        self._workers: list[Worker] = []

    def each(self, task: Task, units: Mapping[int, Any], what: str) -> Iterator[int]:
        """Let the workers do units of work, and yield the key of each one once it is done, in any order.

        If this ends before all are done, by an error, Ctrl-C or a caller that stops asking, busy workers are ended.

        Args:
            task: what to do with them.
            units: values that pickle takes, by a key.
            what: names the work in messages, such as `stage score`.

        Raises:
            UserError: a unit costs `TRIES` workers, or as many end before they begin; as the task.
            Exception: what else the task raises, with the worker's traceback as its cause.
        """
        work = _Work(task, units, what)
        try:
            while work.missing:
                self._put_to_work(work)
                worker, (kind, value) = self._team.receive(self._workers)
                if kind == NEXT:
                    work.early = 0
                    self._team.send(worker, work.next_for(worker))
                elif kind == DONE:
                    worker.hand.remove(value)
                    work.missing.discard(value)
                    yield value
                elif kind == LOST:
                    self._drop(worker)
                    work.lose(worker, str(value))
                else:
                    # What is left of an earlier task has no say any more.
                    earlier = worker.task is not task
                    worker.task = None
                    if kind == FAILED and not earlier:
                        raise unpacked(value)
        except BaseException:
            self.end_workers()
            raise

    def end_workers(self) -> None:
        """End all workers and so free their memory; the next task starts new ones."""
        self._team.end(self._workers)
        self._workers.clear()

    def _put_to_work(self, work: "_Work") -> None:
        """Give the task to as many workers as there are units that nobody will ask for otherwise."""
        asking = sum(worker.task is work.task and not worker.hand for worker in self._workers)
        for _ in range(len(work.waiting) - asking):
            worker = next((worker for worker in self._workers if worker.task is None), None)
            if worker is None:
                if len(self._workers) == self._team.most:
                    return
                taken = {worker.place for worker in self._workers}
                worker = self._team.start(next(place for place in range(self._team.most) if place not in taken))
                self._workers.append(worker)
            worker.task = work.task
            self._team.send(worker, work.task)

    def _drop(self, worker: Worker) -> None:
        """Forget a worker that is lost, and end what it may have left behind."""
        self._workers.remove(worker)
        self._team.end([worker])


class _Work:
    """The units of one task.

    Attributes:
        task: what to do with them.
        units: the units by key.
        what: names the work in messages.
        waiting: keys that no worker has in hand.
        missing: keys that are not done.
        lost: how many workers each unit has cost.
        early: workers that ended one after the other without asking for a unit.
    """

    def __init__(self, task: Task, units: Mapping[int, Any], what: str) -> None:
        self.task, self.units, self.what = task, units, what
        self.waiting = deque(units)
        self.missing = set(units)
        self.lost: Counter[int] = Counter()
        self.early = 0

    def next_for(self, worker: Worker) -> Any:
        """Return the next unit and note who has it; None where there is none, or the worker is at an earlier task."""
        if worker.task is not self.task or not self.waiting:
            return None
        key = self.waiting.popleft()
        worker.hand.append(key)
        return self.units[key]

    def lose(self, worker: Worker, reason: str) -> None:
        """Take back what a lost worker had in hand.

        Raises:
            UserError: one of the units has cost too many workers; or so many have ended without a unit.
        """
        said = plain(" ".join(reason.split()))[:SAID]
        self.lost.update(worker.hand)
        self.early += not worker.hand
        for key in worker.hand:
            if self.lost[key] == TRIES:
                raise UserError(
                    f"{self.what}, shard {key}: {TRIES} workers ended while they had it in hand, the last one by "
                    f"{said}; what is done stays: see that a worker has the memory it needs, or build with fewer"
                )
        if self.early == TRIES:
            raise UserError(
                f"{self.what}: {TRIES} workers ended before they could begin, the last one by {said}; see that a "
                "worker has the memory it needs and finds this package, or build without workers"
            )
        again = f"; shard {', '.join(map(str, worker.hand))} is built again" if worker.hand else ""
        log.warning("%s: a worker ended by %s%s", self.what, said, again)
        self.waiting.extendleft(reversed(worker.hand))
