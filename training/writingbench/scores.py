"""Scores on WritingBench: its own files, and the columns of table 3.

    responses   {"index": 16, "response": "…"}
    scores      {"index": 16, "scores": {"<criterion>": [{"score": 7, "reason": "…"}, …]}}

A model's scores are those of each query's criteria; an evaluation without a score is left out of every mean.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from builders.store.files import write_text
from builders.writingbench.benchmark import REQUIREMENTS, index_of, json_lines
from scorers.errors import UserError
from scorers.rating import HIGHEST, LOWEST
from scorers.rubric import Ratings, mean_criterion_score, mean_query_score, overall_score, query_score
from training.intervals import Estimate, estimate

DOMAINS = (
    "Academic & Engineering",
    "Finance & Business",
    "Politics & Law",
    "Literature & Arts",
    "Education",
    "Advertising & Marketing",
)
"""The columns D1 to D6, in the benchmark's order and spelling."""
TOTAL, CHINESE, ENGLISH = "Total", "ZH", "EN"

Scores = dict[int, dict[str, list[int]]]
"""By index of the query and name of the criterion, the scores of all evaluations."""


@dataclass(frozen=True)
class Column:
    """One column of the table: the queries that it is a mean over, and which of their criteria.

    Attributes:
        name: its heading.
        queries: indices of the queries, in the benchmark's order.
        criteria: for each query the criteria that count, each with its own mean; None: all of them.
        micro: whether every rating counts alike, and not every query.
    """

    name: str
    queries: Sequence[int]
    criteria: Sequence[Sequence[str]] | None = None
    micro: bool = False


