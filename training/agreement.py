"""`grace agreement`: how often a judge orders two responses as people do (WritingBench, §4.3, table 4).

People's preferences are rows of two responses to one query and which of them is better; several people may judge one
pair, and each judgement counts::

    {"response_a": "77ab…-0", "response_b": "77ab…-1", "preference": "a"}        a, b or tie

The judge's verdict follows from the responses' mean scores, of a dataset of ratings or of graded answers, or it is the
preference of a dataset of comparisons. Two equal means are a tie, and a tie agrees with a tie.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from builders.core.evaluation_table import EvaluationTable
from builders.core.tables import ENDINGS, ending_of, read_columns
from builders.hub.refs import open_revision
from builders.rubrics.columns import RATINGS_COLUMNS
from builders.store.columns import column, require_columns
from builders.store.revision import Revision
from builders.store.store import Store
from scorers.errors import UserError
from scorers.preference import CHOICES, SWAPPED
from scorers.rating import HIGHEST, LOWEST
from training.intervals import Estimate, of_ragged

VerdictOf = Callable[[str, str, str], tuple[str, str | None]]
"""From two responses and a place for messages, the query and the judge's verdict: a, b or tie; None for none."""
NEEDED = ("response_a", "response_b", "preference")
EQUAL = 1e-9  # means of scores that differ by less are equal


def agreement(ratings: str, human: str, store: str) -> EvaluationTable:
    """Compare a judge's ratings with people's preferences.

    Args:
        ratings: REF of ratings, of graded answers or of comparisons, or a file with the columns of one.
        human: file of preferences, in any format that tables have.
        store: folder of the local store.

    Returns:
        The share of judgements with which the judge agrees, with its interval by bootstrap over queries: of all, and of
        those without a tie on either side; and Cohen's kappa, in which agreement by chance is 0. Pairs on which the
        judge has no verdict, since none of its replies could be read, are left out and counted.

    Raises:
        UserError: a file is missing or not readable, a preference is none of a, b and tie, a response has no rating,
            two responses are to different queries, or the dataset holds the scores of several judges.
    """
    from sklearn.metrics import cohen_kappa_score

    revision = open_revision(ratings, Store(Path(store)), "dataset")
    compared = "preference" in revision.schema()
    verdict_of = of_comparisons(revision) if compared else of_scores(revision)
    judge = _judge(revision)
    found = [_judgement(row, f"{human}, row {n}", verdict_of) for n, row in enumerate(_read(human), 1)]
    judged = [one for one in found if one is not None]
    if not found:
        raise UserError(f"{human}: holds no preference; a row has {', '.join(NEEDED)}")
    if not judged:
        raise UserError(
            f"{human}: on none of its {len(found)} pairs has {judge} a verdict in {ratings}; rate them again"
        )
    left = len(found) - len(judged)
    lines = [f"{left} of {len(found)} judgements left out: {judge} has no verdict on them."] if left else []
    people, verdicts = [one["person"] for one in judged], [one["judge"] for one in judged]
    everything = share(judged)
    decided = share([one for one in judged if "tie" not in (one["person"], one["judge"])])
    kappa = float(cohen_kappa_score(people, verdicts, labels=list(CHOICES))) if len({*people, *verdicts}) > 1 else None
    header = ("judgements", "agreement", "95 % interval", "without ties", "95 % interval", "Cohen's kappa")
    cells = (str(len(judged)), *_cells(everything), *_cells(decided), "–" if kappa is None else f"{kappa:.3f}")
    return EvaluationTable(
        title=f"Agreement of {judge} with people's preferences",
        header=header,
        rows=[cells],
        lines=lines,
        public={
            "judge": judge,
            "judgements": len(judged),
            "left_out": left,
            "queries": len({one["query"] for one in judged}),
            "agreement": everything.value,
            "interval": [everything.low, everything.high],
            "without_ties": decided.value,
            "without_ties_interval": [decided.low, decided.high],
            "kappa": kappa,
        },
        files=(),
    )


def _read(human: str) -> list[dict[str, Any]]:
    """Read the preferences."""
    if not Path(human).is_file():
        raise UserError(f"{human}: no such file; give people's preferences, with {', '.join(NEEDED)}")
    if ending_of(Path(human)) is None:
        raise UserError(f"{human}: files ending in {', '.join(ENDINGS)} are read; write it as one of them")
    return [row for frame in read_columns(Path(human), NEEDED, human) for row in frame.iter_rows(named=True)]


def _judge(revision: Revision) -> str:
    """Return who judged.

    Raises:
        UserError: several did, whose scores do not compare.
    """
    if "judge" not in revision.schema():
        return "the judge"
    judges = sorted(revision.scan().select(pl.col("judge").drop_nulls().unique()).collect()["judge"])
    if len(judges) > 1:
        raise UserError(
            f"{revision}: holds what {len(judges)} judges said ({', '.join(judges)}), whose scores do not compare; "
            "give the ratings of one"
        )
    return str(judges[0]) if judges else "the judge"


