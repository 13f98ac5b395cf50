"""Executors: where units of work run, in this process, in processes of this machine or on a Ray cluster."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import IO, Any

from builders.executors.handing import Executor, Team
from builders.settings.base import ExecutorSettings


@contextlib.contextmanager
def open_executor(settings: ExecutorSettings, held: Sequence[IO[Any]] = ()) -> Iterator[Executor | None]:
    """Open the executor that the settings describe; None where all work is done in this process.

    Workers are started once there is work for them. However the block ends, they are ended.

    Args:
        settings: the section `executor`.
        held: open files whose locks processes of this machine hold too.

    Raises:
        UserError: there are fewer GPUs than the workers need; a Ray cluster cannot be reached, or has no node with what
            a worker needs.
        ModuleNotFoundError: Ray is not installed.
    """
    team: contextlib.AbstractContextManager[Team]
    if settings.kind == "ray":
        from builders.executors.ray_workers import ray_team

        team = ray_team(settings)
    elif (settings.workers or 1) > 1:
        from builders.executors.process_workers import process_team

        team = process_team(settings, held)
    else:
        yield None
        return
    with team as found:
        executor = Executor(found)
        try:
            yield executor
        finally:
            executor.end_workers()
