"""Time what stage `generate` does besides the model: an engine that answers at once, up to 1,000,000 queries.

Prompts, reading of replies, exact and near-duplicates, shards: as the runner has them built, with random queries of
about 60 words of which some repeat one another. Prints one line of JSON, such as:

    {"queries": 1000000, "shards": 2000, "counts": {"read": …, …}, "seconds": {"plan": …, "shards": …, …},
     "cpu_seconds": {…}, "peak_mib": …}

    python scripts/bench_generate.py --queries 1000000
"""

import argparse
import json
import random
import resource
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from builders.core.models import LocalModel
from builders.core.stage import Context
from builders.core.work import build_missing
from builders.engines import Completion, Message, SamplingSettings
from builders.grace_kto import candidates, generate, seed
from builders.grace_kto.settings import GraceKTOSettings
from builders.grace_kto.stages import GENERATE, SEED
from builders.store.manifest import Model
from builders.store.shards import shard_counts, shard_rows
from builders.store.store import Revision, Store

T = TypeVar("T")
WORDS = [f"word{number}" for number in range(20_000)]


def query(draw: random.Random) -> str:
    """Return a random query of about 400 characters; one in a hundred repeats an earlier one but for a word."""
    known = draw.random() < 0.01
    words = (random.Random(draw.randrange(1000)) if known else draw).choices(WORDS, k=60)
    return f"Please write a report on {' '.join(words)}" + (f" and {draw.choice(WORDS)}." if known else ".")


class InstantEngine:
    """An engine that answers every prompt at once with a list of five queries; the prompt's seed decides them."""

    context_window = 32_768
    tokenizer: Any = None

    def generate(
        self, prompts: Sequence[Sequence[Message]], seeds: Sequence[int], settings: SamplingSettings
    ) -> list[Completion]:
        """Answer prompts."""
        draws = (random.Random(number) for number in seeds)
        return [Completion(repr([query(draw) for _ in range(5)]), "stop", 1) for draw in draws]

    def close(self) -> None:
        """Release nothing."""


def contexts(folder: Path, queries: int, seeds: int) -> tuple[Context[GraceKTOSettings], Context[GraceKTOSettings]]:
    """Return what the stages `seed` and `generate` are handed; the second one's inputs are missing."""
    source = folder / "seeds.jsonl"
    with source.open("w") as file:
        for number in range(seeds):
            file.write(json.dumps({"query": query(random.Random(f"seed {number}"))}) + "\n")
    config = GraceKTOSettings.model_validate(
        {
            "name": "bench",
            "models": {"base": "a/b", "general": "a/b", "domain": "a/b", "relevance": "a/b"},
            "seed": {"source": str(source)},
            "generate": {"queries": queries},
            "evaluate": {"source": str(source)},
        }
    )
    policy = LocalModel(Model(id="a/b", revision="0" * 40), folder)
    store = Store(folder / "store")
    above = Context(config, store, 0, {}, {}, folder / "seed")
    context = Context(config, store, 1, {}, {"policy": policy}, folder / "generate")
    context.loaded.get(policy, ("engine", config.engines.policy), InstantEngine)
    for made in (above, context):
        made.work.mkdir()
    return above, context


class Clock:
    """Seconds by part of the work: of the clock on the wall, and of all of this process's threads."""

    def __init__(self) -> None:
        self.wall: dict[str, float] = defaultdict(float)
        self.cpu: dict[str, float] = defaultdict(float)

    def timed(self, name: str, function: Callable[..., T]) -> Callable[..., T]:
        """Return a function whose calls are added to a part."""

        def call(*args: Any, **kwargs: Any) -> T:
            wall, cpu = time.perf_counter(), time.process_time()
            result = function(*args, **kwargs)
            self.wall[name] += time.perf_counter() - wall
            self.cpu[name] += time.process_time() - cpu
            return result

        return call


def measure(folder: Path, queries: int, seeds: int) -> dict[str, Any]:
    """Build the seeds and the queries, and return what they took."""
    clock = Clock()
    above, context = contexts(folder, queries, seeds)
    shards = clock.timed("seed", lambda: build_missing(SEED, above, seed.plan(above)))()
    context.inputs["seed"] = Revision("bench/seed", "0" * 40, shards[0].parent, None)
    # The parts of `plan` are timed where it calls them.
    generate.build_missing = clock.timed("prompts and replies", build_missing)  # type: ignore[attr-defined]
    candidates.signatures_of = clock.timed("signatures", candidates.signatures_of)  # type: ignore[attr-defined]
    candidates.near_duplicates = clock.timed("comparison", candidates.near_duplicates)  # type: ignore[attr-defined]
    planned = clock.timed("plan", generate.plan)(context)
    paths = clock.timed("shards", build_missing)(GENERATE, context, planned)
    counts = sum((Counter(shard_counts(path)) for path in paths), Counter[str]())
    return {
        "queries": sum(shard_rows(path) for path in paths),
        "shards": len(paths),
        "counts": dict(counts),
        "seconds": {name: round(value, 1) for name, value in clock.wall.items()},
        "cpu_seconds": {name: round(value, 1) for name, value in clock.cpu.items()},
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=1_000_000)
    parser.add_argument("--seeds", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), options.queries, options.seeds)))


if __name__ == "__main__":
    main()
