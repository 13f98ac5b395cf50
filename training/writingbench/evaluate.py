"""`grace benchmark writingbench`: models answer the benchmark's queries, a judge rates them, and table 3 is printed.

Answers and ratings are stages of the pipeline, under the run's name and the model's, so that they are resumed, kept and
pushed as all data is. Files of responses and scores in the benchmark's own format are written and read: who has
answered elsewhere is rated here, who has been rated elsewhere is compared.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl

from builders.core.evaluation_table import EvaluationTable
from builders.core.run import run
from builders.report.text_tables import write_tables
from builders.store.columns import frame_of
from builders.store.files import replacing, require_folder
from builders.store.revision import Revision
from builders.writingbench.rate import READ
from builders.writingbench.settings import WritingBenchSettings
from scorers.errors import UserError
from training.writingbench.figure import draw
from training.writingbench.pipeline import WRITINGBENCH
from training.writingbench.scores import (
    Column,
    Scores,
    check_responses,
    check_scores,
    columns_of,
    interval,
    read_responses,
    read_scores,
    score,
    write_responses,
    write_scores,
)

LENGTHS = (1_000, 3_000, 5_000)
"""Bounds of the classes of length, in words (of Chinese, characters)."""
WORD = r"[\u3400-\u9fff]|[^\s\u3400-\u9fff]+"


def benchmark(
    config: WritingBenchSettings,
    policies: Sequence[str],
    responses: Sequence[str],
    scores: Sequence[str],
    output: Path,
) -> EvaluationTable:
    """Compare models on the benchmark, and write the table as Markdown, LaTeX and JSON, and a figure.

    Args:
        config: the configuration; `benchmark.data` names the queries, `models.judge` who rates.
        policies: models that answer and are rated.
        responses: files of answers in the benchmark's own format, of models that have answered elsewhere.
        scores: files of scores in the benchmark's own format, of models that have been rated elsewhere.
        output: folder to write into; it is made where it is missing.

    Raises:
        UserError: there is nothing to compare, a model or a file is missing, two models have one name; as the stages.
    """
    names = model_names(policies, responses, scores, output)
    # Files are read before a model is asked.
    given = {name_of(path): read_scores(Path(path)) for path in scores}
    answered = [read_responses(Path(path)) for path in responses]
    queries = build_stage(config, "benchmark").scan().collect().to_dicts()
    if any(query["words"] is not None for query in queries):
        raise UserError(
            f"{config.benchmark.data}: is a file of LongBench-Write; `grace benchmark longbench-write` reads it"
        )
    for path in scores:
        check_scores(Path(path), given[name_of(path)], queries)
    for path, answers in zip(responses, answered, strict=True):
        check_responses(Path(path), answers, queries)
    columns = columns_of(queries)
    output.mkdir(parents=True, exist_ok=True)
    rated = rate_all(config, names, policies, answered, queries, output)
    found = {name: scores for name, (scores, _) in rated.items()} | given
    lengths = {name: words for name, (_, words) in rated.items()}
    records = [_record(name, columns, ratings, queries, lengths.get(name, {})) for name, ratings in found.items()]
    header = ["Model", *(column.name for column in columns)]
    rows = [[record["model"], *(_shown(record["scores"][column.name]) for column in columns)] for record in records]
    files = write_tables(output, "benchmark", header, rows, record=records)
    figures = draw(records, output / "benchmark")
    return EvaluationTable(
        title=f"{len(queries)} queries, mean scores from 1 to 10",
        header=header,
        rows=rows,
        lines=[
            *([judged_by(config)] if rated else []),
            *filter(None, (lacking(n, len(queries), _scored(s), lengths.get(n)) for n, s in found.items())),
            *filter(None, (unrated(name, queries, scores) for name, scores in found.items())),
        ],
        public={"models": records, "path": str(output)},
        files=(*files, *figures),
    )


def judged_by(config: WritingBenchSettings) -> str:
    """Return the sentence that says who rated."""
    return f"Rated by {config.models.judge}; scores of different judges do not compare."


def _scored(scores: Scores) -> int:
    """Return how many queries have a score."""
    return sum(any(ratings.values()) for ratings in scores.values())


def lacking(model: str, queries: int, scored: int, answers: Mapping[int, int] | None) -> str:
    """Return a sentence on the queries that have no score; empty where all have one.

    Args:
        model: the model's name.
        queries: how many there are.
        scored: how many have a score.
        answers: of those that were answered, the words of the answer; None where the answers are not known.
    """
    if scored == queries:
        return ""
    said = f"{model}: {scored} of {queries} queries have a score"
    if answers is None:
        return f"{said}."
    reasons = {"without an answer": queries - len(answers)}
    reasons["answered, and no rating could be read"] = len(answers) - scored
    return f"{said}; {', '.join(f'{n} {reason}' for reason, n in reasons.items() if n)}."


def model_names(policies: Sequence[str], responses: Sequence[str], scores: Sequence[str], output: Path) -> list[str]:
    """Return the names of the models that are compared, and check what can be checked before any is asked.

    Raises:
        UserError: there is no model, one without a name or two with the same one, or `output` is no folder.
    """
    require_folder(output)
    if not all(text.strip() for text in policies):
        raise UserError("--policy: no model is named; give a REF")
    names = [slug(text) for text in policies] + [name_of(path) for path in (*responses, *scores)]
    if not names:
        raise UserError("grace benchmark: give --policy REF, --responses FILE or --scores FILE, at least one of them")
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"grace benchmark: two models are called {twice[0]}; rename a file, or leave one out")
    return names


def name_of(file: str) -> str:
    """Return the model's name that a file's name tells: what is before `.responses.jsonl` or `.scores.jsonl`."""
    return slug(Path(file).stem.removesuffix(".responses").removesuffix(".scores"))


def build_stage(config: WritingBenchSettings, stage: str, start: str | None = None) -> Revision:
    """Build a stage, from a dataset in place of the stages above it where one is given, and return its revision."""
    return run(WRITINGBENCH, config, stage, start=start)[-1].revision


def slug(policy: str) -> str:
    """Return a model's name as a part of a repository's and a file's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", policy.rstrip("/").rpartition("/")[2]).strip("-.") or "model"


