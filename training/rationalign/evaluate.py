"""`grace evaluate` of RationAlign: table 1, edits and reasons, the reward model, and a judge (§4.2, §5).

Every assistant edits the same test texts greedily. An assistant is a REF, or several runs of one as REF+REF+REF, whose
scores are averaged. A text that an assistant gives no readable suggestion for stays as it is and is counted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from builders.core.evaluation_table import EvaluationTable
from builders.core.machine import local_engine, require_engine
from builders.core.models import AnyModel, LocalModel, on_disk, require_distinct
from builders.core.run import materialise
from builders.rationalign import messages
from builders.rationalign.settings import RationAlignSettings
from builders.report.text_tables import write_tables
from builders.store.files import require_folder
from builders.store.store import Store
from scorers.editing import counts_of, score_of, sentence_score, statistics
from scorers.edits import edits_between
from scorers.errors import UserError
from scorers.maxmatch import Counts
from scorers.rationale import coverage
from training.rationalign.judge import judged
from training.rationalign.outputs import (
    ALL,
    EvaluationSet,
    Output,
    drawn,
    edited,
    evaluation_sets,
    formal_share,
    reward_models,
)
from training.rationalign.pipeline import RATIONALIGN
from training.significance import Floats, bootstrap_p, interval, resampled, sign_p

DEFAULT = ("sft", "mpo")


@dataclass
class Evaluation:
    """One assistant on all test sets; numbers of several runs are their means.

    Attributes:
        name: as the user named it.
        scores: by test set the metric, and under ALL the mean over test sets; 0 to 100.
        resamples: the same over resamples of the texts, for comparisons.
        formal: by test set of formality, the share of suggestions that are formal; empty without a classifier.
        edits: edits proposed, over all test sets.
        precision: share of them that a reference has.
        coverage: share of the edits made that have a reason; None where none was made or there are no reasons.
        unread: answers that could not be read.
        judged: a judge's means, see `training.rationalign.judge`.
    """

    name: str
    scores: dict[str, float] = field(default_factory=dict)
    resamples: dict[str, Floats] = field(default_factory=dict)
    formal: dict[str, float] = field(default_factory=dict)
    edits: float = 0.0
    precision: float = 0.0
    coverage: float | None = None
    unread: float = 0.0
    judged: dict[str, float | None] = field(default_factory=dict)


def evaluate_assistants(config: RationAlignSettings, references: Sequence[str], output: Path) -> EvaluationTable:
    """Compare writing assistants on the test sets, and write evaluation.json, .md, .csv and .tex.

    Args:
        config: the configuration; `evaluate` names the test sets.
        references: REFs of assistants, several runs of one joined by +; none for the run's own before and after
            alignment, which are trained where they are missing.
        output: folder to write into; it is made where it is missing.

    Raises:
        UserError: there is no test set, a model is missing, an assistant is named twice, or its engine asks a server.
    """
    require_engine("engines.policy", local_engine("engines.policy", config.engines.policy, "grace evaluate"))
    require_folder(output)
    names = list(references) or list(DEFAULT)
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"grace evaluate: {twice[0]} is named twice; leave one out")
    tests = evaluation_sets(config)
    runs = {name: name.split("+") for name in names}
    for name, joined in runs.items():
        if not all(joined) or len(set(joined)) < len(joined):
            raise UserError(f"grace evaluate {name}: give several runs of one assistant as REF+REF, each of them once")
    models = _models(config, runs)
    require_distinct(
        [(part, on_disk(models[part], "grace evaluate")) for parts in runs.values() for part in parts], "grace evaluate"
    )
    found = []
    for name in names:
        parts = [on_disk(models[part], "grace evaluate") for part in runs[name]]
        found.append(evaluated(config, name, parts, tests, models))
    agreement = _agreement(config, on_disk(models[runs[names[0]][0]], "grace evaluate"), models.get("reward"), tests)
    header, rows = table(tests, found)
    lines = [
        *comparisons(found),
        *agreement_lines(agreement),
        *_judge_lines(config, found),
        *seen_before(config, tests),
    ]
    record = {
        "assistants": [_record(one) for one in found],
        "differences": differences(found),
        "reward_model": agreement,
        "path": str(output),
    }
    return EvaluationTable(
        title=f"{sum(len(test.texts) for test in tests)} test texts; metrics from 0 to 100",
        header=header,
        rows=rows,
        lines=lines,
        public=record,
        files=write_tables(output, "evaluation", header, rows, record=record, lines=lines),
    )


def _models(config: RationAlignSettings, runs: Mapping[str, Sequence[str]]) -> dict[str, AnyModel]:
    """Find the models: the assistants, and classifier, judge and reward model where there are any."""
    wanted = {part: part for parts in runs.values() for part in parts}
    if config.models.classifier is not None:
        wanted["classifier"] = config.models.classifier
    if config.models.judge is not None:
        wanted["judge"] = config.models.judge
    found, finder = materialise(RATIONALIGN, config, wanted)
    # The one that is there, were it stale: to evaluate is not to train.
    repo = RATIONALIGN.repo(RATIONALIGN.stage("reward"), config)
    reward = Store(Path(config.store)).find(repo, "main", "model")
    if config.evaluate.samples is not None and reward is not None:
        found |= {"reward": finder.of(reward)}
    return found


def evaluated(
    config: RationAlignSettings,
    name: str,
    runs: Sequence[LocalModel],
    tests: Sequence[EvaluationSet],
    models: Mapping[str, AnyModel],
) -> Evaluation:
    """Let the runs of an assistant edit all test texts, and score what they made of them."""
    parts = []
    for model in runs:
        outputs = edited(config, model, tests)
        one = scored(name, tests, outputs)
        if (classifier := models.get("classifier")) is not None:
            for test, found in zip(tests, outputs, strict=True):
                if test.task == "formality":
                    texts = [output.suggestion for output in found]
                    folder = on_disk(classifier, "models.classifier").path
                    one.formal[test.name] = formal_share(texts, folder, config.evaluate.formal, config.prefer.device)
        if (judge := models.get("judge")) is not None:
            one.judged = judged(config, judge, tests, outputs)
        parts.append(one)
    return _mean(parts)


def scored(name: str, tests: Sequence[EvaluationSet], outputs: Sequence[Sequence[Output]]) -> Evaluation:
    """Score the outputs of one run.

    Args:
        name: the assistant's.
        tests: the test sets.
        outputs: by test set, the output of each text.
    """
    found = Evaluation(name)
    counts = Counts(0, 0, 0)
    covers: list[tuple[int, float]] = []
    for number, (test, made) in enumerate(zip(tests, outputs, strict=True)):
        texts = [output.suggestion for output in made]
        rows = statistics(test.metric, test.texts, texts)
        found.scores[test.name] = score_of(test.metric, [sum(column) for column in zip(*rows, strict=True)])
        found.resamples[test.name] = resampled(rows, partial(score_of, test.metric), number)
        counts = sum(counts_of(test.texts, texts), counts)
        found.unread += sum(not output.read for output in made)
        for text, output in zip(test.texts, made, strict=True):
            edits = edits_between(text.source, output.suggestion)
            share = coverage(edits, output.reasons)
            covers += [] if share is None else [(len(edits), share)]
    found.scores[ALL] = float(np.mean(list(found.scores.values())))
    found.resamples[ALL] = np.mean(list(found.resamples.values()), axis=0)
    found.edits, found.precision = float(counts.proposed), counts.precision
    if covers and any(output.reasons for made in outputs for output in made):
        found.coverage = sum(edits * share for edits, share in covers) / sum(edits for edits, _ in covers)
    return found


def _mean(runs: Sequence[Evaluation]) -> Evaluation:
    """Return the mean over runs."""

    def mean(values: Sequence[float | None]) -> float | None:
        there = [value for value in values if value is not None]
        return sum(there) / len(there) if there else None

    first = runs[0]
    return Evaluation(
        first.name,
        {name: float(np.mean([run.scores[name] for run in runs])) for name in first.scores},
        {name: np.mean([run.resamples[name] for run in runs], axis=0) for name in first.resamples},
        {name: float(np.mean([run.formal[name] for run in runs])) for name in first.formal},
        float(np.mean([run.edits for run in runs])),
        float(np.mean([run.precision for run in runs])),
        mean([run.coverage for run in runs]),
        float(np.mean([run.unread for run in runs])),
        {name: mean([run.judged.get(name) for run in runs]) for name in first.judged},
    )


def table(tests: Sequence[EvaluationSet], found: Sequence[Evaluation]) -> tuple[list[str], list[list[str]]]:
    """Return table 1 as header and cells, with the edits of figure 7 and the coverage of reasons."""
    header = ["assistant", *(test.name for test in tests), ALL, "edits", "precision", "covered", "unread"]
    rows = []
    for one in found:
        cells = []
        for test in tests:
            cell = f"{one.scores[test.name]:.1f}"
            cells.append(f"{cell} / {100 * one.formal[test.name]:.1f}" if test.name in one.formal else cell)
        covered = "–" if one.coverage is None else f"{one.coverage:.1%}"
        last = [f"{one.scores[ALL]:.1f}", f"{one.edits:.0f}", f"{one.precision:.1%}", covered, f"{one.unread:g}"]
        rows.append([one.name, *cells, *last])
    return header, rows


def differences(found: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """Return of each assistant but the first, by test set, what it differs by from the first, and how surely."""
    first, *others = found
    return [
        {
            "assistant": other.name,
            "from": first.name,
            "tests": {
                name: {
                    "difference": other.scores[name] - first.scores[name],
                    "interval": interval(first.resamples[name], other.resamples[name]),
                    "p_bootstrap": bootstrap_p(first.resamples[name], other.resamples[name]),
                    "p_sign": sign_p(first.resamples[name], other.resamples[name]),
                }
                for name in other.scores
            },
        }
        for other in others
    ]


def comparisons(found: Sequence[Evaluation]) -> list[str]:
    """Return a sentence on each assistant but the first: its difference over all test sets."""
    lines = []
    for one in differences(found):
        over = one["tests"][ALL]
        low, high = over["interval"]
        verdict = "better" if low > 0 else "worse" if high < 0 else "not distinguishable"
        lines.append(
            f"{one['assistant']} less {one['from']}: {over['difference']:+.1f} over all ({low:+.1f} … {high:+.1f}), "
            f"p {over['p_bootstrap']:.3f} by paired bootstrap, {over['p_sign']:.2g} by one-tailed sign test: {verdict}."
        )
    return lines


def _agreement(
    config: RationAlignSettings, model: LocalModel, reward: AnyModel | None, tests: Sequence[EvaluationSet]
) -> dict[str, Any] | None:
    """Compare rewards with metrics on suggestions drawn for the test texts (figure 4); None without a reward model.

    Returns:
        `wins`, `ties` and `losses`: texts whose suggestion with the highest reward has a better, an equal and a worse
        metric than the one with the lowest; `pearson`: the correlation of reward and metric, by test set and under ALL
        their mean, None where either is constant, or the reward model has nothing of the task.
    """
    if reward is None or config.evaluate.samples is None:
        return None
    from scipy.stats import pearsonr

    models = reward_models(config, on_disk(reward, "the reward model"))
    without = [test.name for test in tests if not models.has(test.task)]
    tests = [test for test in tests if models.has(test.task)]
    suggestions = drawn(config, model, tests, config.evaluate.samples) if tests else []
    signs: list[float] = []
    pearson: dict[str, float | None] = dict.fromkeys(without)
    for test, by_text in zip(tests, suggestions, strict=True):
        unique = [list(dict.fromkeys(some)) for some in by_text]
        shown = [(text, one) for text, some in zip(test.texts, unique, strict=True) for one in some]
        said = [messages.reward_text(config, test.task, text.source, one) for text, one in shown]
        rewards = models.score(said, [test.task] * len(said))
        metrics = [sentence_score(test.metric, text, one) for text, one in shown]
        start = 0
        for some in unique:
            own = list(zip(rewards[start : start + len(some)], metrics[start : start + len(some)], strict=True))
            start += len(some)
            if len(own) > 1:
                signs.append(float(np.sign(max(own)[1] - min(own)[1])))
        constant = len(set(rewards)) < 2 or len(set(metrics)) < 2
        pearson[test.name] = None if constant else float(pearsonr(rewards, metrics).statistic)
    known = [value for value in pearson.values() if value is not None]
    counts = {name: signs.count(value) for name, value in (("wins", 1.0), ("ties", 0.0), ("losses", -1.0))}
    return counts | {"pearson": pearson | {ALL: sum(known) / len(known) if known else None}}


def agreement_lines(agreement: Mapping[str, Any] | None) -> list[str]:
    """Return a sentence on the reward model; none where it was not looked at."""
    if agreement is None:
        return []
    wins, ties, losses = (agreement[name] for name in ("wins", "ties", "losses"))
    texts = wins + ties + losses
    if not texts:
        return ["reward model: no test text has two suggestions that differ."]
    mean = agreement["pearson"][ALL]
    said = "" if mean is None else f"; Pearson's r of reward and metric {mean:.2f}, the mean over test sets"
    share = f" ({wins / (wins + losses):.0%} of those that differ)" if wins + losses else ""
    return [f"reward model: its winner beats its loser in {wins} of {texts} texts, {ties} ties{share}{said}."]


def _judge_lines(config: RationAlignSettings, found: Sequence[Evaluation]) -> list[str]:
    """Return a sentence on what the judge says of each assistant."""
    lines = []
    for one in found:
        if one.judged:
            means = [f"{name} {'–' if value is None else f'{value:.2f}'}" for name, value in one.judged.items()]
            lines.append(f"{one.name} by {config.models.judge}: {', '.join(means)}.")
    return lines


def seen_before(config: RationAlignSettings, tests: Sequence[EvaluationSet]) -> list[str]:
    """Return a caution for each dataset of the run's training texts that has test texts among them."""
    store, texts = Store(Path(config.store)), [text.source for test in tests for text in test.texts]
    cautions = []
    for stage in ("pairs", "unlabelled"):
        dataset = store.find(RATIONALIGN.repo(RATIONALIGN.stage(stage), config), "main")
        known = set() if dataset is None else set(dataset.scan().select("source").collect()["source"])
        if seen := sum(text in known for text in texts):
            cautions.append(f"Caution: {seen} of {len(texts)} test texts are among the training texts of {dataset}.")
    return cautions


def _record(one: Evaluation) -> dict[str, Any]:
    """Return an evaluation for machines, without its resamples."""
    names = ("name", "scores", "formal", "edits", "precision", "coverage", "unread", "judged")
    return {name: getattr(one, name) for name in names}
