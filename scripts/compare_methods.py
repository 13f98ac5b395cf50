"""Compare SFT, KTO and GRACE-KTO, offline and semi-online, on generated worlds: each at its own best settings.

All methods train on the same number of responses, 2,048, in the same number of steps, 128. GRACE-KTO has the paper's
coefficients and loss; KTO has its labels and |W| = 1; the last row is the variant `steady`, as in the preset tiny.
Offline is one data set; semi-online renews it R times. The learning rate, and R, are chosen on three worlds and other
held-out queries, by the average rank over L, E, median P, R_s and R_d among a method's runs of one world: the
neighbours of the best setting are tried until it has none that is better, so it never lies at the edge of what was
tried. Then all methods run on all worlds. Prints the table and one line of JSON, and writes `comparison.md`,
`.json`, `.png` and `.svg`. A rerun goes on where it stopped.

    python scripts/compare_methods.py --worlds 0-9 --jobs 2
"""

import json
import math
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from scipy import stats

from builders.cards.figures.drawing import caption, fixed_style, panels, style, write_both, zero_line
from scripts.runs import QUERIES, Result, Run, made_by, parser_of, results, sign, value
from training.standings import Column, average_ranks

RANKED = ("L", "E", "P median", "R_s", "R_d")  # the mean of P over documents is that of its one outlier
OTHERS = ("matched", "ppl_D median", "grammaticality", "on_topic", "duplicate_sentences", "heading_coverage")
LOW_IS_BETTER = ("ppl_D median", "duplicate_sentences")
TOTAL = 256  # queries of a run over all its rounds
MOST = 128  # rounds: 16 responses each, one step
CHOSEN_ON = 3  # worlds
KINDS = {
    "kto": ("variant=paper", "calibrate.binary=true"),
    "grace": ("variant=paper", "calibrate.binary=false"),
    "steady": ("variant=steady", "calibrate.binary=false"),
}
"""What a kind of method changes of the preset tiny, apart from rounds and rate."""


@dataclass(frozen=True)
class Setting:
    """A method with the settings that are chosen for it.

    Attributes:
        method: its name in the table.
        kind: a key of `KINDS`.
        rounds: renewals of the data; 1 is offline.
        rate: 2 to this power times 1e-4 is the learning rate.
    """

    method: str
    kind: str
    rounds: int
    rate: int

    @property
    def learning_rate(self) -> str:
        """The rate as text, exact, such as 0.0002."""
        return f"{1e-4 * 2**self.rate:.7f}".rstrip("0")

    @property
    def name(self) -> str:
        """Name of its runs."""
        return f"{self.kind}-{self.rounds}x{TOTAL // self.rounds}-{self.learning_rate}"

    def run(self, world: int) -> Run:
        """Its run on a world."""
        settings = (
            *KINDS[self.kind],
            f"loop.rounds={self.rounds}",
            f"generate.queries={TOTAL // self.rounds}",
            f"train.learning_rate={self.learning_rate}",
        )
        return Run(world, self.name, settings)

    def neighbours(self) -> list["Setting"]:
        """The settings next to it: half and twice the rate and, of a semi-online method, the rounds."""
        found = [replace(self, rate=self.rate + step) for step in (-1, 1)]
        if self.rounds > 1:
            found += [replace(self, rounds=n) for n in (self.rounds // 2, self.rounds * 2) if 1 < n <= MOST]
        return found


STARTS = (
    Setting("KTO, offline", "kto", 1, 2),
    Setting("KTO, semi-online", "kto", 16, 2),
    Setting("GRACE-KTO, offline", "grace", 1, 0),
    Setting("GRACE-KTO, semi-online", "grace", 32, 1),
    Setting("GRACE-KTO steady, semi-online", "steady", 16, 2),
)
"""Where the search begins: the best that an earlier one of 32 settings, from 2e-4 and 8 rounds, had come to."""
BASES = (STARTS[-2].method, STARTS[-1].method)
"""The methods from which the others' differences are shown; the figure shows those from the first."""
SFT = "SFT"


def ranks_of(rows: Sequence[Mapping[str, float]]) -> list[float]:
    """The average rank of each row over the ranked metrics; rank 1 is best, ties share the mean rank, NaN is last."""
    columns = [[None if math.isnan(row[label]) else row[label] for row in rows] for label in RANKED]
    return average_ranks([Column(label, values) for label, values in zip(RANKED, columns, strict=True)])


def best(tried: Mapping[Setting, Sequence[Result]]) -> Setting:
    """The setting with the best average rank on the choice queries, among those tried of one method."""
    settings = list(tried)
    by_world = zip(*tried.values(), strict=True)
    ranks = [
        ranks_of([{label: value(found, label, "choice") for label in RANKED} for found in world]) for world in by_world
    ]
    means = [statistics.mean(rank[place] for rank in ranks) for place in range(len(settings))]
    return settings[means.index(min(means))]


def choose(
    kept: Path, folder: Path, worlds: Sequence[int], jobs: int
) -> tuple[list[Setting], dict[Setting, list[Result]]]:
    """Choose the settings of every method: from each start to the best neighbour, until none is better.

    Returns:
        The chosen settings in the order of `STARTS`, and the results of all that were tried.
    """
    tried: dict[Setting, list[Result]] = {}
    waiting = {start.method: [start, *start.neighbours()] for start in STARTS}
    chosen: dict[str, Setting] = {}
    while waiting:
        wanted = [setting for settings in waiting.values() for setting in settings if setting not in tried]
        found = results(kept, folder, [setting.run(world) for world in worlds for setting in wanted], jobs)
        for setting in wanted:
            tried[setting] = [found[setting.run(world)] for world in worlds]
        for method in list(waiting):
            own = {setting: rows for setting, rows in tried.items() if setting.method == method}
            chosen[method] = best(own)
            waiting[method] = [setting for setting in chosen[method].neighbours() if setting not in tried]
            if not waiting[method]:
                del waiting[method]
        print(f"tried {len(tried)} settings; best: {', '.join(s.name for s in chosen.values())}", file=sys.stderr)
    return [chosen[start.method] for start in STARTS], tried


def interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """Mean of differences paired by world, and its 95 % interval by Student's t."""
    mean = statistics.mean(differences)
    half = float(stats.t.ppf(0.975, len(differences) - 1)) * float(stats.sem(differences))
    return mean, mean - half, mean + half


def table(methods: Mapping[str, Sequence[Result]]) -> tuple[list[str], dict[str, list[float]]]:
    """The table in Markdown: a row a method, mean ± deviation over worlds, and the average rank among the methods.

    Returns:
        Its lines, and by method the average rank on each world.
    """
    ranks: dict[str, list[float]] = {method: [] for method in methods}
    for world in zip(*methods.values(), strict=True):
        placed = ranks_of([{label: value(found, label) for label in RANKED} for found in world])
        for method, rank in zip(methods, placed, strict=True):
            ranks[method].append(rank)
    lines = [
        "| method | " + " | ".join((*RANKED, "avg. rank", *OTHERS)) + " |",
        "|" + "---|" * (2 + len(RANKED + OTHERS)),
    ]
    for method, found in methods.items():
        cells = [spread([value(result, label) for result in found], label) for label in RANKED]
        cells.append(spread(ranks[method], "rank"))
        cells += [spread([value(result, label) for result in found], label) for label in OTHERS]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return lines, ranks


def spread(values: Sequence[float], label: str) -> str:
    """Mean ± standard deviation."""
    digits = 1 if label in ("L", "E") else 2
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def differences(
    methods: Mapping[str, Sequence[Result]], ranks: Mapping[str, Sequence[float]], base: str
) -> dict[str, dict[str, tuple[float, float, float]]]:
    """By method and metric, what it differs by from another method: mean and 95 % interval, paired by world."""
    found: dict[str, dict[str, tuple[float, float, float]]] = {}
    for method, own in methods.items():
        if method == base:
            continue
        pairs = list(zip(own, methods[base], strict=True))
        found[method] = {
            label: interval([value(a, label) - value(b, label) for a, b in pairs]) for label in (*RANKED, *OTHERS)
        }
        found[method]["avg. rank"] = interval([a - b for a, b in zip(ranks[method], ranks[base], strict=True)])
    return found


def difference_table(found: Mapping[str, Mapping[str, tuple[float, float, float]]], base: str) -> list[str]:
    """The differences in Markdown; those whose interval does not hold 0 are bold."""
    labels = (*RANKED, "avg. rank", *OTHERS)
    lines = [f"| less {base} | " + " | ".join(labels) + " |", "|" + "---|" * (1 + len(labels))]
    for method, by_label in found.items():
        cells = []
        for label in labels:
            mean, low, high = by_label[label]
            digits = 1 if label in ("L", "E") else 2
            text = f"{mean:+.{digits}f} ({low:+.{digits}f} … {high:+.{digits}f})"
            cells.append(f"**{text}**" if low > 0 or high < 0 else text)
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return lines


def counts(methods: Mapping[str, Sequence[Result]]) -> list[str]:
    """By method and metric, on how many worlds the policy became better and worse than the first, in Markdown."""
    labels = (*RANKED, *OTHERS)
    lines = ["| better / worse than SFT | " + " | ".join(labels) + " |", "|" + "---|" * (1 + len(labels))]
    for method, found in methods.items():
        cells = []
        for label in labels:
            signs = [sign(result, label) * (-1 if label in LOW_IS_BETTER else 1) for result in found]
            cells.append(f"{signs.count(1)} / {signs.count(-1)}")
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return lines


def draw(found: Mapping[str, Mapping[str, tuple[float, float, float]]], base: str, path: Path) -> None:
    """Draw the differences with their intervals, a panel a metric, as PNG and SVG."""
    labels = ("avg. rank", *RANKED, *OTHERS)
    with fixed_style():
        figure, grid = panels(len(labels), 4, 1.2, below=0.25, left=1.75)
        for axes, label in zip(grid, labels, strict=True):
            zero_line(axes, vertical=True)
            for place, by_label in enumerate(found.values()):
                mean, low, high = by_label[label]
                look, errors = style(place), [[mean - low], [high - mean]]
                axes.errorbar(mean, -place, xerr=errors, fmt=look.marker, markersize=4, capsize=3, color=look.colour)
            axes.set_title(f"{label}{' ↓' if label in ('avg. rank', *LOW_IS_BETTER) else ''}", fontsize=8)
            names = list(found) if axes.get_subplotspec().is_first_col() else [""] * len(found)
            axes.set_yticks([-place for place in range(len(found))], names)
            axes.set_ylim(0.5 - len(found), 0.5)
            axes.tick_params(labelsize=7)
        caption(figure, f"difference from {base}: mean over worlds, 95 % interval; ↓: lower is better")
        write_both(figure, path)


def main() -> None:
    """Choose, run, and write table, figure and JSON."""
    options = parser_of(__doc__, "0-9").parse_args()
    began = time.monotonic()
    chosen, tried = choose(options.results, options.folder, options.worlds[:CHOSEN_ON], options.jobs)
    runs = {SFT: [Run(world, "sft") for world in options.worlds]}
    runs |= {setting.method: [setting.run(world) for world in options.worlds] for setting in chosen}
    found = results(options.results, options.folder, [run for own in runs.values() for run in own], options.jobs)
    methods = {method: [found[run] for run in own] for method, own in runs.items()}
    lines, ranks = table(methods)
    compared = {base: differences(methods, ranks, base) for base in BASES}
    notes = [
        f"{len(options.worlds)} worlds, {QUERIES} held-out queries each; mean ± standard "
        "deviation over worlds; rank 1 is best. Differences are paired by world, with 95 % intervals by Student's t; "
        "bold where the interval does not hold 0. Settings chosen among "
        f"{len(tried)}: {', '.join(setting.name for setting in chosen)}. " + made_by("compare_methods", options.worlds),
    ]
    better = counts({method: rows for method, rows in methods.items() if method != SFT})
    parts = [lines, *(difference_table(found, base) for base, found in compared.items()), better, notes]
    text = "\n\n".join("\n".join(part) for part in parts) + "\n"
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "comparison.md").write_text(text, encoding="utf-8")
    draw(compared[BASES[0]], BASES[0], options.output / "comparison")
    hours = sum(result["seconds"] for rows in tried.values() for result in rows)
    hours = (hours + sum(result["seconds"] for result in found.values())) / 3600
    record = {
        "worlds": options.worlds,
        "chosen": {setting.method: setting.name for setting in chosen},
        "tried": sorted(setting.name for setting in tried),
        "hours": round(hours, 1),
        "average_rank": ranks,
        "differences": compared,
        "methods": {
            method: {label: [value(result, label) for result in rows] for label in (*RANKED, *OTHERS)}
            for method, rows in methods.items()
        },
    }
    (options.output / "comparison.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(text)
    print(f"{time.monotonic() - began:.0f} s this time, {hours:.1f} hours of one core in all", file=sys.stderr)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
