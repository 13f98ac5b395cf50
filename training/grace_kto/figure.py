"""An evaluation as a figure: a small panel per metric, in its own unit, with intervals (GRACE-KTO, figures 1 and 3)."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from builders.cards.figure_text import drawable
from builders.report.tables import shortened
from training.grace_kto.evaluation import MEDIAN, SHARES, Evaluation
from training.grace_kto.table import RANKED

Z = 1.96  # standard errors on each side of a 95 % interval
#: Units in the titles of the figure's panels; the other metrics have none.
UNITS = {
    "L": ", tokens",
    "E": ", %",
    "P": ", perplexity",
    "matched": ", share",
    "cut": ", share",
    "ppl_D": ", perplexity",
}
PANELS_IN_A_ROW = 4
TICKS = 8  # policies at most that are named below a panel
LABEL = 18  # characters of a policy's name below a panel


def draw(evaluations: Sequence[Evaluation], path: Path) -> None:
    """Draw a small panel per metric, in its own unit: each policy's value with its 95 % interval (figures 1 and 3).

    Args:
        evaluations: the policies' results.
        path: PNG file to write.
    """
    import matplotlib

    # The backend that needs no display; to be chosen before pyplot is imported.
    matplotlib.use("Agg")
    from matplotlib import pyplot

    labels, families = drawable([shortened(evaluation.name, LABEL) for evaluation in evaluations])
    panels = [*RANKED, *SHARES, *(label for label in evaluations[0].labels if label not in (*RANKED, *SHARES))]
    rows = -(-len(panels) // PANELS_IN_A_ROW)
    size = (2.6 * PANELS_IN_A_ROW, 2.3 * rows + 0.5)  # inches
    figure, grid = pyplot.subplots(rows, PANELS_IN_A_ROW, figsize=size, squeeze=False, layout="constrained")
    # Of many policies not every name has room.
    ticks = range(0, len(labels), -(-len(labels) // TICKS))
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes, label in zip(grid.flat, panels, strict=False):
        for place, evaluation in enumerate(evaluations):
            _point(axes, place, evaluation, label)
        axes.set_title(f"{label}{UNITS.get(label.removesuffix(MEDIAN), '')}", fontsize="medium")
        axes.set_xlim(-0.5, len(labels) - 0.5)
        axes.set_xticks(ticks, [labels[tick] for tick in ticks], fontfamily=families, rotation=30, ha="right")
        axes.tick_params(labelsize="small")
    numbered = any(label.isdecimal() for label in labels)  # a name that no font here has the characters for
    more = " A policy's number is its place in the table." if numbered else ""
    figure.supxlabel(caption(evaluations) + more, fontsize="small")
    # Without the version of matplotlib the same numbers give the same file.
    figure.savefig(path, dpi=120, metadata={"Software": None})
    pyplot.close(figure)


def _point(axes: Any, place: int, evaluation: Evaluation, label: str) -> None:
    """Draw one policy's value with its interval; nothing where it has none."""
    value, ends = evaluation.value(label), interval(evaluation, label)
    if value is None:
        return
    errors = None if ends is None else [[value - ends[0]], [ends[1] - value]]
    axes.errorbar(place, value, errors, fmt="o", markersize=4, capsize=3, color="C0")


def interval(evaluation: Evaluation, label: str) -> tuple[float, float] | None:
    """The 95 % interval of a mean, a median or a share.

    A share's is Wilson's (1927) over the queries, which has a width at 0 and at 1 too; the others' are by bootstrap.

    Returns:
        Its two ends; None for a metric of fewer than two queries.
    """
    found = evaluation.estimates[label]
    if label not in SHARES:
        return None if found.low is None or found.high is None else (found.low, found.high)
    share, n = found.value or 0.0, evaluation.queries
    middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return min(middle - half, share), max(middle + half, share)  # at 0 and at 1 an end is the share, but for rounding


def caption(evaluations: Sequence[Evaluation]) -> str:
    """What the figure shows, and over how many answers."""
    counts = sorted({int(evaluation.columns["matched"].sum()) for evaluation in evaluations})
    matched = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    answers = " or ".join(str(n) for n in sorted({evaluation.columns["matched"].size for evaluation in evaluations}))
    return (
        f"Mean or median with 95 % interval over the matched answers of each policy (n = {matched}); "
        f"matched and cut: share of all answers (n = {answers})."
    )
