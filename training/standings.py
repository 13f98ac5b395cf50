"""Methods by metrics, with ranks: tables as 1, 2 and 4 of GRACE-KTO.

standings(["Baseline", "KTO"], [Column("L", (3878.7, 4903.7), digits=1), Column("ppl", (9.1, 9.4), low=True)])

method    L           ppl        avg. rank
Baseline  3878.7 (2)  9.100 (1)  1.5
KTO       4903.7 (1)  9.400 (2)  1.5
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Column:
    """A metric of several methods.

    Attributes:
        name: heading of its column.
        values: one for each method; None where it has none.
        digits: after the point.
        low: whether lower is better.
    """

    name: str
    values: Sequence[float | None]
    digits: int = 3
    low: bool = False

    def text(self, place: int) -> str:
        """Return the value of a method as a cell; a dash for none."""
        value = self.values[place]
        return "–" if value is None else f"{value:.{self.digits}f}"


def ranks(column: Column) -> list[float]:
    """Rank the methods by a metric: 1 is best, equal values share the mean of their ranks, no value comes last."""
    from scipy.stats import rankdata

    sign = 1.0 if column.low else -1.0
    order = [math.inf if value is None else sign * value for value in column.values]
    return [float(rank) for rank in rankdata(order)]


def average_ranks(columns: Sequence[Column]) -> list[float]:
    """Return the mean of each method's ranks over all metrics."""
    return [sum(own) / len(own) for own in zip(*map(ranks, columns), strict=True)]


def relative_change(before: float | None, after: float | None) -> float | None:
    """Return (after − before) / before in percent; None where either is missing or not above 0, as of a log-ratio."""
    if before is None or after is None or before <= 0 or after <= 0:
        return None
    return 100 * (after - before) / before


def standings(
    methods: Sequence[str],
    columns: Sequence[Column],
    others: Sequence[Column] = (),
    *,
    baseline: int | None = None,
    unranked: Collection[int] = (),
) -> tuple[list[str], list[list[str]]]:
    """Format the methods by metrics, each with its rank, and the average rank.

    Args:
        methods: names of the rows.
        columns: the metrics.
        others: columns behind the average rank, which are not in it.
        baseline: place of the method that a last row compares the last ranked method with, in percent; None: no row.
        unranked: places of methods that stand outside, such as answers written by people.

    Returns:
        The header and the rows, all as text.
    """
    header = ["method", *(column.name for column in columns), "avg. rank", *(column.name for column in others)]
    ranked = [place for place in range(len(methods)) if place not in unranked]
    among = [replace(column, values=[column.values[place] for place in ranked]) for column in columns]
    rest = [[column.text(place) for column in others] for place in range(len(methods))]
    rows = [[name, *(c.text(place) for c in columns), "–", *rest[place]] for place, name in enumerate(methods)]
    for place, *own, mean in zip(ranked, *map(ranks, among), average_ranks(among), strict=True):
        cells = [
            column.text(place) if column.values[place] is None else f"{column.text(place)} ({rank:g})"
            for column, rank in zip(columns, own, strict=True)
        ]
        valued = any(value is not None for column in among for value in column.values)
        rows[place] = [methods[place], *cells, f"{mean:.1f}" if valued else "–", *rest[place]]
    if baseline is not None:
        last = ranked[-1]
        inside, outside = ([_change(column, baseline, last) for column in group] for group in (columns, others))
        rows.append([f"{methods[last]} from {methods[baseline]}", *inside, "", *outside])
    return header, rows


def _change(column: Column, baseline: int, last: int) -> str:
    """The relative change of a metric as a cell; a dash for none."""
    change = relative_change(column.values[baseline], column.values[last])
    return "–" if change is None else f"{change:+.1f} %"
