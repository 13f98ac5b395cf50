"""`grace evaluate` of WritingBench: how well critics agree with the judge on queries they never saw (§4.3).

Each critic is asked what the judge was asked, for every row of the dataset's test part, and answers greedily. Its
replies are read as any judge's are: what cannot be read is unscored, and no number is guessed for it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from builders.core.evaluation_table import EvaluationTable
from builders.core.machine import local_engine, require_engine
from builders.core.models import LocalModel, load_engine_for, on_disk
from builders.core.run import materialise, run
from builders.engines import SamplingSettings
from builders.engines.prompts import fits_window
from builders.settings.engines import EngineSettings
from builders.store.files import require_folder, write_text
from builders.writingbench.settings import WritingBenchSettings
from scorers.errors import UserError
from scorers.extraction import cut_thinking
from scorers.rating import read_rating
from training.intervals import Estimate, estimate
from training.writingbench.pipeline import WRITINGBENCH

EQUAL = 1e-9


@dataclass(frozen=True)
class Agreement:
    """A critic beside the judge.

    Attributes:
        name: the critic's.
        rows: rows of the test part.
        read: share of its replies that could be read.
        within_one: share of the scores read that differ from the judge's by 1 at the most.
        error: mean absolute difference.
        correlation: Spearman's rank correlation with the judge's scores; None where either has one score alone.
        kappa: Cohen's kappa with quadratic weights; None as for `correlation`.
        pairs: share of the pairs of responses to one query, by mean score, that it orders as the judge does; pairs that
            the judge has equal do not count.
        criteria: by criterion, the rank correlation.
    """

    name: str
    rows: int
    read: float
    within_one: Estimate
    error: Estimate
    correlation: float | None
    kappa: float | None
    pairs: Estimate
    criteria: dict[str, float | None]


def evaluate_critics(config: WritingBenchSettings, references: Sequence[str], output: Path) -> EvaluationTable:
    """Compare critics with the judge on the test part of the critic's data, and write critics.json.

    Args:
        config: the configuration.
        references: REFs of critics; none for the run's own, which is trained where it is missing.
        output: folder to write into; it is made where it is missing.

    Raises:
        UserError: there is no test part, a critic is missing, or its engine asks a server.
    """
    require_engine("engines.critic", local_engine("engines.critic", config.engines.critic, "grace evaluate"))
    require_folder(output)
    dataset = run(WRITINGBENCH, config, "critique")[-1].revision
    rows = dataset.scan().filter(pl.col("split") == "test").collect()
    if rows.is_empty():
        raise UserError(f"{dataset}: no test row; raise critique.test_share, {config.critique.test_share}")
    names = list(references) or ["critic"]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"grace evaluate: {twice[0]} is named twice; leave one out")
    models, _ = materialise(WRITINGBENCH, config, {name: name for name in names})
    found = [
        agreement_of(name, scores(config, config.engines.critic, on_disk(models[name], "evaluate"), rows), rows)
        for name in names
    ]
    header = ("critic", "rows", "read", "within 1", "mean error", "Spearman", "kappa", "pairs")
    table = [
        (
            one.name,
            str(one.rows),
            f"{one.read:.1%}",
            _shown(one.within_one.value, ".1%"),
            _shown(one.error.value, ".2f"),
            _shown(one.correlation, ".3f"),
            _shown(one.kappa, ".3f"),
            _shown(one.pairs.value, ".1%"),
        )
        for one in found
    ]
    records = [_record(one) for one in found]
    output.mkdir(parents=True, exist_ok=True)
    write_text(output / "critics.json", json.dumps(records, indent=1) + "\n")
    return EvaluationTable(
        title=f"{rows['query_id'].n_unique()} queries of the test part, against {rows['judge'][0]}",
        header=header,
        rows=table,
        lines=[],
        public={"critics": records, "path": str(output)},
        files=("critics.json",),
    )


def scores(
    config: WritingBenchSettings, settings: EngineSettings, model: LocalModel, rows: pl.DataFrame
) -> list[int | None]:
    """Return a critic's score of each row, None where its reply cannot be read or its window is too small for it."""
    engine = load_engine_for(settings, model, None, "engines.critic")
    try:
        limit = min(config.rate.max_new_tokens, engine.context_window // 2)
        sampling, variables = SamplingSettings(limit, temperature=0.0), settings.chat_template_kwargs
        prompts = rows["prompt"].to_list()
        fitting = [k for k, prompt in enumerate(prompts) if fits_window(engine, prompt, limit, variables)]
        completions = engine.generate([prompts[k] for k in fitting], [0] * len(fitting), sampling) if fitting else []
    finally:
        engine.close()
    found: list[int | None] = [None] * rows.height
    for place, completion in zip(fitting, completions, strict=True):
        text = completion.text
        if config.rate.thinking_tags is not None:
            text, _ = cut_thinking(text, config.rate.thinking_tags)
        rating = read_rating(text)
        found[place] = rating and rating.score
    return found


def agreement_of(name: str, found: Sequence[int | None], rows: pl.DataFrame) -> Agreement:
    """Compare a critic's scores with the judge's.

    Args:
        name: the critic's.
        found: its scores, None where there is none.
        rows: `query_id`, `response_id`, `criterion` and the judge's `score`, in the same order.
    """
    both = rows.select("query_id", "response_id", "criterion", "score").with_columns(
        pl.Series("critic", found, pl.Int32)
    )
    read = both.drop_nulls("critic")
    difference = (read["critic"] - read["score"]).abs()
    by_criterion = {str(key[0]): part for key, part in read.partition_by("criterion", as_dict=True).items()}
    return Agreement(
        name=name,
        rows=rows.height,
        read=read.height / rows.height,
        within_one=_over_queries(read.with_columns(value=(difference <= 1).cast(pl.Float64))),
        error=_over_queries(read.with_columns(value=difference.cast(pl.Float64))),
        correlation=rank_correlation(read),
        kappa=weighted_kappa(read),
        pairs=_over_queries(ordered_pairs(read)),
        criteria={name: rank_correlation(part) for name, part in sorted(by_criterion.items())},
    )


def rank_correlation(rows: pl.DataFrame) -> float | None:
    """Return Spearman's rank correlation of `critic` and `score`; None where either is constant."""
    from scipy.stats import spearmanr

    if rows["critic"].n_unique() < 2 or rows["score"].n_unique() < 2:
        return None
    return float(spearmanr(rows["critic"], rows["score"]).statistic)


def weighted_kappa(rows: pl.DataFrame) -> float | None:
    """Return Cohen's kappa of `critic` and `score` with quadratic weights; None where either is constant."""
    from sklearn.metrics import cohen_kappa_score

    if rows["critic"].n_unique() < 2 or rows["score"].n_unique() < 2:
        return None
    return float(cohen_kappa_score(rows["critic"], rows["score"], weights="quadratic", labels=list(range(1, 11))))


def ordered_pairs(rows: pl.DataFrame) -> pl.DataFrame:
    """Return, for each pair of responses to one query that the judge orders, whether the critic does so too.

    Returns:
        `query_id` and `value`, 1 where both order it alike.
    """
    means = rows.group_by("query_id", "response_id", maintain_order=True).agg(pl.col("critic", "score").mean())
    found: list[tuple[str, float]] = []
    for (query,), part in means.partition_by("query_id", as_dict=True, maintain_order=True).items():
        for a, b in combinations(part.iter_rows(named=True), 2):
            judge, critic = a["score"] - b["score"], a["critic"] - b["critic"]
            if abs(judge) > EQUAL:
                found.append((str(query), float(judge * critic > 0 and abs(critic) > EQUAL)))
    return pl.DataFrame(found, schema={"query_id": pl.String, "value": pl.Float64}, orient="row")


def _over_queries(rows: pl.DataFrame) -> Estimate:
    """Return the mean of `value` with its interval by bootstrap over queries."""
    groups = [part["value"].to_list() for part in rows.partition_by("query_id", maintain_order=True)]
    if not groups:
        return Estimate(None)
    width = max(map(len, groups))
    return estimate(np.array([[*group, *[np.nan] * (width - len(group))] for group in groups]))


def _shown(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _record(one: Agreement) -> dict[str, Any]:
    """Return an agreement for machines, with its intervals."""
    estimates = {"within_one": one.within_one, "error": one.error, "pairs": one.pairs}
    return {
        "critic": one.name,
        "rows": one.rows,
        "read": one.read,
        **{name: found.value for name, found in estimates.items()},
        "intervals": {name: [found.low, found.high] for name, found in estimates.items()},
        "correlation": one.correlation,
        "kappa": one.kappa,
        "criteria": one.criteria,
    }
