"""Runs of GRACE-KTO on generated worlds, many of them: what the comparison, the ablations and the demo's seeds share.

A run is a world and the settings that differ from the preset tiny. Worlds with their first policies are made once; each
run trains in a copy of its world's store and is evaluated on two sets of held-out queries: `choice`, on which settings
are chosen, and `test`, of which is reported. The results are lines of one file, `docs/runs.jsonl`, so that the figures
behind a table can be read, and a rerun goes on where the last one stopped, on this machine or another; a run that was
stopped half-way goes on in its store. Results of other settings, the preset's included, or of another version of the
world are made anew.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from builders.core.console import quiet_libraries
from builders.settings.base import identities, identity
from builders.store.store import Store
from scorers.errors import UserError
from training.world.stages import VERSION

QUERIES = 512
"""Held-out queries of either set."""
PARTS = {"test": 0, "choice": QUERIES}
"""The sets by name, with the queries of the world's held-out ones that are skipped before them."""
FIRST = "local/tiny-sft"
LAST = "local/tiny-policy"
FIRST_SECTIONS = ("models", "seed", "sample", "score", "sft", "evaluate")
"""What the first policy and its evaluation follow from."""

Result = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        world: seed of the generated world and root of all the run's draws.
        name: name of its files; equal names mean equal settings.
        settings: overrides of the preset, `section.key=value` each; none for the first policy itself.
    """

    world: int
    name: str
    settings: tuple[str, ...] = ()

    @property
    def trained(self) -> bool:
        """Whether there is anything to train."""
        return bool(self.settings)

    @property
    def recipe(self) -> str:
        """Digest of what decides its numbers: the world's version and its settings, those of the preset included."""
        config = config_of(Path("store"), self.world, *self.settings)
        decides = identity(config) if self.trained else identities(config, FIRST_SECTIONS)
        text = json.dumps([VERSION, self.world, decides], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def results(kept: Path, folder: Path, runs: Iterable[Run], jobs: int) -> dict[Run, Result]:
    """Do what is missing of some runs, several at a time, and return the results of all.

    Args:
        kept: the file of results, a line of JSON each, to which those that are made are added.
        folder: where worlds and the stores of unfinished runs are kept.
        runs: the runs.
        jobs: processes, of one thread each.

    Returns:
        By run: `test` and `choice`, each as `evaluation` returns it; the `seconds` that it took; and `ended`, why it
        ended before its last round, None where it did not. The policy that it ended with is the one evaluated.
    """
    runs = list(dict.fromkeys(runs))
    made = _read(kept)
    missing = [run for run in runs if run.recipe not in made]
    if missing:
        _make(kept, folder, missing, jobs)
        made = _read(kept)
    return {run: made[run.recipe] for run in runs}


def _make(kept: Path, folder: Path, missing: Sequence[Run], jobs: int) -> None:
    """Do runs, and before them the worlds that they need."""
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    worlds = sorted({run.world for run in missing if not _is_whole(folder, run.world)})
    # A fresh process each, since what trainings leave in memory adds up: a fork of one that has made the imports.
    forks = get_context("forkserver")
    forks.set_forkserver_preload(["scripts.imports"])
    with forks.Pool(jobs, maxtasksperchild=1) as pool:
        finish(pool.imap_unordered(partial(make_world, folder), worlds), len(worlds))
        finish(pool.imap_unordered(partial(do, kept, folder), missing), len(missing))


def _read(kept: Path) -> dict[str, Result]:
    """The results by recipe."""
    if not kept.exists():
        return {}
    with kept.open(encoding="utf-8") as lines:
        return {result["recipe"]: result for result in map(json.loads, lines)}


def _add(kept: Path, result: Result) -> None:
    """Add a result as a line, in one write, since several processes do so."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(result, ensure_ascii=False) + "\n"
    with kept.open("ab", buffering=0) as file:
        file.write(line.encode())


def _is_whole(folder: Path, world: int) -> bool:
    """Whether a world is there with its first policy, made with today's settings."""
    mark = _world(folder, world) / "whole"
    return mark.is_file() and mark.read_text(encoding="utf-8") == Run(world, FIRST).recipe


def finish(work: Iterable[tuple[str, float]], count: int) -> None:
    """Print what the processes have done, as (what, seconds), until all is."""
    began = time.monotonic()
    for number, (what, seconds) in enumerate(work, 1):
        rest = (time.monotonic() - began) / number * (count - number)
        print(f"{number}/{count} {what}: {seconds:.0f} s; about {rest / 60:.0f} min left", file=sys.stderr, flush=True)


def make_world(folder: Path, world: int) -> tuple[str, float]:
    """Make a world, its first policy, and that policy's evaluations; what that was, and the seconds that it took."""
    quiet_libraries()
    from training import build

    began = time.monotonic()
    store = _world(folder, world)
    build(config_of(store, world), "sft")
    for part in PARTS:
        evaluation(store, world, (), part, [FIRST])
    (store / "whole").write_text(Run(world, FIRST).recipe, encoding="utf-8")
    return f"world {world}", time.monotonic() - began


def do(kept: Path, folder: Path, run: Run) -> tuple[str, float]:
    """Train and evaluate a run, and add its result; what that was, and the seconds that it took."""
    quiet_libraries()
    from training import run_loop

    began = time.monotonic()
    store = folder / "stores" / f"{run.world}-{run.name}"
    if not store.exists():
        staged = store.with_name(f"{store.name}.copying")
        shutil.rmtree(staged, ignore_errors=True)
        shutil.copytree(_world(folder, run.world), staged)
        staged.rename(store)
    policies, ended = [FIRST], None
    if run.trained:
        # Each method goes to its end, whatever becomes of its data.
        unwatched = ("loop.held_out=0", "loop.min_matched=0", "loop.max_cut=1")
        config = config_of(store, run.world, *run.settings, *unwatched)
        try:
            run_loop(config)
        except UserError as error:
            # A policy that has collapsed: none of its responses can be scored, or its replies hold no queries.
            if Store(store).find(LAST, "main", "model") is None:
                raise
            ended = str(error)
        policies.append(LAST)
    found = {part: evaluation(store, run.world, run.settings, part, policies) for part in PARTS}
    seconds = time.monotonic() - began
    made = {"recipe": run.recipe, "settings": run.settings, "seconds": round(seconds, 1), "ended": ended}
    _add(kept, {"world": run.world, "name": run.name, **made, **found})
    shutil.rmtree(store)
    return f"world {run.world}, {run.name}{f', ended early ({ended})' if ended else ''}", seconds


def config_of(store: Path, world: int, *settings: str) -> Any:
    """The preset tiny with a world and further settings."""
    from training import load_config

    seeds = (f"world.seed={world}", f"random_seed={world}", "workers=1")
    return load_config("tiny", [*seeds, *settings], str(store))


def evaluation(store: Path, world: int, settings: Sequence[str], part: str, policies: Sequence[str]) -> Result:
    """Evaluate policies on one set of queries.

    Returns:
        Of the last policy: `queries`, `responses` to each, `estimates` by metric (null where no answer has a value),
        and `changes`, the 95 % intervals [low, high] of their differences from the first policy.
    """
    from training import evaluate_policies

    which = (f"evaluate.queries={QUERIES}", f"evaluate.skip={PARTS[part]}")
    table = evaluate_policies(config_of(store, world, *settings, *which), policies, store / "evaluation" / part)
    record: Result = table.public["policies"][-1]
    return {
        "queries": record["queries"],
        "responses": record["responses"],
        "estimates": {label: _short(found["value"]) for label, found in record["estimates"].items()},
        "changes": {label: [_short(c["low"]), _short(c["high"])] for label, c in record["changes"].items()},
    }


def _short(value: float | None) -> float | None:
    """Six digits of a number: more of them differ from machine to machine."""
    return None if value is None else float(f"{value:.6g}")


def value(result: Result, label: str, part: str = "test") -> float:
    """A metric of a run; NaN where no answer has a value, and, on `choice`, where the run ended early."""
    found = result[part]["estimates"][label]
    # The few answers that a collapsed policy still gives may have fine metrics: it must not be chosen for them.
    collapsed = part == "choice" and result.get("ended") is not None
    return float("nan") if found is None or collapsed else float(found)


def sign(result: Result, label: str) -> int:
    """1 where a metric rose beyond its interval from the first policy, -1 where it fell, else 0; on `test`."""
    low, high = result["test"]["changes"][label]
    return 0 if low is None else int(low > 0) - int(high < 0)


def _world(folder: Path, world: int) -> Path:
    """The store of a world."""
    return folder / f"world-{world}"


def parser_of(description: str | None, worlds: str) -> argparse.ArgumentParser:
    """A parser with the options that all scripts over worlds have.

    Args:
        description: the script's docstring.
        worlds: the worlds without the option.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=seeds_of, default=worlds, help=f"seeds of the worlds, such as {worlds}")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time")
    parser.add_argument("--folder", type=Path, default=Path(".grace/experiments"), help="of worlds and their stores")
    parser.add_argument("--results", type=Path, default=Path("docs/runs.jsonl"), help="results of all runs")
    parser.add_argument("--output", type=Path, default=Path("docs"), help="folder of the tables")
    return parser


def made_by(script: str, worlds: Sequence[int], more: str = "") -> str:
    """The command that makes a table again, for the file that holds it."""
    return f"Made by `python scripts/{script}.py --worlds {','.join(map(str, worlds))}{more}`."


def seeds_of(text: str) -> list[int]:
    """Read a list of seeds such as `0-9` or `0,3,5`."""
    found: list[int] = []
    for part in text.split(","):
        low, _, high = part.partition("-")
        found += range(int(low), int(high or low) + 1)
    return found
