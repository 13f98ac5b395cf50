"""An evaluation as tables: ranks, differences, verdict, cautions (GRACE-KTO, tables 1 and 4)."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict
from typing import Any

from builders.core.evaluation_table import Table
from builders.grace_kto.settings import GraceKTOSettings
from training.differences import Difference, difference_table, differences
from training.grace_kto.evaluation import JUDGE_SCORE, MEDIAN, SHARES, Evaluation
from training.intervals import LEAST_QUERIES
from training.standings import Column, average_ranks, ranks, standings

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


def cells(evaluations: Sequence[Evaluation]) -> tuple[list[str], list[list[str]]]:
    """Format the table: one row per policy, the ranked metrics with their ranks first, and the change in percent last.

    Args:
        evaluations: the policies' results, at least one; the last row compares the last with the first.

    Returns:
        The header and the rows, all as text.
    """
    # Outside the average rank: shares, medians, the domain perplexity and the generated world's own measures.
    others = [*SHARES, *(label for label in evaluations[0].labels if label not in (*RANKED, *SHARES))]
    ranked, unranked = (
        [Column(label, [e.value(label) for e in evaluations], digits(label)) for label in labels]
        for labels in (RANKED, others)
    )
    names = [evaluation.name for evaluation in evaluations]
    (_, *header), rows = standings(names, ranked, unranked, baseline=0 if len(names) > 1 else None)
    return ["policy", *header], rows


def number(value: float | None, label: str) -> str:
    """A value with the digits that its metric deserves; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits(label)}f}"


def digits(label: str) -> int:
    """How many digits of a metric stand after the point."""
    return 1 if label in ("L", "E", JUDGE_SCORE) else 3


def differences_between(first: Evaluation, other: Evaluation, only: Collection[str] = ()) -> list[Difference]:
    """What became of each label of the table from one policy to another.

    Args:
        first: the policy that is compared with.
        other: the other one.
        only: labels to judge, together; none for all.
    """
    raw = {label: found for label, found in other.change_from(first).items() if not only or label in only}
    values = other.beside(first)
    return differences(values, raw, other.change_at_equal_length(first), LOW_IS_BETTER)


def differences_from(first: Evaluation, other: Evaluation) -> Table:
    """The differences of a policy from another one as a table."""
    found = differences_between(first, other)
    header, rows = difference_table(found, (first.name, other.name), {one.metric: digits(one.metric) for one in found})
    tested = sum(one.p is not None for one in found)
    title = (
        f"{other.name} from {first.name}, over common queries, with 95 % intervals; p corrected for {tested} metrics"
    )
    return Table(title, header, rows)


def all_differences(evaluations: Sequence[Evaluation]) -> tuple[Table, list[dict[str, Any]]]:
    """The differences of every policy from the first one, in one table for a file, and the same for machines."""
    first, *others = evaluations
    header: list[str] = []
    rows: list[Sequence[str]] = []
    records: list[dict[str, Any]] = []
    for other in others:
        table = differences_from(first, other)
        metric, n, _, _, *rest = table.header
        header = ["policy", metric, n, first.name, "value", *rest]
        rows += [[other.name, *row] for row in table.rows]
        found = differences_between(first, other)
        records += [{"policy": other.name, **asdict(one), "verdict": one.verdict} for one in found]
    return Table("", header, rows), records


def verdict(evaluations: Sequence[Evaluation]) -> str:
    """One sentence on what changed from the first to the last policy."""
    if len(evaluations) < 2:
        return "One policy alone: nothing to compare."
    first, last = evaluations[0], evaluations[-1]

    def told(found: Iterable[Difference]) -> str:
        ends = ((one.metric, number(one.before, one.metric), number(one.after, one.metric)) for one in found)
        return ", ".join(f"{label} {before} → {after}" for label, before, after in ends) or "nothing"

    found = [one for one in differences_between(first, last) if one.raw.value is not None]
    if not any(one.p for one in found):
        return (
            f"From {first.name} to {last.name}: {first.queries} held-out queries are too few to tell a difference; "
            f"evaluate.queries of {LEAST_QUERIES} and more can."
        )
    better, worse, same = ([one for one in found if one.direction == sign] for sign in (1, -1, 0))
    return (
        f"From {first.name} to {last.name}, over common queries, better: {told(better)}; "
        f"worse: {told(worse)}; not distinguishable: {', '.join(one.metric for one in same) or 'nothing'}."
    )


def progress(evaluations: Sequence[Evaluation]) -> str:
    """One line on the ranked metrics and the shares, from the first policy to the last.

    A `+` stands behind a change to the better, a `-` behind one to the worse, nothing where none can be told.
    """
    marks = {1: "+", -1: "-", 0: ""}
    found = []
    for one in differences_between(evaluations[0], evaluations[-1], only=(*RANKED, *SHARES)):
        ends = (number(one.before, one.metric), number(one.after, one.metric))
        found.append(f"{one.metric} {' → '.join(ends)}{marks[one.direction]}")
    return ", ".join(found)


def cautions(config: GraceKTOSettings, evaluations: Sequence[Evaluation]) -> list[str]:
    """Warn of each known way for training to go wrong that shows, since improving metrics may hide it.

    Args:
        config: the configuration of the run.
        evaluations: the policies' results, the first and the last one are compared.

    Returns:
        One line per caution, with the way out.
    """
    first, last = evaluations[0], evaluations[-1]
    lines = [
        f"no answer of {one.name} has the tagged form, so it has no metrics; grace report shows what it wrote"
        for one in evaluations
        if not one.value("matched")
    ]
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