def columns_of(queries: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Return the columns of table 3 for a benchmark: total, languages, domains, and R and C of each requirement.

    Args:
        queries: rows of the dataset of stage `benchmark`.

    Returns:
        The columns that have a query. A benchmark of other domains has a column for each of its own.
    """
    known = list(dict.fromkeys(query["domain"] for query in queries))
    domains = [name for name in DOMAINS if name in known] + [name for name in known if name not in DOMAINS]
    found = [Column(TOTAL, [query["index"] for query in queries], micro=True)]
    taken = {TOTAL, CHINESE, ENGLISH, *(f"{name} {part}" for name in REQUIREMENTS for part in "RC")}
    for name, language in ((CHINESE, "zh"), (ENGLISH, "en")):
        found.append(Column(name, [query["index"] for query in queries if query["language"] == language]))
    for name in domains:
        label = f"domain {name}" if name in taken else name
        found.append(Column(label, [query["index"] for query in queries if query["domain"] == name]))
    for requirement in REQUIREMENTS:
        rows = [query for query in queries if requirement in query["requirements"]]
        asked = [
            [one["criterion"] for one in query["required_criteria"] if one["requirement"] == requirement]
            for query in rows
        ]
        indices = [query["index"] for query in rows]
        found += [Column(f"{requirement} R", indices), Column(f"{requirement} C", indices, asked)]
    return [column for column in found if column.queries]


def score(column: Column, scores: Mapping[int, Ratings]) -> float | None:
    """Return a model's score in one column, 1 to 10; None where none of its queries has a score."""
    ratings = [scores.get(index, {}) for index in column.queries]
    if column.micro:
        return overall_score(ratings)
    if column.criteria is None:
        return mean_query_score(ratings)
    return mean_criterion_score(ratings, column.criteria)


def interval(column: Column, scores: Mapping[int, Ratings]) -> Estimate:
    """Return the same mean as `score` with its interval, by bootstrap over queries."""
    found: list[list[float]] = []
    for place, index in enumerate(column.queries):
        ratings = scores.get(index, {})
        if column.micro:
            found.append([float(one) for said in ratings.values() for one in said])
        elif column.criteria is None:
            mean = query_score(ratings)
            found.append([] if mean is None else [mean])
        else:
            found.append([fmean(ratings[name]) for name in column.criteria[place] if ratings.get(name)])
    width = max(1, *map(len, found)) if found else 1
    return estimate(np.array([[*row, *[np.nan] * (width - len(row))] for row in found]))


def check_scores(path: Path, scores: Mapping[int, Ratings], queries: Sequence[Mapping[str, Any]]) -> None:
    """Check that a file's scores are those of a benchmark.

    Raises:
        UserError: it has a query or a criterion that the benchmark does not have, or no score at all.
    """
    known = {query["index"]: {criterion["name"] for criterion in query["criteria"]} for query in queries}
    for index, ratings in scores.items():
        if index not in known:
            raise UserError(f"{path}: index {index} is not in the benchmark; give scores of its {len(known)} queries")
        if other := sorted(ratings.keys() - known[index]):
            raise UserError(
                f"{path}: index {index} has scores of {other[0]!r}, which is none of its criteria "
                f"({', '.join(sorted(known[index]))}); take both files of one version"
            )
    if not any(said for ratings in scores.values() for said in ratings.values()):
        raise UserError(f"{path}: holds no score; give a file of scores, or leave it out")


def read_scores(path: Path) -> Scores:
    """Read the scores of a model from the benchmark's own file.

    Raises:
        UserError: a line is no record of scores, an index stands there twice, or a score is none from 1 to 10.
    """
    found: Scores = {}
    for number, row in json_lines(path):
        where = f"{path}, line {number}"
        index = index_of(row, where)
        if index in found:
            raise UserError(f"{where}: index {index} stands there twice; leave one out, or it counts twice")
        if not isinstance(row.get("scores"), dict):
            raise UserError(
                f'{where}: no scores; a line is {{"index": 1, "scores": {{"criterion": [{{"score": 7}}]}}}}'
            )
        found[index] = {name: _scores(said, f"{where}, {name}") for name, said in row["scores"].items()}
    return found


def _scores(said: Any, where: str) -> list[int]:
    """Return the scores of a criterion's evaluations; those without a score are left out."""
    found = []
    for one in said if isinstance(said, list) else [said]:
        value = one.get("score") if isinstance(one, dict) else one
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not LOWEST <= value <= HIGHEST:
            raise UserError(f"{where}: score is {value!r}; a whole number from {LOWEST} to {HIGHEST} or null is needed")
        found.append(value)
    return found


def write_scores(path: Path, ratings: Iterable[Mapping[str, Any]]) -> None:
    """Write ratings as the benchmark's file of scores; an evaluation without a score is left out.

    Args:
        path: the file.
        ratings: `index`, `criterion`, `score` and `reason` each, in order.
    """
    found: dict[int, dict[str, list[dict[str, Any]]]] = {}
    for rating in ratings:
        said = found.setdefault(rating["index"], {}).setdefault(rating["criterion"], [])
        if rating["score"] is not None:
            said.append({"score": rating["score"], "reason": rating["reason"] or ""})
    _write(path, ({"index": index, "scores": scores} for index, scores in found.items()))


def read_responses(path: Path) -> dict[int, str]:
    """Read a model's responses from the benchmark's own file.

    Raises:
        UserError: a line is no response, or an index stands there twice.
    """
    found: dict[int, str] = {}
    for number, row in json_lines(path):
        where = f"{path}, line {number}"
        index = index_of(row, where)
        if index in found:
            raise UserError(f"{where}: index {index} stands there twice; leave one out")
        if not isinstance(row.get("response"), str):
            raise UserError(f'{where}: no response; a line is {{"index": 1, "response": "…"}}')
        found[index] = row["response"]
    return found


def check_responses(path: Path, answers: Mapping[int, str], queries: Sequence[Mapping[str, Any]]) -> None:
    """Check that a file's responses are to a benchmark's queries.

    Raises:
        UserError: it has a response to another query, or none at all.
    """
    known = {query["index"] for query in queries}
    if other := sorted(answers.keys() - known):
        raise UserError(f"{path}: index {other[0]} is not in the benchmark; give responses to its {len(known)} queries")
    if not answers:
        raise UserError(f"{path}: holds no response; give a file of responses, or leave it out")


def write_responses(path: Path, responses: Iterable[tuple[int, str]]) -> None:
    """Write responses as the benchmark's file, (index, text) each."""
    _write(path, ({"index": index, "response": text} for index, text in responses))


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