def rate_all(
    config: WritingBenchSettings,
    names: Sequence[str],
    policies: Sequence[str],
    answered: Sequence[Mapping[int, str]],
    queries: Sequence[Mapping[str, Any]],
    output: Path,
) -> dict[str, tuple[Scores, dict[int, int]]]:
    """Return scores and lengths of answers by model: first the policies, then who has answered elsewhere.

    Args:
        config: the configuration.
        names: the models' names, first those of the policies, then those of the answers, then others.
        policies: models that answer.
        answered: answers that were read from files, by index.
        queries: rows of the dataset of stage `benchmark`.
        output: folder of the benchmark's own files.
    """
    own, elsewhere = names[: len(policies)], names[len(policies) :]
    found = {n: rated(config, policy, n, queries, output) for n, policy in zip(own, policies, strict=True)}
    return found | {n: rated_file(config, a, n, queries, output) for n, a in zip(elsewhere, answered, strict=False)}


def rated(
    config: WritingBenchSettings, policy: str, name: str, queries: Sequence[Mapping[str, Any]], output: Path
) -> tuple[Scores, dict[int, int]]:
    """Let a model answer and a judge rate it, and write the benchmark's files; scores and lengths of answers."""
    # The benchmark's files hold one response to a query.
    changes = {
        "models": config.models.model_copy(update={"policies": (policy,)}),
        "respond": config.respond.model_copy(update={"responses": 1}),
    }
    own = _named(config, name).model_copy(update=changes)
    ratings = build_stage(own, "rate")
    return _written(ratings, build_stage(own, "respond").scan().collect(), name, queries, output)


def rated_file(
    config: WritingBenchSettings,
    answers: Mapping[int, str],
    name: str,
    queries: Sequence[Mapping[str, Any]],
    output: Path,
) -> tuple[Scores, dict[int, int]]:
    """Let a judge rate answers that were read from a file, by index, and write the benchmark's files; as `rated`."""
    rows = [
        {"query_id": query["query_id"], "query": query["query"], "language": query["language"],
         "response_id": f"{query['query_id']}-0", "response": answers[query["index"]]}
        for query in queries
        if query["index"] in answers
    ]  # fmt: skip
    responses = frame_of(rows, READ)
    # A dataset of its own, which takes the place of the stage that would answer; equal answers are rated once.
    folder = output / "responses" / name
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "responses.parquet") as file:
        responses.write_parquet(file)
    ratings = build_stage(_named(config, name), "rate", str(folder))
    return _written(ratings, responses, name, queries, output)


