"""An evaluation as a table: ranks, verdict, cautions, Markdown (GRACE-KTO, tables 1 and 4)."""

from collections.abc import Iterable, Mapping, Sequence

from builders.grace_kto.settings import GraceKTOSettings
from training.grace_kto.evaluation import JUDGE_SCORE, MEDIAN, SHARES, Evaluation
from training.intervals import CONFIDENCE, Estimate, corrected
from training.standings import Column, average_ranks, ranks

# Metrics that the paper ranks policies by; higher is better in all of them.
RANKED = ("L", "E", "P", "R_s", "R_d")
#: Better where they fall.
LOW_IS_BETTER = ("ppl_D", "ppl_D" + MEDIAN, "cut", "duplicate_sentences")
#: A caution is due above this share of responses cut at the length limit, above this ratio of the domain model's
#: median perplexity, last policy to first, above this fall of E in percent points, and below this ratio of the
#: matched shares.
RUNAWAY_SHARE = 0.05
COLLAPSE_RATIO = 1.5
REPETITION = 5.0
UNMATCHED_RATIO = 0.8


def rank_policies(evaluations: Sequence[Evaluation]) -> tuple[list[dict[str, float]], list[float]]:
    """Rank the policies by each of L, E, P, R_s and R_d; rank 1 is best, ties share the mean rank.

    A policy without a value for a metric ranks last in it.

    Returns:
        The ranks of each policy by metric, and the average rank of each policy.
    """
    columns = [Column(metric, [e.value(metric) for e in evaluations]) for metric in RANKED]
    found = [ranks(column) for column in columns]
    return [dict(zip(RANKED, own, strict=True)) for own in zip(*found, strict=True)], average_ranks(columns)


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
    # Outside the average rank: shares, medians, the domain perplexity and the generated world's own measures.
    others = [*SHARES, *(label for label in evaluations[0].labels if label not in (*RANKED, *SHARES))]
    header = ["policy", *RANKED, "avg. rank", *others]
    rows = []
    for evaluation, rank, mean in zip(evaluations, ranks, average, strict=True):
        ranked = [f"{number(evaluation.value(metric), metric)} ({rank[metric]:g})" for metric in RANKED]
        rest = [number(evaluation.value(label), label) for label in others]
        rows.append([evaluation.name, *ranked, f"{mean:.1f}", *rest])
    return header, rows


def number(value: float | None, label: str) -> str:
    """A value with the digits that its metric deserves; a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:.1f}" if label in ("L", "E", JUDGE_SCORE) else f"{value:.3f}"


def changes(evaluations: Sequence[Evaluation]) -> tuple[list[str], list[str], list[str]]:
    """Sort the labels by what became of them from the first policy to the last: better, worse, not distinguishable.

    A label without a value is in none of them.
    """
    found = evaluations[-1].change_from(evaluations[0])
    good = directions(found)
    known = [label for label, change in found.items() if change.value is not None]
    better, worse, same = ([label for label in known if good[label] == sign] for sign in (1, -1, 0))
    return better, worse, same


def directions(changes: Mapping[str, Estimate]) -> dict[str, int]:
    """1 for a change to the better, -1 to the worse, 0 where it cannot be told from none, by label.

    A change counts where its p, corrected for the number of labels, is at most 5 %: of twenty metrics one would seem to
    have changed by chance.
    """
    tested = {label: change.p for label, change in changes.items() if change.p is not None}
    p = dict(zip(tested, corrected(list(tested.values())), strict=True))
    return {
        label: 0 if p.get(label, 1.0) > 1 - CONFIDENCE else _sign(change) * (-1 if label in LOW_IS_BETTER else 1)
        for label, change in changes.items()
    }


def _sign(change: Estimate) -> int:
    return 0 if change.value is None else int(change.value > 0) - int(change.value < 0)


def verdict(evaluations: Sequence[Evaluation]) -> str:
    """One sentence on what changed from the first to the last policy."""
    if len(evaluations) < 2:
        return "One policy alone: nothing to compare."
    first, last = evaluations[0], evaluations[-1]

    def told(labels: Iterable[str]) -> str:
        ends = ((label, number(first.value(label), label), number(last.value(label), label)) for label in labels)
        return ", ".join(f"{label} {before} → {after}" for label, before, after in ends) or "nothing"

    better, worse, same = changes(evaluations)
    return (
        f"From {first.name} to {last.name}, better: {told(better)}; worse: {told(worse)}; not distinguishable: "
        f"{', '.join(same) or 'nothing'}."
    )


def progress(evaluations: Sequence[Evaluation]) -> str:
    """One line on the ranked metrics and the shares, from the first policy to the last.

    A `+` stands behind a change to the better, a `-` behind one to the worse, nothing where none can be told.
    """
    first, last = evaluations[0], evaluations[-1]
    marks = {1: "+", -1: "-", 0: ""}
    changes = {label: c for label, c in last.change_from(first).items() if label in (*RANKED, *SHARES)}
    found = []
    for label, good in directions(changes).items():
        ends = (number(first.value(label), label), number(last.value(label), label))
        found.append(f"{label} {' → '.join(ends)}{marks[good]}")
    return ", ".join(found)


def at_equal_length(evaluations: Sequence[Evaluation]) -> str | None:
    """One sentence on what changed beside what length explains; None where nothing can be told.

    Of the ranked metrics and a judge's score, from the first to the last policy, see `length_controlled`.
    """
    found = evaluations[-1].change_at_equal_length(evaluations[0]) if len(evaluations) > 1 else {}
    told = [
        f"{label} {change.value:+.3g} ({change.low:+.3g} … {change.high:+.3g})"
        for label, change in found.items()
        if label in (*RANKED, JUDGE_SCORE) and change.value is not None and change.low is not None
    ]
    return (
        f"At equal length, from {evaluations[0].name} to {evaluations[-1].name}: {', '.join(told)}." if told else None
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
    if (cut := last.value("cut") or 0.0) > RUNAWAY_SHARE:
        lines.append(
            f"{cut:.0%} of {last.name}'s responses are cut at the length limit: length runs away; "
            "raise train.mu, lower train.learning_rate, or raise sample.max_new_tokens"
        )
    before, after = first.value("ppl_D" + MEDIAN), last.value("ppl_D" + MEDIAN)
    if before is not None and after is not None and after > COLLAPSE_RATIO * before:
        lines.append(
            f"the median perplexity under the domain model rose from {before:.2f} to {after:.2f}: the language decays, "
            "which length and relevance hide; lower train.learning_rate"
        )
    before, after = first.value("E"), last.value("E")
    if before is not None and after is not None and after < before - REPETITION:
        lines.append(
            f"diversity E fell from {before:.1f} to {after:.1f}: {last.name} repeats itself; lower "
            "train.learning_rate, or raise calibrate.coefficients.diversity"
        )
    before, after = first.value("matched") or 0.0, last.value("matched") or 0.0
    if after < UNMATCHED_RATIO * before:
        lines.append(
            f"{after:.0%} of {last.name}'s responses have the tagged form, {before:.0%} of {first.name}'s; raise "
            "train.mu, or lower train.learning_rate"
        )
    if config.sample.temperature < 1:
        lines.append(
            f"sample.temperature is {config.sample.temperature:g}: below 1 the responses to a query grow alike and "
            "their ranks say little"
        )
    return lines
