"""What became of each metric from one method to another: difference, at equal length, p, verdict (GRACE-KTO, §4.2).

metric  n    first  last  verdict              difference             at equal length     p
L       486  51.2   71.0  better               +19.8 (+17.9 … +21.6)  –                   0.013
E       486  97.1   96.4  not distinguishable  -0.7 (-1.5 … +0.2)     +0.1 (-0.8 … +1.0)  1.000
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from builders.cards.figure_text import shortened
from training.intervals import CONFIDENCE, Estimate, corrected

LABEL = 24  # characters of a method's name in the header
VERDICTS = {1: "better", -1: "worse", 0: "not distinguishable"}


@dataclass(frozen=True)
class Difference:
    """What became of one metric.

    Attributes:
        metric: its name.
        before: its value of the method that is compared with, over the queries that both have one for; None without.
        after: its value of the other method over these.
        queries: how many these are.
        raw: the difference of the two, paired by query.
        controlled: what of it length does not explain; None for length itself and for what is no mean over documents.
        p: of `raw`, corrected for the number of metrics (Holm); None where there is none.
        direction: 1 for better, -1 for worse, 0 where no difference can be told, or there is none.
    """

    metric: str
    before: float | None
    after: float | None
    queries: int
    raw: Estimate
    controlled: Estimate | None
    p: float | None
    direction: int

    @property
    def verdict(self) -> str:
        """The direction in words."""
        if self.raw.value is None:
            return "no value"
        return "too few queries" if self.p is None else VERDICTS[self.direction]


def differences(
    values: Mapping[str, tuple[float | None, float | None, int]],
    raw: Mapping[str, Estimate],
    controlled: Mapping[str, Estimate],
    low_is_better: Sequence[str] = (),
) -> list[Difference]:
    """Judge differences, those of one comparison together.

    A difference counts where its p, corrected for their number, is at most 5 %: of twenty metrics one would seem to
    have changed by chance.

    Args:
        values: by metric, before and after, and of how many queries.
        raw: by metric, the difference.
        controlled: by metric, the difference at equal length, of those that have one.
        low_is_better: metrics that are better where they fall.
    """
    tested = {metric: found.p for metric, found in raw.items() if found.p is not None}
    p = dict(zip(tested, corrected(list(tested.values())), strict=True))
    found = []
    for metric, difference in raw.items():
        told = p.get(metric, 1.0) <= 1 - CONFIDENCE
        direction = _sign(difference) * (-1 if metric in low_is_better else 1) if told else 0
        found.append(Difference(metric, *values[metric], difference, controlled.get(metric), p.get(metric), direction))
    return found


def _sign(change: Estimate) -> int:
    return 0 if change.value is None else int(change.value > 0) - int(change.value < 0)


def difference_table(
    found: Sequence[Difference], names: tuple[str, str], digits: Mapping[str, int]
) -> tuple[list[str], list[list[str]]]:
    """Format differences, with their 95 % intervals.

    Args:
        found: a row each.
        names: of the method that is compared with, and of the other.
        digits: by metric, how many stand after the point.

    Returns:
        The header and the rows, all as text; n is the number of queries.
    """
    short = (shortened(name, LABEL) for name in names)
    header = ["metric", "n", *short, "verdict", "difference", "at equal length", "p"]
    rows = []
    for one in found:
        places = digits[one.metric]
        ends = ("–" if value is None else f"{value:.{places}f}" for value in (one.before, one.after))
        raw, controlled = _with_interval(one.raw, places), _with_interval(one.controlled, places)
        p = "–" if one.p is None else f"{one.p:.3f}"
        rows.append([one.metric, str(one.queries), *ends, one.verdict, raw, controlled, p])
    return header, rows


def _with_interval(found: Estimate | None, digits: int) -> str:
    """Format a difference with its interval; a dash where there is none."""
    if found is None or found.value is None:
        return "–"
    if found.low is None or found.high is None:
        return f"{found.value:+.{digits}f}"
    return f"{found.value:+.{digits}f} ({found.low:+.{digits}f} … {found.high:+.{digits}f})"
