"""An evaluation as a table: ranks, verdict, cautions, Markdown, figure (GRACE-KTO, tables 1 and 4, figures 1 and 3)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from builders.cards.figure_text import drawable
from builders.grace_kto.settings import GraceKTOSettings
from builders.report.tables import shortened

# Metrics that the paper ranks policies by; higher is better in all of them.
RANKED = ("L", "E", "P", "R_s", "R_d")
#: A metric's mean counts as changed from this many standard errors of the difference.
NOTABLE = 2.0
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
#: A caution is due above this share of responses cut at the length limit, and above this ratio of the domain model's
#: perplexity, last policy to first.
RUNAWAY_SHARE = 0.05
COLLAPSE_RATIO = 1.5


@dataclass(frozen=True)
class Evaluation:
    """The results of one policy.

    Attributes:
        name: its name in the table.
        policy: its id and revision.
        queries: number of held-out queries.
        matched: share of matched answers, in [0, 1].
        cut: share of answers cut at the length limit, in [0, 1].
        means: mean over the matched answers by metric; None where no answer has a value.
        errors: standard error of each mean; None for fewer than two values.
    """

    name: str
    policy: str
    queries: int
    matched: float
    cut: float
    means: dict[str, float | None]
    errors: dict[str, float | None]


def rank_policies(evaluations: Sequence[Evaluation]) -> tuple[list[dict[str, float]], list[float]]:
    """Rank the policies by each of L, E, P, R_s and R_d; rank 1 is best, ties share the mean rank.

    A policy without a value for a metric ranks last in it.

    Returns:
        The ranks of each policy by metric, and the average rank of each policy.
    """
    ranks: list[dict[str, float]] = [{} for _ in evaluations]
    for metric in RANKED:
        values = [e.means[metric] if e.means[metric] is not None else -math.inf for e in evaluations]
        for rank, place in zip(ranks, pl.Series(values).rank("average", descending=True).to_list(), strict=True):
            rank[metric] = place
    return ranks, [sum(rank.values()) / len(rank) for rank in ranks]


def cells(
    evaluations: Sequence[Evaluation], ranks: Sequence[dict[str, float]], average: Sequence[float]
) -> tuple[list[str], list[list[str]]]:
    """Format the table: one row per policy, the ranked metrics with their ranks first.

    Args:
        evaluations: the policies' results, at least one.
        ranks: the ranks of each policy by metric.
        average: the average rank of each policy.

    Returns:
        The header and the rows, all as text.
    """
    # Metrics outside the average rank: the domain perplexity and the generated world's own measures.
    others = [label for label in evaluations[0].means if label not in RANKED]
    header = ["policy", *RANKED, "avg. rank", "matched", "cut", *others]
    rows = []
    for evaluation, rank, mean in zip(evaluations, ranks, average, strict=True):
        ranked = [f"{_number(evaluation.means[metric], metric)} ({rank[metric]:g})" for metric in RANKED]
        rest = [_number(evaluation.means[label], label) for label in others]
        rows.append(
            [evaluation.name, *ranked, f"{mean:.1f}", f"{evaluation.matched:.3f}", f"{evaluation.cut:.3f}", *rest]
        )
    return header, rows


def _number(value: float | None, metric: str) -> str:
    """A mean with the digits that its metric deserves; a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:.1f}" if metric in ("L", "E") else f"{value:.3f}"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The table as Markdown, in the layout of the paper's tables 1 and 4."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    # A bar in a policy's name would split the cell.
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def verdict(evaluations: Sequence[Evaluation]) -> str:
    """One sentence on what changed from the first to the last policy by more than two standard errors.

    Higher is better for all but the perplexity, the share of cut responses and the duplicate sentences.
    """
    if len(evaluations) < 2:
        return "One policy alone: nothing to compare."
    first, last = evaluations[0], evaluations[-1]
    better, worse, same = [], [], []
    for label in (*last.means, "matched", "cut"):
        before, after = _value(first, label), _value(last, label)
        if before is None or after is None:
            continue
        change = f"{label} {_number(before, label)} → {_number(after, label)}"
        # Standard error of the difference of two independent means; an error that is unknown counts as 0.
        spread = math.hypot(_error(first, label), _error(last, label))
        if abs(after - before) <= NOTABLE * spread:
            same.append(label)
        # These three are better where they fall.
        elif (after > before) != (label in ("ppl_D", "cut", "duplicate_sentences")):
            better.append(change)
        else:
            worse.append(change)
    return (
        f"From {first.name} to {last.name}, better: {', '.join(better) or 'nothing'}; worse: "
        f"{', '.join(worse) or 'nothing'}; within two standard errors: {', '.join(same) or 'nothing'}."
    )


