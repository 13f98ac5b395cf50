"""Shards that ask an engine, many at a time, so that the engine never waits for the slowest answer of a shard.

The `build` of such a stage is `Asks(role, function)`. The function is a generator: it yields batches of prompts, is
sent their completions, and returns its rows. It may ask again, for instance the prompts whose replies did not fit::

    def build(context, shard):
        completions = yield Batch(prompts, seeds, settings)
        return ShardResult(rows_of(completions), {})
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from builders.core.stage import Asking, Asks, Context, Shard, ShardResult
from builders.engines import Batch, Completion


def answered(asks: Asks, context: Context[Any], shards: Iterable[Shard]) -> Iterator[tuple[Shard, ShardResult]]:
    """Build shards and yield each as soon as it is done, in any order.

    Raises:
        UserError: as the engine, and as the function that asks it.
    """
    waiting = iter(shards)
    running: dict[int, tuple[Shard, Asking]] = {}
    again: deque[tuple[int, Batch]] = deque()  # shards that are under way come before new ones
    done: deque[tuple[Shard, ShardResult]] = deque()

    def proceed(index: int, completions: list[Completion] | None) -> Batch | None:
        """Let a shard work until it asks, and return what; None where it is done."""
        shard, asking = running[index]
        try:
            return asking.send(completions) if completions is not None else next(asking)
        except StopIteration as end:
            done.append((shard, end.value))
            del running[index]
            return None

    def more() -> tuple[int, Batch] | None:
        if again:
            return again.popleft()
        for shard in waiting:
            running[shard.index] = (shard, asks.build(context, shard))
            if (batch := proceed(shard.index, None)) is not None:
                return shard.index, batch
        return None

    for index, completions in context.engine(asks.role).stream(more):
        if (batch := proceed(index, completions)) is not None:
            again.append((index, batch))
        while done:
            yield done.popleft()
    yield from done
