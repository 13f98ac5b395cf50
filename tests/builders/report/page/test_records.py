"""From rows to what the page shows."""

import math
from typing import Any

import polars as pl
import pytest

from builders.report.page.layout import Layout, layout_of
from builders.report.page.records import common_start, criteria_of, messages_text, natural, number, part_of, text_of
from builders.store.columns import MESSAGES


def foreign(**columns: Any) -> Layout:
    return layout_of(pl.Schema(columns), "dataset x", known=False)


def known(**columns: Any) -> Layout:
    return layout_of(pl.Schema(columns), "dataset x", known=True)


def test_responses_share_what_they_have_alike() -> None:
    layout = known(
        query_id=pl.String, query=pl.String, round=pl.Int32, response_id=pl.String, response=pl.String,
        policy=pl.String, matched=pl.Boolean, length=pl.Int32, rank_length=pl.Float64, label=pl.Boolean,
    )  # fmt: skip
    rows = [
        {"query": "Q", "round": 1, "response_id": f"q-{j}", "response": f"R{j}", "policy": f"p{j % 2}",
         "matched": j == 0, "length": 7 if j == 0 else None, "rank_length": 1.0 if j == 0 else None, "label": j == 0}
        for j in range(2)
    ]  # fmt: skip
    part = part_of(layout, rows)
    assert (part["query"], part["fields"], part["base"]) == ("Q", {"round": "1"}, None)
    first, second = part["responses"]
    assert first == {
        "id": "q-0", "text": "R0", "values": [7], "ranks": [1.0], "matched": True, "label": True,
        "fields": {"policy": "p0"}, "ratings": [],
    }  # fmt: skip
    assert (second["values"], second["matched"], second["label"]) == ([None], False, False)


def test_both_sides_of_a_pair_have_their_own_numbers() -> None:
    layout = foreign(
        prompt=pl.String, chosen=pl.String, rejected=pl.String, score_chosen=pl.Int64, score_rejected=pl.Int64
    )
    row = {"prompt": "P", "chosen": "good", "rejected": "bad", "score_chosen": 9, "score_rejected": 2}
    part = part_of(layout, [row, row])
    assert [(r["id"], r["text"], r["label"], r["values"]) for r in part["responses"]] == [
        ("chosen", "good", True, [9]),
        ("rejected", "bad", False, [2]),
        ("chosen 2", "good", True, [9]),
        ("rejected 2", "bad", False, [2]),
    ]


def test_a_conversation_without_a_prompt_begins_with_it() -> None:
    layout = foreign(chosen=MESSAGES, rejected=MESSAGES)
    asked = {"role": "user", "content": "Hi"}
    row = {s: [asked, {"role": "assistant", "content": s}] for s in ("chosen", "rejected")}
    part = part_of(layout, [row])
    assert part["query"] == "Hi" and [r["text"] for r in part["responses"]] == ["chosen", "rejected"]
    assert common_start("same", "same") == ("", "same", "same")


def test_a_contest_shows_its_other_samples_once() -> None:
    layout = known(
        source=pl.String, samples=pl.List(pl.String), metrics=pl.List(pl.Float64), winner=pl.String, loser=pl.String,
        metric_winner=pl.Float64, metric_loser=pl.Float64, chosen=pl.String, rejected=pl.String,
    )  # fmt: skip
    row = {"source": "S", "samples": ["w", "l", "x", "x"], "metrics": [9.0, 1.0, 5.0, 5.0], "winner": "w", "loser": "l",
           "metric_winner": 9.0, "metric_loser": 1.0, "chosen": "c", "rejected": "r"}  # fmt: skip
    part = part_of(layout, [row])
    assert part["base"] == "S"
    assert [(r["id"], r["text"], r["values"]) for r in part["responses"]] == [
        ("winner", "w", [9]), ("loser", "l", [1]), ("sample 3", "x", [5]),
    ]  # fmt: skip
    again = part_of(layout, [row, row | {"winner": "x", "metric_winner": 5.0, "samples": ["w", "l", "x", "y"]}])
    assert [(r["id"], r["text"]) for r in again["responses"]] == [
        ("winner", "w"), ("loser", "l"), ("winner 2", "x"), ("loser 2", "l"), ("sample 4", "y"),
    ]  # fmt: skip


def test_ratings_of_a_response_stand_together() -> None:
    layout = known(query_id=pl.String, response_id=pl.String, criterion=pl.String, score=pl.Int32, reason=pl.String)
    rows = [
        {"response_id": name, "criterion": c, "score": score, "reason": None if score is None else "why"}
        for name, c, score in (("q-10", "a", 3), ("q-2", "a", None), ("q-10", "b", 4))
    ]
    part = part_of(layout, rows)
    assert [(r["id"], [x["score"] for x in r["ratings"]]) for r in part["responses"]] == [
        ("q-2", [None]),
        ("q-10", [3, 4]),
    ]
    assert part["responses"][0]["ratings"] == [{"criterion": "a", "score": None, "reason": ""}]
    assert natural("x-2") < natural("x-10")


def test_rows_without_responses_are_their_fields() -> None:
    layout = known(query_id=pl.String, query=pl.String, reference=pl.String, materials=pl.List(pl.String))
    part = part_of(layout, [{"query": "Q", "reference": None, "materials": ["a", "b"]}])
    assert (part["query"], part["fields"], part["responses"]) == ("Q", {"materials": "a\nb"}, [])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""), ("x", "x"), (True, "yes"), (0.1 + 0.2, "0.3"), (7, "7"), ([], ""), (["a", "b"], "a\nb"),
        ([{"role": "user", "content": "q"}], "q"), ({"a": 1}, '{"a": 1}'),
    ],
)  # fmt: skip
def test_texts_of_values(value: object, text: str) -> None:
    assert text_of(value) == text


def test_several_messages_stand_below_their_roles() -> None:
    assert (
        messages_text([{"role": "system", "content": "s"}, {"role": "user", "content": None}])
        == "system:\ns\n\nuser:\n"
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, None, True, "7"])
def test_what_is_no_number_is_null(value: object) -> None:
    assert number(value) is None
    assert number(1234567.891) == 1234567.891 and number(3) == 3 and number(0.12345678) == 0.123457
    assert number(2**62 + 1) == str(2**62 + 1) and number(123456.0) == 123456.0


def test_criteria_that_are_none() -> None:
    assert criteria_of(None) == [] and criteria_of([{"name": "n", "9-10": None}]) == [{"name": "n", "9-10": ""}]
