"""A comparison on several worlds: its runs, tables of means over worlds, and differences paired by world.

A result is, by name of what is compared and by measure, a number; there is one result a world.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from builders.core.console import quiet_libraries
from builders.store.files import write_text
from scripts.compare_methods import interval
from scripts.runs import finish

Result = dict[str, dict[str, float]]
Difference = tuple[float, float, float]
Compared = Callable[[Path, int], Result]
"""Does everything on a world, in a store of its own."""


def on_each_world(name: str, compared: Compared, options: argparse.Namespace) -> list[Result]:
    """Return the results of all worlds, several at a time; what a file holds already is not made again.

    Args:
        name: of the comparison, of its folders and files.
        compared: a function of a module, since other processes call it.
        options: `worlds`, `folder` and `jobs`.
    """
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    # A fresh process each, since what trainings leave in memory adds up: a fork of one that has made the imports.
    forks = get_context("forkserver")
    forks.set_forkserver_preload(["scripts.imports"])
    files = {world: options.folder / f"{name}-{world}" / f"{name}.json" for world in options.worlds}
    with forks.Pool(options.jobs, maxtasksperchild=1) as pool:
        finish(pool.imap_unordered(partial(_on_a_world, compared), files.items()), len(files))
    return [json.loads(file.read_text(encoding="utf-8")) for file in files.values()]


def _on_a_world(compared: Compared, world_and_file: tuple[int, Path]) -> tuple[str, float]:
    quiet_libraries()
    world, file = world_and_file
    began = time.monotonic()
    if not file.exists():
        result = compared(file.parent, world)
        write_text(file, json.dumps(result, indent=1) + "\n")
    return f"world {world}", time.monotonic() - began


def write_comparison(
    name: str, options: argparse.Namespace, worlds: Sequence[Result], parts: Sequence[Sequence[str]], **record: object
) -> None:
    """Write the tables and, for machines, the results of all worlds, and print both.

    Args:
        name: of the comparison.
        options: `worlds` and `output`.
        worlds: the results.
        parts: lines of Markdown.
        record: what else the JSON holds.
    """
    text = "\n\n".join("\n".join(part) for part in parts) + "\n"
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / f"{name}.md").write_text(text, encoding="utf-8")
    whole = {"worlds": options.worlds, "results": worlds, **record}
    (options.output / f"{name}.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    print(text)
    print(json.dumps(whole))


def table(worlds: Sequence[Result], first: str, digits: int = 2) -> list[str]:
    """Return the numbers in Markdown: mean ± deviation over worlds.

    Args:
        worlds: the results.
        first: heading of the first column.
        digits: after the point.
    """
    names = list(worlds[0])
    labels = list(worlds[0][names[0]])
    lines = [f"| {first} | " + " | ".join(labels) + " |", "|" + "---|" * (1 + len(labels))]
    for name in names:
        values = {label: [world[name][label] for world in worlds] for label in labels}
        cells = [
            f"{statistics.mean(v):.{digits}f} ± {statistics.stdev(v) if len(v) > 1 else 0:.{digits}f}"
            for v in values.values()
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def differences(worlds: Sequence[Result], base: str) -> dict[str, dict[str, Difference]]:
    """Return by name and measure what it differs by from the base: mean and 95 % interval, paired by world."""
    return {
        name: {
            label: interval([world[name][label] - world[base][label] for world in worlds]) for label in worlds[0][base]
        }
        for name in worlds[0]
        if name != base
    }


def difference_table(
    found: Mapping[str, Mapping[str, Difference]], base: str, leave_out: Collection[str] = (), digits: int = 2
) -> list[str]:
    """Return the differences in Markdown; those whose interval does not hold 0 are bold."""
    labels = [label for label in next(iter(found.values())) if label not in leave_out]
    lines = [f"| less {base} | " + " | ".join(labels) + " |", "|" + "---|" * (1 + len(labels))]
    for name, by_label in found.items():
        cells = []
        for mean, low, high in (by_label[label] for label in labels):
            text = f"{mean:+.{digits}f} ({low:+.{digits}f} … {high:+.{digits}f})"
            cells.append(f"**{text}**" if low > 0 or high < 0 else text)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines
