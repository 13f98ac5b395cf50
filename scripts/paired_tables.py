"""Tables of a comparison on several worlds: means over worlds, and differences paired by world.

A result is, by name of what is compared and by measure, a number; there is one result a world.
"""

import statistics
from collections.abc import Collection, Mapping, Sequence

from scripts.compare_methods import interval

Result = Mapping[str, Mapping[str, float]]
Difference = tuple[float, float, float]


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
