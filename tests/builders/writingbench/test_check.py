"""What `grace verify` says of WritingBench's datasets: nothing of whole ones, and the row of each fault."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from builders.rubrics.check import check_criteria_rows, check_ratings
from builders.writingbench.check import check_critic_rows, check_selection
from scorers.criteria import BANDS

CRITERIA = [
    {"name": name, "criteria_description": "x", **dict.fromkeys(BANDS, "so")} for name in ("a", "b", "c", "d", "e")
]
RATING = {"response_id": "q-0", "criterion": "a", "repeat": 0, "score": 7}
SELECTED = {
    "response_id": "q-0",
    "query": "Write.",
    "response": "Text.",
    "prompt": [{"role": "user", "content": "Write."}],
    "completion": [{"role": "assistant", "content": "Text."}],
}
CRITIC = {
    "query_id": "q",
    "response_id": "q-0",
    "score": 7,
    "reason": "so",
    "split": "train",
    "completion": [{"role": "assistant", "content": '{"score": 7, "reason": "so"}'}],
}
Check = Callable[[Any, dict[str, Path], bool], list[Any]]


def said(tmp_path: Path, check: Check, *rows: dict[str, Any]) -> list[tuple[str, str]]:
    path = tmp_path / "rows.parquet"
    pl.DataFrame(list(rows)).write_parquet(path)
    return [(finding.where, finding.what) for finding in check(None, {"rows.parquet": path}, True)]


@pytest.mark.parametrize(
    ("check", "whole", "faults"),
    [
        (check_criteria_rows, {"query_id": "q", "criteria": CRITERIA}, [({"criteria": CRITERIA[:4]}, "criteria")]),
        (
            check_ratings,
            RATING,
            [({"score": 11, "criterion": "b"}, "score"), ({"score": 0, "repeat": 1}, "score"), ({}, "criterion")],
        ),
        (check_selection, SELECTED, [({"query": "Write more."}, "prompt"), ({"response": "Other."}, "completion")]),
        (check_critic_rows, CRITIC, [({"score": 8}, "completion"), ({"split": "test"}, "split")]),
    ],
)
def test_faults_are_found(
    tmp_path: Path, check: Check, whole: dict[str, Any], faults: list[tuple[dict[str, Any], str]]
) -> None:
    assert said(tmp_path, check, whole) == []
    for change, what in faults:
        assert [found[1] for found in said(tmp_path, check, whole, whole | change)] == [what]


def test_a_null_score_is_no_fault(tmp_path: Path) -> None:
    assert said(tmp_path, check_ratings, RATING, RATING | {"score": None, "repeat": 1}) == []


def test_many_faults_are_counted(tmp_path: Path) -> None:
    rows = [RATING | {"repeat": k, "score": 99} for k in range(9)]
    path = tmp_path / "rows.parquet"
    pl.DataFrame(rows).write_parquet(path)
    found = check_ratings(None, {"x": path}, True)  # type: ignore[arg-type]
    assert len(found) == 6 and found[-1].found == "9 rows differ, 5 shown"
    assert [finding.found for finding in check_ratings(None, {}, False)] == [  # type: ignore[arg-type]
        "not looked at: the rows are incomplete or do not fit"
    ]
