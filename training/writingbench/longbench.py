"""`grace benchmark longbench-write`: answers of the length asked for, and their quality (§4.5).

    S_l   the length score of each answer, 0 to 100 (`scorers.length_score`)
    S_q   the mean of its ratings on six dimensions, from 1 to 10, as 0 to 100

Columns are means over queries: of all of them, and of each class of the length asked for. The benchmark's authors rate
from 1 to 5 with another judge, so that S_q does not compare with theirs.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from builders.core.evaluation_table import EvaluationTable
from builders.report.text_tables import write_tables
from builders.writingbench.settings import WritingBenchSettings
from scorers.errors import UserError
from scorers.length_score import length_score
from scorers.rating import HIGHEST, LOWEST
from scorers.rubric import query_score
from training.writingbench.evaluate import build_stage, judged_by, lacking, model_names, rate_all
from training.writingbench.scores import Scores, check_responses, read_responses

CLASSES = {"<500": (0, 500), "500-2k": (500, 2_000), "2k-4k": (2_000, 4_000), "4k+": (4_000, float("inf"))}
"""Classes of the length asked for, in words: from, and below."""


def benchmark(
    config: WritingBenchSettings,
    policies: Sequence[str],
    responses: Sequence[str],
    scores: Sequence[str],
    output: Path,
) -> EvaluationTable:
    """Compare models on LongBench-Write, and write the table as Markdown, LaTeX and JSON.

    Args:
        config: the configuration; `benchmark.data` names the queries, `models.judge` who rates.
        policies: models that answer and are rated.
        responses: files of answers, a line {"index": 1, "response": "…"} for each line of the benchmark, from 1.
        scores: none: the benchmark has no files of scores that are read.
        output: folder to write into; it is made where it is missing.

    Raises:
        UserError: there is no model, two have one name, the file is another benchmark's, or as the stages.
    """
    if scores:
        raise UserError("grace benchmark longbench-write reads no --scores; give --policy REF or --responses FILE")
    names = model_names(policies, responses, scores, output)
    answered = [read_responses(Path(path)) for path in responses]
    queries = build_stage(config, "benchmark").scan().collect().to_dicts()
    if any(query["words"] is None for query in queries):
        raise UserError(
            f"{config.benchmark.data}: says not how many words are asked for; it is no file of LongBench-Write, whose "
            "lines have prompt, type and length"
        )
    for path, answers in zip(responses, answered, strict=True):
        check_responses(Path(path), answers, queries)
    output.mkdir(parents=True, exist_ok=True)
    rated = rate_all(config, names, policies, answered, queries, output)
    found = {name: table_row(queries, scores, lengths) for name, (scores, lengths) in rated.items()}
    gaps = (lacking(name, len(queries), len(scores), lengths) for name, (scores, lengths) in rated.items())
    records = [{"model": name, "scores": row} for name, row in found.items()]
    header = ["Model", *found[names[0]]]
    rows = [[name, *map(_shown, row.values())] for name, row in found.items()]
    files = write_tables(output, "benchmark", header, rows, record=records)
    return EvaluationTable(
        title=f"{len(queries)} queries, scores from 0 to 100",
        header=header,
        rows=rows,
        lines=[judged_by(config), *filter(None, gaps)],
        public={"models": records, "path": str(output)},
        files=files,
    )


def table_row(
    queries: Sequence[Mapping[str, Any]], ratings: Scores, lengths: Mapping[int, int]
) -> dict[str, float | None]:
    """Return a model's columns: overall, S_l and S_q of all queries, and of each class of the length asked for.

    Args:
        queries: rows of the dataset of stage `benchmark`, with `words`.
        ratings: the ratings of the answers, by index.
        lengths: words of the answers, by index; a query without an answer is left out.
    """
    row: dict[str, float | None] = {"Overall": None}
    for name, (low, high) in {"": (0.0, float("inf")), **CLASSES}.items():
        asked = {query["index"]: query["words"] for query in queries if low <= query["words"] < high}
        long = [length_score(lengths[index], words) for index, words in asked.items() if index in lengths]
        rated_ = [score for index in asked if (score := query_score(ratings.get(index, {}))) is not None]
        good = [100 * (score - LOWEST) / (HIGHEST - LOWEST) for score in rated_]
        label = f"{name} " if name else ""
        row[f"{label}S_l"] = fmean(long) if long else None
        row[f"{label}S_q"] = fmean(good) if good else None
    if row["S_l"] is not None and row["S_q"] is not None:
        row["Overall"] = (row["S_l"] + row["S_q"]) / 2
    return row


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
