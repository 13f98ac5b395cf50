"""Shards that ask an engine: how they are driven, and that they come back whole in any order."""

import random
from collections import deque
from collections.abc import Iterator
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.core.asking import answered
from builders.core.stage import Asking, Asks, Shard, ShardResult
from builders.engines import Batch, Completion, More, SamplingSettings

GREEDY = SamplingSettings(1, temperature=0.0)


class Shuffling:
    """An engine that answers a prompt with its text, several batches at a time, in an order of its own."""

    def __init__(self, room: int, seed: int = 0) -> None:
        self.room = room
        self.draw = random.Random(seed)
        self.most = 0
        self.batches: list[list[str]] = []

    def stream(self, more: More) -> Iterator[tuple[Any, list[Completion]]]:
        running: list[tuple[Any, Batch]] = []
        while True:
            while len(running) < self.room and (found := more()) is not None:
                running.append(found)
            if not running:
                return
            self.most = max(self.most, len(running))
            key, batch = running.pop(self.draw.randrange(len(running)))
            self.batches.append([prompt[0]["content"] for prompt in batch.prompts])
            yield key, [Completion(text, "stop", 1) for text in self.batches[-1]]


class FakeContext:
    def __init__(self, engine: Shuffling) -> None:
        self.made = engine

    def engine(self, role: str) -> Shuffling:
        assert role == "policy"
        return self.made


def batch(*texts: str) -> Batch:
    return Batch([[{"role": "user", "content": text}] for text in texts], range(len(texts)), GREEDY)


def count_down(context: Any, shard: Shard) -> Asking:
    """Ask as often as the shard's spec says, and keep what was answered."""
    heard = []
    for turn in range(shard.spec, 0, -1):
        completions = yield batch(f"{shard.index}:{turn}")
        heard += [completion.text for completion in completions]
    return ShardResult(pl.DataFrame({"heard": heard}, schema={"heard": pl.String}), {"asked": len(heard)})


def run(engine: Shuffling, turns: list[int]) -> dict[int, list[str]]:
    shards = [Shard(index, count) for index, count in enumerate(turns)]
    found = list(answered(Asks("policy", count_down), FakeContext(engine), shards))  # type: ignore[arg-type]
    assert len(found) == len(turns)
    return {shard.index: result.frame["heard"].to_list() for shard, result in found}


@given(st.lists(st.integers(0, 4), max_size=12), st.integers(1, 5), st.integers())
def test_every_shard_hears_its_own_answers_in_its_own_order(turns: list[int], room: int, seed: int) -> None:
    engine = Shuffling(room, seed)
    heard = run(engine, turns)
    assert heard == {i: [f"{i}:{turn}" for turn in range(n, 0, -1)] for i, n in enumerate(turns)}
    assert engine.most == min(room, sum(n > 0 for n in turns))  # the engine is kept full


def test_a_shard_that_asks_again_goes_before_new_ones() -> None:
    engine = Shuffling(room=1)
    run(engine, [3, 1])
    assert engine.batches == [["0:3"], ["0:2"], ["0:1"], ["1:1"]]


def test_a_shard_is_handed_on_before_others_are_begun() -> None:
    engine = Shuffling(room=1)
    begun: deque[int] = deque()

    def noting(context: Any, shard: Shard) -> Asking:
        begun.append(shard.index)
        yield batch("x")
        return ShardResult(pl.DataFrame(), {})

    stream = answered(Asks("policy", noting), FakeContext(engine), [Shard(0, None), Shard(1, None)])  # type: ignore[arg-type]
    assert next(stream)[0].index == 0 and list(begun) == [0]


def test_an_error_of_a_shard_ends_all() -> None:
    def failing(context: Any, shard: Shard) -> Asking:
        yield batch("x")
        raise ValueError(f"shard {shard.index}")

    stream = answered(Asks("policy", failing), FakeContext(Shuffling(room=2)), [Shard(0, None)])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="shard 0"):
        list(stream)
