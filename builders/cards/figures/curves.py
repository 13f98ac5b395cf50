"""Learning curves: what each step of a training logged, over the steps of all rounds.

A policy's log holds the rounds before too (`builders.store.training_log`), so one model's log is the whole run's.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from builders.cards.figure_text import drawable, shortened
from builders.cards.figures.drawing import INK, RULES, caption, panels, style, zero_line
from builders.store.training_log import ROUND, STEP

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Logs = Mapping[str, pl.DataFrame]
"""The logs of one revision by the name of what was trained; a model for each task has one each."""

POINTS = 1_000  # of a curve at most; of more steps a point is the mean of several
SMOOTHED = 20  # a curve's running mean is over this part of its steps
NAMED_ROUNDS = 12  # borders at most that have the round's number
LABEL = 24  # characters of a model's name

EXACT = "learning rate"  # has no noise to take a mean of
Panel = tuple[str, Sequence[tuple[str, pl.Expr]]]  # title, and by label the measure of each curve
CHOSEN, REJECTED = pl.col("rewards/chosen"), pl.col("rewards/rejected")
LEARNING: Sequence[Panel] = (
    ("loss", [("", pl.col("loss"))]),
    ("cross-entropy, nats per token", [("", pl.col("cross_entropy"))]),
    ("gradient norm, before clipping", [("", pl.col("grad_norm"))]),
    (EXACT, [("", pl.col("learning_rate"))]),
)
MARGINS: Sequence[Panel] = (
    ("reward, β · log-ratio to the reference", [("positive rows", CHOSEN), ("negative rows", REJECTED)]),
    ("margin of rewards", [("", pl.coalesce(CHOSEN - REJECTED, pl.col("margin")))]),
    ("KL estimate z_ref, nats", [("", pl.col("kl"))]),
    ("margin of log-probabilities, nats", [("", pl.col("logp_margin"))]),
    ("accuracy, share of pairs", [("", pl.col("accuracy"))]),
)


def learning_figure(logs: Logs) -> "Figure | None":
    """Draw loss, cross-entropy, gradient norm and learning rate; None where no step was logged."""
    return _figure(logs, LEARNING)


def margins_figure(logs: Logs) -> "Figure | None":
    """Draw rewards, their margin, KL and accuracy; None where none of them was logged, as of supervised fine-tuning."""
    return _figure(logs, MARGINS)


def _figure(logs: Logs, wanted: Sequence[Panel]) -> "Figure | None":
    """Draw a panel for each measure that some step has."""
    found = []
    for title, curves in wanted:
        here = [(label, name, curve) for label, measure in curves for name, curve in _curves(logs, measure)]
        if here:
            found.append((title, here))
    if not found:
        return None
    figure, grid = panels(len(found), 2, 1.5, below=0.25)
    names, families = drawable([shortened(name, LABEL) for name in logs])
    shown = dict(zip(logs, names, strict=True))
    for axes, (title, here) in zip(grid, found, strict=True):
        for place, (label, name, curve) in enumerate(here):
            said = ", ".join(filter(None, (shown[name] if len(logs) > 1 else "", label)))
            _draw(axes, place, said, curve if title != EXACT else curve.with_columns(smooth="value"), len(here))
        if title.startswith(("reward", "margin")):
            zero_line(axes)
        _mark_rounds(axes, next(iter(logs.values())))
        axes.set_title(title)
        axes.margins(x=0.02)
        # The same names in all panels need one legend.
        if len(here) > 1 and (axes is grid[0] or len(logs) == 1):
            axes.legend(prop={"family": families, "size": 8})
    caption(figure, _caption(logs, any(len(here) == 1 for _, here in found)))
    return figure


def _curves(logs: Logs, measure: pl.Expr) -> list[tuple[str, pl.DataFrame]]:
    """Return the curve of a measure in each log that has it: `step`, `value` and `smooth`, where a step has it."""
    curves = []
    for name, log in logs.items():
        rows = log.select(STEP, measure.alias("value")).drop_nulls()
        if rows.is_empty():
            continue
        if (every := _every(log.height)) > 1:
            group = (pl.int_range(pl.len()) // every).alias("group")
            rows = rows.group_by(group, maintain_order=True).agg(pl.col(STEP, "value").mean()).drop("group")
        curves.append((name, rows.with_columns(smooth=running_mean(rows["value"]))))
    return curves


def _every(steps: int) -> int:
    """Return over how many steps a point of a curve is the mean."""
    return -(-steps // POINTS)


def _draw(axes: Any, place: int, label: str, curve: pl.DataFrame, curves: int) -> None:
    """Draw a curve: one alone as it is, with its running mean; of several the running means."""
    look = style(place)
    steps, values, smooth = (curve[name].to_list() for name in (STEP, "value", "smooth"))
    if curves == 1 and values != smooth:
        axes.plot(steps, values, color=RULES, linewidth=0.6, alpha=0.8)
    # A curve of few points would not show without markers.
    every = max(1, len(steps) // 8)
    marks = {"marker": look.marker, "markevery": (place * every // max(curves, 1), every)} if curves > 1 else {}
    marks = {"marker": look.marker} if len(steps) < 3 else marks
    axes.plot(steps, smooth, color=look.colour, linestyle=look.line, label=label, **marks)


def running_mean(values: pl.Series) -> pl.Series:
    """Return the mean around each value, over a twentieth of all, at least one."""
    window = max(1, len(values) // SMOOTHED)
    return values.rolling_mean(window, min_samples=1, center=True)


def _mark_rounds(axes: Any, log: pl.DataFrame) -> None:
    """Draw a dotted line where each round after the first begins, with the rounds' numbers above where they fit."""
    from matplotlib.transforms import blended_transform_factory

    rounds = log.drop_nulls(ROUND).group_by(ROUND, maintain_order=True).agg(pl.col(STEP).min())
    if rounds.height < 2:
        return
    every = -(-rounds.height // NAMED_ROUNDS)
    above = blended_transform_factory(axes.transData, axes.transAxes)
    for place, (number, first) in enumerate(rounds.iter_rows()):
        if place:
            axes.axvline(first - 0.5, color=RULES, linestyle=":", linewidth=0.8)
        if place % every == 0:
            axes.text(first, 1.0, f"{number}", transform=above, fontsize=6.5, va="top", ha="left", color=INK)


def _caption(logs: Logs, smoothed: bool) -> str:
    """Say what is on the axis below, and how curves were made."""
    log = next(iter(logs.values()))
    rounds = log[ROUND].drop_nulls().n_unique()
    parts = ["optimizer step"]
    if rounds > 1:
        parts[0] += f" over {rounds} rounds (dotted: where the round of the number begins)"
    longest = max(log.height for log in logs.values())
    if longest >= 2 * SMOOTHED:
        parts.append(f"grey: {_points(longest)}; lines: running mean" if smoothed else "lines: running mean")
    return "; ".join(parts)


def _points(steps: int) -> str:
    """Say what a point of a curve is."""
    every = _every(steps)
    return "each step" if every == 1 else f"mean of {every} steps"