def _named(config: WritingBenchSettings, name: str) -> WritingBenchSettings:
    """Return the configuration under the run's name and a model's."""
    return config.model_copy(update={"name": f"{config.name}-{name}"[:80]})


def _written(
    ratings: Revision, responses: pl.DataFrame, name: str, queries: Sequence[Mapping[str, Any]], output: Path
) -> tuple[Scores, dict[int, int]]:
    """Write a model's answers and scores in the benchmark's format; return scores, and words of answers, by index."""
    indices = {query["query_id"]: query["index"] for query in queries}
    index = pl.col("query_id").replace_strict(indices, return_dtype=pl.Int64).alias("index")
    rated = ratings.scan().collect().with_columns(index)
    write_responses(output / f"{name}.responses.jsonl", responses.select(index, "response").iter_rows())
    write_scores(output / f"{name}.scores.jsonl", rated.iter_rows(named=True))
    if not rated["score"].count():
        raise UserError(
            f"{name}: none of {rated.height} ratings has a score{_no_room(rated, responses)}; look at the judge's "
            "replies, or name another models.judge"
        )
    found: Scores = {}
    for row in rated.drop_nulls("score").iter_rows(named=True):
        found.setdefault(row["index"], {}).setdefault(row["criterion"], []).append(row["score"])
    words = responses.select(index, pl.col("response").str.count_matches(WORD))
    return found, dict(words.iter_rows())


def _no_room(rated: pl.DataFrame, responses: pl.DataFrame) -> str:
    """Return how many ratings were not asked for since the judge's window has no room, in words; empty for none."""
    answered = responses.filter(pl.col("response").str.strip_chars() != "")["response_id"]
    count = rated.filter((pl.col("attempts") == 0) & pl.col("response_id").is_in(answered.implode())).height
    return f" ({count} prompts leave no room for rate.max_new_tokens in the judge's window)" if count else ""


def unrated(model: str, queries: Sequence[Mapping[str, Any]], scores: Scores) -> str:
    """Return a sentence on criteria without a score, of queries that have one; empty where there is none."""
    names = {query["index"]: [criterion["name"] for criterion in query["criteria"]] for query in queries}
    there = {index: ratings for index, ratings in scores.items() if any(ratings.values())}
    asked = [(index, name) for index in there for name in names[index]]
    missing = sum(not there[index].get(name) for index, name in asked)
    return (
        f"{model}: {missing} of {len(asked)} criteria have no score and are left out of every mean." if missing else ""
    )


def _record(
    name: str,
    columns: Sequence[Column],
    scores: Scores,
    queries: Sequence[Mapping[str, Any]],
    lengths: Mapping[int, int],
) -> dict[str, Any]:
    """A model's results for machines: columns with intervals, by subdomain, and by length of query and of answer."""
    kinds = dict.fromkeys((query["domain"], query["subdomain"]) for query in queries)
    by_subdomain = [
        {"domain": domain, "subdomain": subdomain, "score": score(Column(subdomain, indices), scores)}
        for domain, subdomain in kinds
        for indices in [[q["index"] for q in queries if (q["domain"], q["subdomain"]) == (domain, subdomain)]]
    ]
    asked = {query["index"]: len(re.findall(WORD, query["query"])) for query in queries}
    return {
        "model": name,
        "queries": _scored(scores),
        "scores": {column.name: score(column, scores) for column in columns},
        "intervals": {
            column.name: [found.low, found.high] for column in columns for found in [interval(column, scores)]
        },
        "subdomains": by_subdomain,
        "by_query_length": by_length(asked, scores),
        "by_response_length": by_length(lengths, scores),
    }


def by_length(lengths: Mapping[int, int], scores: Scores) -> dict[str, float | None]:
    """Mean query scores by classes of length, in words: below 1,000, up to 3,000, up to 5,000, and beyond."""
    bounds = [0, *LENGTHS, float("inf")]
    names = [f"<{LENGTHS[0]}", *(f"{a}-{b}" for a, b in pairwise(LENGTHS)), f"{LENGTHS[-1]}+"]
    return {
        name: score(Column(name, [i for i, words in lengths.items() if low <= words < high]), scores)
        for name, (low, high) in zip(names, pairwise(bounds), strict=True)
    }


def _shown(value: float | None) -> str:
    """Return a score as the table shows it."""
    return "–" if value is None else f"{value:.2f}"
