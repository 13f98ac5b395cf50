"""Builds of shards that note who made them, wait where they are told to, die or fail; workers import them by name."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
from toy_pipeline import toy_config

from builders.core.stage import Context, Shard, ShardResult, Step
from builders.core.tables import NoColumn
from builders.core.work import build_missing
from builders.executors.handing import Executor
from builders.store.columns import column
from builders.store.files import file_sha256
from builders.store.store import Store
from scorers.errors import UserError

COLUMNS = (column("number", pl.Int64, "a number"),)
SHARDS = [Shard(index, index * 10) for index in range(6)]
STUCK = 1
"""Index of the shard that `stuck_once` does not finish at its first try."""
GPUS = "CUDA_VISIBLE_DEVICES"

Build = Callable[[Path, Context[Any], Shard], ShardResult]


def attempts(notes: Path, index: int) -> list[str]:
    """Who has begun a shard: process, parent process, and the GPUs that it sees."""
    file = notes / str(index)
    return file.read_text().splitlines() if file.exists() else []


def note(notes: Path, shard: Shard) -> int:
    """Note that this process has begun a shard; how often it was begun before."""
    before = len(attempts(notes, shard.index))
    with (notes / str(shard.index)).open("a") as file:
        file.write(f"{os.getpid()} {os.getppid()} {os.environ.get(GPUS, 'unset')}\n")
    return before


def rows(notes: Path, context: Context[Any], shard: Shard) -> ShardResult:
    """Ten numbers, after a moment, so that no worker takes all shards."""
    note(notes, shard)
    time.sleep(0.1)
    return ShardResult(pl.DataFrame({"number": range(shard.spec, shard.spec + 10)}), {"read": 10})


def stuck_once(notes: Path, context: Context[Any], shard: Shard) -> ShardResult:
    """The rows; the first try of one shard does not end."""
    if note(notes, shard) == 0 and shard.index == STUCK:
        time.sleep(600)
    return ShardResult(pl.DataFrame({"number": range(shard.spec, shard.spec + 10)}), {"read": 10})


def stuck_on_node(notes: Path, context: Context[Any], shard: Shard) -> ShardResult:
    """The rows; on the node whose raylet the notes name, no shard ends, and elsewhere none before one begins there."""
    note(notes, shard)
    node = (notes / "node").read_text()
    if node == str(os.getppid()):
        time.sleep(600)
    deadline = time.monotonic() + 200  # the node's worker may start long after the others
    while time.monotonic() < deadline and not any(
        line.split()[1] == node for file in notes.glob("[0-9]*") for line in file.read_text().splitlines()
    ):
        time.sleep(0.05)
    return ShardResult(pl.DataFrame({"number": range(shard.spec, shard.spec + 10)}), {"read": 10})


def deadly(notes: Path, context: Context[Any], shard: Shard) -> ShardResult:
    """The rows; one shard kills whoever builds it."""
    note(notes, shard)
    if shard.index == STUCK:
        os.kill(os.getpid(), signal.SIGKILL)
    return ShardResult(pl.DataFrame({"number": range(shard.spec, shard.spec + 10)}), {"read": 10})


def mistaken(notes: Path, context: Context[Any], shard: Shard) -> ShardResult:
    """A user's mistake."""
    raise UserError(f"shard {shard.index}: is wrong; mend it")


def lacking(notes: Path, context: Context[Any], shard: Shard) -> ShardResult:
    """A user's mistake of a class that pickle cannot bring back."""
    raise NoColumn("seeds.jsonl", ["query"], ["text"])


def defect(notes: Path, context: Context[Any], shard: Shard) -> ShardResult:
    """A defect of the program."""
    counts: dict[str, dict[str, int]] = {}
    return ShardResult(pl.DataFrame(), counts["missing"])


def full(notes: Path, context: Context[Any], shard: Shard) -> ShardResult:
    """A full disk."""
    raise OSError(28, "No space left on device", "/some/folder")


def made_by(build: Build, folder: Path, executor: Executor | None) -> list[str]:
    """Build all shards in a folder; the hash of each file."""
    (folder / "notes").mkdir(parents=True, exist_ok=True)
    context = Context(toy_config(folder), Store(folder), 0, {}, {}, folder / "work", executor=executor)
    step = Step("numbers", COLUMNS, partial(build, folder / "notes"))
    return [file_sha256(path) for path in build_missing(step, context, SHARDS)]


def once(condition: Callable[[], bool], act: Callable[[], object], seconds: float = 60.0) -> threading.Thread:
    """Act in the background as soon as something is so."""

    def watch() -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                print("it never came to it", file=sys.stderr)
                return
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread
