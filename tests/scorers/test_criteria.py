"""Criteria in replies: exactly five, distinct and whole, in the forms in which models write lists."""

import json
from typing import Any

import pytest

from scorers.criteria import BANDS, FIELDS, NO_FIELD, NO_LIST, NOT_FIVE, TWICE, read_criteria


def criterion(name: str, **changes: Any) -> dict[str, Any]:
    return {"name": name, "criteria_description": "what", **dict.fromkeys(BANDS, "so"), **changes}


FIVE = [criterion(name) for name in ("Length", "Form", "Tone", "Facts", "Depth")]


@pytest.mark.parametrize(
    "reply",
    [
        json.dumps(FIVE),
        f"Here they are:\n```json\n{json.dumps(FIVE, indent=1)}\n```\nGood luck!",
        json.dumps({"criteria": FIVE}),
        ",\n".join(json.dumps(found) for found in FIVE),
        json.dumps([{"description": found.pop("criteria_description"), **found} for found in map(dict, FIVE)]),
        json.dumps([found | {"weight": 3} for found in FIVE]),
    ],
)
def test_five_criteria_are_read(reply: str) -> None:
    found = read_criteria(reply)
    assert found == FIVE and [list(one) for one in found] == [list(FIELDS)] * 5


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", NO_LIST),
        ("I cannot do that.", NO_LIST),
        ("[]", NO_LIST),
        (json.dumps(FIVE[:4]), NOT_FIVE),
        (json.dumps([*FIVE, criterion("More")]), NOT_FIVE),
        (json.dumps(FIVE)[:-40], NOT_FIVE),
        (json.dumps([*FIVE[:4], criterion(" length ")]), TWICE),
        (json.dumps([*FIVE[:4], criterion("More", **{"3-4": " "})]), NO_FIELD),
        (json.dumps([*FIVE[:4], criterion("More", **{"3-4": 3})]), NO_FIELD),
        (json.dumps([*FIVE[:4], {"name": "More"}]), NO_FIELD),
        (json.dumps([*FIVE[:4], "More"]), NO_FIELD),
    ],
)
def test_why_a_reply_holds_none(reply: str, reason: str) -> None:
    assert read_criteria(reply) == reason
