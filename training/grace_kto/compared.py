"""What answers to the same queries say of their policies: tables and a figure, from the datasets alone."""

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from builders.cards.figures.drawing import fixed_style, svg
from builders.core.evaluation_table import EvaluationTable
from builders.judging.grades import UNSCORED
from builders.store.revision import Revision
from training.grace_kto.answers import ANSWERS
from training.grace_kto.evaluation import GRADES, JUDGE_SCORE, Evaluation, evaluation_of
from training.grace_kto.evaluations import EVALUATIONS
from training.grace_kto.figure import figure_of
from training.grace_kto.table import cells, differences_from, verdict

log = logging.getLogger(__name__)

UNSCORED_SHARE = 0.05
"""A caution is due where more of the answers than this have no grade."""
WATCHED = "-watch"
"""End of the labels of answers that a loop looks at, which are others than those of `grace evaluate`."""


def comparison_of(
    evaluations: Sequence[Evaluation], datasets: Sequence[Revision], warned: Sequence[str] = ()
) -> EvaluationTable:
    """Return the tables of an evaluation and what is said below them.

    Args:
        evaluations: the policies' results; the first is compared with.
        datasets: their answers.
        warned: cautions.
    """
    header, rows = cells(evaluations)
    graded = (graded_by(evaluation, own) for evaluation, own in zip(evaluations, datasets, strict=True))
    lines = [verdict(evaluations), *filter(None, graded), *(f"Caution: {line}." for line in warned)]
    return EvaluationTable(
        title=f"{evaluations[0].queries} held-out queries, means over matched responses (rank)",
        header=header,
        rows=rows,
        lines=lines,
        beside=[differences_from(evaluations[0], evaluations[-1])] if len(evaluations) > 1 else [],
        public={},
        files=(),
    )


def compared_answers(datasets: Sequence[Revision]) -> EvaluationTable | None:
    """Return the comparison of policies that datasets of answers hold, without any model.

    Args:
        datasets: revisions; those of stage `answers` and `evaluations` count, the first of them is compared with.

    Returns:
        The table and what is said below it; None where there are no such datasets, or they are of different queries.
    """
    stages = (ANSWERS.name, EVALUATIONS.name)
    own = [one for one in datasets if one.manifest is not None and one.manifest.stage in stages]
    frames = [one.scan().collect() for one in own]
    if not own:
        return None
    if (reason := _incomparable(frames)) is not None:
        log.warning("%s: no table compares them", reason)
        return None
    judges = {frozenset(_judges(frame)) for frame in frames}
    if len(judges) > 1:
        log.warning("the answers were not all graded by one judge, asked in one way: their grades do not compare")
    left = set.intersection(*(set(frame.columns) for frame in frames))
    left -= set(GRADES.values()) if len(judges) > 1 else set()
    frames = [frame.select(column for column in frame.columns if column in left) for frame in frames]
    evaluations = [evaluation_of(name, frame) for name, frame in zip(_labels(own), frames, strict=True)]
    with fixed_style():
        figure = svg(figure_of(evaluations))
    found = comparison_of(evaluations, own, ungraded(evaluations, own))
    return replace(found, pictures=[("Metrics of the policies, with 95 % intervals", figure)])


def _incomparable(frames: Sequence[pl.DataFrame]) -> str | None:
    """Return why policies' answers cannot be compared; None where they can."""
    if any(not {"matched", "finish_reason", "length"} <= set(frame.columns) for frame in frames):
        return "answers without metrics, as other people's"
    if any(frame["response_id"].to_list() != frames[0]["response_id"].to_list() for frame in frames):
        return "answers to other queries, or other numbers of answers to each"
    if len({frame["policy"][0] for frame in frames}) < len(frames):
        return "answers of one policy in two datasets"
    return None


def _judges(frame: pl.DataFrame) -> list[tuple[object, ...]]:
    """Return who graded the answers, and how they were asked; empty for answers without grades."""
    asked = ["judge", "prompt_hash", "temperature", "top_p"]
    return frame.select(asked).unique().rows() if "judge" in frame.columns else []


def _labels(datasets: Sequence[Revision]) -> list[str]:
    """Return a name of each dataset's policy: its label in the run; the datasets' names where runs share labels."""
    stems = [one.repo.rpartition("/")[2].rpartition("-")[0] for one in datasets]
    settings = [one.manifest.execution.get("evaluate", {}) if one.manifest else {} for one in datasets]
    labels = [(own.get("label") or stem).removesuffix(WATCHED) for own, stem in zip(settings, stems, strict=True)]
    return labels if len(set(labels)) == len(labels) else stems


def graded_by(evaluation: Evaluation, revision: Revision) -> str | None:
    """One sentence on who graded a policy's answers and how many could not be graded; None where nobody did."""
    judge = None if revision.manifest is None else revision.manifest.models.get("judge")
    if judge is None or JUDGE_SCORE not in evaluation.columns:
        return None
    missing = int(np.isnan(evaluation.columns[JUDGE_SCORE]).sum())
    return f"{evaluation.name} graded by {judge}: {missing} of {evaluation.columns[JUDGE_SCORE].size} answers unscored."


def ungraded(evaluations: Sequence[Evaluation], datasets: Sequence[Revision]) -> list[str]:
    """Warn of grades that leave out many of a policy's answers, with the reasons."""
    lines = []
    for evaluation, revision in zip(evaluations, datasets, strict=True):
        share = float(np.isnan(evaluation.columns.get(JUDGE_SCORE, np.zeros(1))).mean())
        if share > UNSCORED_SHARE:
            counts = {} if revision.manifest is None else revision.manifest.counts
            reasons = [
                (key.partition(", ")[2], n) for key, n in sorted(counts.items()) if key.startswith(f"{UNSCORED}, ")
            ]
            told = ", ".join(f"{count:,} {reason}" for reason, count in reasons) or "no readable reply"
            lines.append(
                f"{share:.0%} of {evaluation.name}'s answers have no grade ({told}): its scores are of the others"
            )
    return lines