def of_scores(revision: Revision) -> VerdictOf:
    """Return the verdicts that follow from mean scores: of ratings, or of graded answers.

    Raises:
        UserError: the dataset has no scores, or one that is out of range.
    """
    schema = revision.schema()
    name, low, high = ("judge_score", 10, 100) if "judge_score" in schema else ("score", LOWEST, HIGHEST)
    if not {"score", "judge_score"} & set(schema):
        raise UserError(
            f"{revision}: holds no ratings (criterion, score), no grades (judge_score) and no comparisons "
            "(preference); `grace evaluate --judge` makes grades, `--pairwise` comparisons"
        )
    if name == "score":
        require_columns(schema, RATINGS_COLUMNS[:5], str(revision))
    scores = revision.scan().select("response_id", "query_id", score=pl.col(name).cast(pl.Float64))
    wrong = scores.filter(~pl.col("score").is_between(low, high)).collect()
    if wrong.height:
        raise UserError(
            f"{revision}: response_id {wrong['response_id'][0]} has score {wrong['score'][0]:g}; scores are from {low} "
            f"to {high}"
        )
    rows = scores.group_by("response_id").agg(pl.col("score").mean(), pl.col("query_id").first()).collect()
    means = {row["response_id"]: row for row in rows.iter_rows(named=True)}

    def verdict(first: str, second: str, where: str) -> tuple[str, str | None]:
        a, b = (
            _scored(means.get(response), f"{where}: {name} {response}")
            for name, response in (("response_a", first), ("response_b", second))
        )
        if a["query_id"] != b["query_id"]:
            raise UserError(f"{where}: its responses are to different queries; a pair has two responses to one query")
        if a["score"] is None or b["score"] is None:
            return a["query_id"], None
        difference = a["score"] - b["score"]
        return a["query_id"], "tie" if abs(difference) < EQUAL else "a" if difference > 0 else "b"

    return verdict


def of_comparisons(revision: Revision) -> VerdictOf:
    """Return the verdicts that a judge gave on pairs, whichever of the two is called a.

    Responses of two policies may have one id; a policy's is told as `policy/id`, where ids alone are not enough.

    Raises:
        UserError: the dataset lacks a column of comparisons.
    """
    names = ("query_id", "policy_a", "policy_b", "response_id_a", "response_id_b", "preference")
    require_columns(revision.schema(), [column(name, pl.String, name, nullable=True) for name in names], str(revision))
    known: dict[tuple[str, str], tuple[str, str | None]] = {}
    for query, policy_a, policy_b, id_a, id_b, preference in revision.scan().select(names).collect().iter_rows():
        pairs = [(f"{policy_a}/{id_a}", f"{policy_b}/{id_b}"), *([(id_a, id_b)] if id_a != id_b else [])]
        for a, b in pairs:
            known[a, b] = query, preference
            known[b, a] = query, None if preference is None else SWAPPED[preference]

    def verdict(first: str, second: str, where: str) -> tuple[str, str | None]:
        if (first, second) not in known:
            raise UserError(
                f"{where}: the pair {first} and {second} was not compared in that dataset; leave the row out, or name "
                "responses as policy/id"
            )
        return known[first, second]

    return verdict


def _judgement(row: Mapping[str, Any], where: str, verdict_of: VerdictOf) -> dict[str, str] | None:
    """Return one judgement: query, the person's verdict, the judge's; None where the judge has none.

    Raises:
        UserError: it is none, or the judge was never asked about the pair.
    """
    choice = (row["preference"] or "").strip().lower()
    if choice not in CHOICES:
        raise UserError(f"{where}: preference is {row['preference']!r}; {', '.join(CHOICES)} are allowed")
    if row["response_a"] == row["response_b"]:
        raise UserError(f"{where}: both responses are {row['response_a']}; a pair has two different ones")
    query, verdict = verdict_of(row["response_a"], row["response_b"], where)
    return None if verdict is None else {"query": query, "person": choice, "judge": verdict}


def _scored(found: Mapping[str, Any] | None, what: str) -> Mapping[str, Any]:
    """Return a response's query and mean score, which is None where none of its ratings could be read.

    Raises:
        UserError: it was not rated.
    """
    if found is None:
        raise UserError(f"{what} has no rating in that dataset; rate it, or leave the row out")
    return found


def share(judged: Sequence[Mapping[str, str]]) -> Estimate:
    """Return the share of judgements on which judge and person agree, with its interval by bootstrap over queries."""
    queries: dict[str, list[float]] = {}
    for one in judged:
        queries.setdefault(one["query"], []).append(float(one["person"] == one["judge"]))
    return of_ragged(list(queries.values()))


def _cells(found: Estimate) -> tuple[str, str]:
    """Return a share and its interval as the table shows them."""
    value = "–" if found.value is None else f"{found.value:.1%}"
    return value, "–" if found.low is None or found.high is None else f"{found.low:.1%} … {found.high:.1%}"
