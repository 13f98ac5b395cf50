"""An evaluation as a figure: a small panel per metric, in its own unit, with intervals (GRACE-KTO, figures 1 and 3)."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builders.cards.figure_text import drawable, shortened
from builders.cards.figures.drawing import Style, fixed_style, panels, style, write_both
from builders.cards.figures.drawing import caption as write_caption
from training.grace_kto.evaluation import MEDIAN, SHARES, Evaluation
from training.grace_kto.table import RANKED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
# The name of a round's policy, or the label of its answers; the one before the first round is called first.
ROUND = re.compile(r"round[ -]([0-9]+)")


def draw(evaluations: Sequence[Evaluation], path: Path) -> tuple[str, str]:
    """Write the figure of an evaluation as PNG and as SVG.

    Args:
        evaluations: the policies' results.
        path: its file without the ending.

    Returns:
        The names of the files.
    """
    with fixed_style():
        return write_both(figure_of(evaluations), path)


def figure_of(evaluations: Sequence[Evaluation]) -> "Figure":
    """Draw a small panel per metric, in its own unit: each policy's value with its 95 % interval.

    The policies of a training's rounds stand at their rounds and are joined by a line (figure 3); any others stand side
    by side, each with a marker of its own (figure 1).

    Args:
        evaluations: the policies' results.
    """
    names = [shortened(evaluation.name, LABEL) for evaluation in evaluations]
    labels, families = drawable(names)
    shown = [*RANKED, *SHARES, *(label for label in evaluations[0].labels if label not in (*RANKED, *SHARES))]
    rounds = rounds_of([evaluation.name for evaluation in evaluations])
    places = list(range(len(labels))) if rounds is None else rounds
    figure, grid = panels(len(shown), PANELS_IN_A_ROW, 1.15, below=0.8 if rounds is None else 0.42)
    for axes, label in zip(grid, shown, strict=True):
        for number, (place, evaluation) in enumerate(zip(places, evaluations, strict=True)):
            _point(axes, place, evaluation, label, style(0 if rounds else number))
        axes.set_title(f"{label}{UNITS.get(label.removesuffix(MEDIAN), '')}")
        axes.set_xlim(min(places) - 0.5, max(places) + 0.5)
        axes.tick_params(labelsize=7)
        if rounds is None:
            # Of many policies not every name has room.
            ticks = range(0, len(labels), -(-len(labels) // TICKS))
            axes.set_xticks(ticks, [labels[tick] for tick in ticks], fontfamily=families, rotation=30, ha="right")
        else:
            _join(axes, places, [evaluation.value(label) for evaluation in evaluations])
    # A name that no font here has the characters for.
    more = " A policy's number is its place in the table." if any(map(str.isdecimal, labels)) else ""
    write_caption(figure, caption(evaluations) + more)
    return figure


def rounds_of(names: Sequence[str]) -> list[int] | None:
    """Return the rounds of policies that are those of one training, 0 for the first policy; None for other policies.

    >>> rounds_of(["first", "round 1", "round 2"]), rounds_of(["first", "round 1"]), rounds_of(["a", "b", "c"])
    ([0, 1, 2], None, None)
    """
    found = [0 if name == "first" else int(match[1]) if (match := ROUND.fullmatch(name)) else None for name in names]
    rounds = [number for number in found if number is not None]
    return rounds if len(rounds) == len(names) > 2 and rounds == sorted(set(rounds)) else None


def _join(axes: Any, rounds: Sequence[int], values: Sequence[float | None]) -> None:
    """Draw a line through the values of the rounds, with a gap where a round has none."""
    from matplotlib.ticker import MaxNLocator

    axes.plot(rounds, [math.nan if value is None else value for value in values], color=style(0).colour, linewidth=1)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.set_xlabel("round (0: the first policy)", fontsize=7)


def _point(axes: Any, place: int, evaluation: Evaluation, label: str, look: Style) -> None:
    """Draw one policy's value with its interval; nothing where it has none."""
    value, ends = evaluation.value(label), interval(evaluation, label)
    if value is None:
        return
    errors = None if ends is None else [[value - ends[0]], [ends[1] - value]]
    axes.errorbar(place, value, errors, fmt=look.marker, markersize=4, capsize=3, color=look.colour)


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
