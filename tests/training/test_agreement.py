"""Agreement of a judge with people: by hand, ties, several people, and what does not fit."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from builders.rubrics.columns import RATINGS_COLUMNS
from builders.store.columns import polars_schema
from scorers.errors import UserError
from training.cli import app
from training.pipelines import agreement

#: Mean scores by response: of q1 the first is better, of q2 both are equal, of q3 the second is better.
SCORES: dict[str, list[int | None]] = {
    "q1-0": [8, 9],
    "q1-1": [5],
    "q2-0": [7],
    "q2-1": [6, 8],
    "q3-0": [2, None],
    "q3-1": [10],
    "q4-0": [None],
    "q4-1": [7],
}


def ratings(tmp_path: Path) -> str:
    rows = [
        {
            "query_id": response.partition("-")[0],
            "response_id": response,
            "criterion": f"c{k}",
            "repeat": 0,
            "score": score,
            "reason": None,
            "attempts": 1,
            "judge": "j@1",
            "prompt_hash": "x",
            "temperature": 1.0,
            "top_p": 1.0,
        }
        for response, scores in SCORES.items()
        for k, score in enumerate(scores)
    ]
    path = tmp_path / "ratings.parquet"
    pl.DataFrame(rows, schema=polars_schema(RATINGS_COLUMNS)).write_parquet(path)
    return str(path)


def people(tmp_path: Path, *rows: tuple[str, str, str]) -> str:
    path = tmp_path / "human.csv"
    path.write_text("response_a,response_b,preference\n" + "".join(",".join(row) + "\n" for row in rows))
    return str(path)


ROWS = (
    ("q1-0", "q1-1", "a"),  # agrees
    ("q1-0", "q1-1", "b"),
    ("q2-0", "q2-1", "tie"),  # agrees
    ("q2-1", "q2-0", "A"),
    ("q3-0", "q3-1", "b"),  # agrees
    ("q3-1", "q3-0", "a"),  # agrees
)
UNREAD = ("q4-0", "q4-1", "a")  # none of the ratings of q4-0 could be read


def test_by_hand(tmp_path: Path) -> None:
    found = agreement(ratings(tmp_path), people(tmp_path, *ROWS), str(tmp_path / "store")).public
    assert (found["judgements"], found["queries"]) == (6, 3)
    assert found["agreement"] == pytest.approx(4 / 6)
    # Without ties on either side q1 and q3 are left: three of four.
    assert found["without_ties"] == pytest.approx(3 / 4)
    assert found["interval"][0] < 4 / 6 < found["interval"][1]
    # Both say a thrice or so: people a, b, tie, a, b, a; judge a, a, tie, tie, b, a. Chance agrees in
    # (3·3 + 2·1 + 1·2) / 36 = 13/36, so kappa is (4/6 − 13/36) / (1 − 13/36) = 11/23.
    assert found["kappa"] == pytest.approx(11 / 23)


def test_what_could_not_be_rated_is_left_out_and_counted(tmp_path: Path) -> None:
    found = agreement(ratings(tmp_path), people(tmp_path, *ROWS, UNREAD), str(tmp_path / "store"))
    assert (found.public["judgements"], found.public["left_out"], found.public["judge"]) == (6, 1, "j@1")
    assert found.lines == ["1 of 7 judgements left out: j@1 has no verdict on them."]
    assert found.title == "Agreement of j@1 with people's preferences"
    with pytest.raises(UserError, match=r"on none of its 1 pairs has j@1 a verdict in .*; rate them again$"):
        agreement(ratings(tmp_path), people(tmp_path, UNREAD), str(tmp_path / "store"))


def test_two_judges_are_not_averaged(tmp_path: Path) -> None:
    path = ratings(tmp_path)
    rows = pl.read_parquet(path)
    pl.concat([rows, rows.with_columns(judge=pl.lit("k@2"), score=11 - pl.col("score"))]).write_parquet(path)
    with pytest.raises(
        UserError, match=r"holds what 2 judges said \(j@1, k@2\), whose scores do not compare; give the"
    ):
        agreement(path, people(tmp_path, *ROWS), str(tmp_path / "store"))


def test_one_query_has_no_interval(tmp_path: Path) -> None:
    found = agreement(ratings(tmp_path), people(tmp_path, ROWS[0]), str(tmp_path / "store"))
    assert found.rows == [("1", "100.0%", "–", "100.0%", "–", "–")]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("q1-0", "q1-1", "first"), "row 1: preference is 'first'; a, b, tie are allowed"),
        (("q1-0", "q9-1", "a"), "row 1: response_b q9-1 has no rating in that dataset"),
        (("q1-0", "q2-1", "a"), "row 1: its responses are to different queries"),
        (("q1-0", "q1-0", "tie"), "row 1: both responses are q1-0; a pair has two different ones"),
    ],
)
def test_what_does_not_fit(tmp_path: Path, row: tuple[str, str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        agreement(ratings(tmp_path), people(tmp_path, row), str(tmp_path / "store"))


def test_files_that_do_not_do(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    with pytest.raises(UserError, match="holds no preference"):
        agreement(ratings(tmp_path), people(tmp_path), store)
    with pytest.raises(UserError, match="no such file; give people's preferences"):
        agreement(ratings(tmp_path), str(tmp_path / "none.csv"), store)
    array = tmp_path / "array.json"
    array.write_text('[{"response_a": "q1-0"}]')
    with pytest.raises(UserError, match=r"array.json: files ending in \.jsonl, \.csv, .* are read; write it as one of"):
        agreement(ratings(tmp_path), str(array), store)
    pl.DataFrame({"response_id": ["q1-0"], "query_id": ["q1"]}).write_parquet(tmp_path / "bare.parquet")
    with pytest.raises(
        UserError, match=r"holds no ratings .*, no grades .* and no comparisons .*grace evaluate --judge"
    ):
        agreement(str(tmp_path / "bare.parquet"), people(tmp_path, *ROWS), store)
    other = tmp_path / "other.csv"
    other.write_text("response_a,winner\nq1-0,a\n")
    with pytest.raises(UserError, match="no column response_b, preference; it has response_a, winner"):
        agreement(ratings(tmp_path), str(other), store)


def test_the_command(tmp_path: Path) -> None:
    arguments = ["agreement", ratings(tmp_path), people(tmp_path, *ROWS), "--store", str(tmp_path / "store")]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0 and "66.7%" in shown.stdout and "0.478" in shown.stdout
    said: dict[str, Any] = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout.splitlines()[-1])
    assert said["judgements"] == 6