def cautions(config: GraceKTOSettings, evaluations: Sequence[Evaluation]) -> list[str]:
    """Warn of each known way for training to go wrong that shows, since improving metrics may hide it.

    Args:
        config: the configuration of the run.
        evaluations: the policies' results, the first and the last one are compared.

    Returns:
        One line per caution, with the way out.
    """
    first, last = evaluations[0], evaluations[-1]
    lines = []
    if last.cut > RUNAWAY_SHARE:
        lines.append(
            f"{last.cut:.0%} of {last.name}'s responses are cut at the length limit: length runs away; "
            "raise train.mu, lower train.learning_rate, or raise sample.max_new_tokens"
        )
    before, after = _value(first, "ppl_D"), _value(last, "ppl_D")
    if before is not None and after is not None and after > COLLAPSE_RATIO * before:
        lines.append(
            f"perplexity under the domain model rose from {before:.2f} to {after:.2f}: the language decays, which "
            "length and relevance hide; lower train.learning_rate"
        )
    if config.sample.temperature < 1:
        lines.append(
            f"sample.temperature is {config.sample.temperature:g}: below 1 the responses to a query grow alike and "
            "their ranks say little"
        )
    return lines


def _value(evaluation: Evaluation, label: str) -> float | None:
    """A share, or the mean of a metric."""
    shares = {"matched": evaluation.matched, "cut": evaluation.cut}
    return shares[label] if label in shares else evaluation.means[label]


def _error(evaluation: Evaluation, label: str) -> float:
    """The standard error of a share or of a mean."""
    if label in ("matched", "cut"):
        share = evaluation.matched if label == "matched" else evaluation.cut
        return math.sqrt(share * (1 - share) / evaluation.queries)  # binomial
    return evaluation.errors[label] or 0.0


def draw(evaluations: Sequence[Evaluation], path: Path) -> None:
    """Draw a small panel per metric, in its own unit: each policy's mean with its 95 % interval (figures 1 and 3).

    Args:
        evaluations: the policies' results.
        path: PNG file to write.
    """
    import matplotlib

    # The backend that needs no display; to be chosen before pyplot is imported.
    matplotlib.use("Agg")
    from matplotlib import pyplot

    labels, families = drawable([shortened(evaluation.name, LABEL) for evaluation in evaluations])
    panels = [*RANKED, "matched", "cut", *(label for label in evaluations[0].means if label not in RANKED)]
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
        axes.set_title(f"{label}{UNITS.get(label, '')}", fontsize="medium")
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
    """Draw one policy's mean with its interval; nothing where it has no mean."""
    value, ends = _value(evaluation, label), interval(evaluation, label)
    if value is None:
        return
    errors = None if ends is None else [[value - ends[0]], [ends[1] - value]]
    axes.errorbar(place, value, errors, fmt="o", markersize=4, capsize=3, color="C0")


def interval(evaluation: Evaluation, label: str) -> tuple[float, float] | None:
    """The 95 % interval of a mean or of a share.

    A mean's is 1.96 standard errors to both sides. A share's is Wilson's (1927), which has a width at 0 and at 1 too.

    Returns:
        Its two ends; None for a mean of fewer than two values.
    """
    if label not in ("matched", "cut"):
        mean, error = evaluation.means[label], evaluation.errors[label]
        return None if mean is None or error is None else (mean - Z * error, mean + Z * error)
    share, n = _value(evaluation, label) or 0.0, evaluation.queries
    middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return min(middle - half, share), max(middle + half, share)  # at 0 and at 1 an end is the share, but for rounding


def caption(evaluations: Sequence[Evaluation]) -> str:
    """What the figure shows, and over how many answers."""
    answers = sorted({round(evaluation.matched * evaluation.queries) for evaluation in evaluations})
    matched = f"{answers[0]}" if len(answers) == 1 else f"{answers[0]} to {answers[-1]}"
    queries = " or ".join(str(n) for n in sorted({evaluation.queries for evaluation in evaluations}))
    return (
        f"Mean with 95 % interval over the matched answers of each policy (n = {matched}); "
        f"matched and cut: share of all answers (n = {queries})."
    )
