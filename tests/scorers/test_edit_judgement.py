"""A judge's scores of an edited text, and its view of the reasons: as models write them, and never a wrong one."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scorers.edit_judgement import RESPECTS, read_scores, read_verdicts

SCORES = {"grammaticality": 5, "fluency": 4, "coherence": 1, "consistency": 3}
GOOD = json.dumps(SCORES)
VALUES = st.integers(1, 5) | st.integers(-1, 7) | st.booleans() | st.none() | st.text() | st.floats() | st.just(5.0)
AROUND = st.text(st.characters(exclude_characters="{["), max_size=20)
REPLIES = st.lists(st.fixed_dictionaries({name: st.integers(1, 5) for name in RESPECTS}, optional={"why": st.text()}))
PIECES = st.lists(st.sampled_from([GOOD, GOOD[:-9], "{", "}", "[", '"', ":", ",", "5", "true", '"fluency"', "\\"]))


def with_value(**changed: Any) -> str:
    return json.dumps(SCORES | changed)


@pytest.mark.parametrize(
    "reply",
    [
        GOOD,
        f"```json\n{json.dumps(SCORES, indent=2)}\n```",
        f"My judgement of {{the text}}: {GOOD} I hope this helps.",
        json.dumps(dict(reversed(SCORES.items()))),
        json.dumps({"reason": "Good, [mostly].", **SCORES, "overall": 9}),
        f'{GOOD}\nOnce more: {GOOD} and {{"other": 1}}',
    ],
)
def test_scores_are_read(reply: str) -> None:
    assert read_scores(reply) == SCORES


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "5 4 1 3",
        "grammaticality: 5, fluency: 4, coherence: 1, consistency: 3",
        GOOD[:-1],
        with_value(fluency=0),
        with_value(fluency=6),
        with_value(fluency=-4),
        with_value(fluency=4.5),
        with_value(fluency=4.0),
        with_value(fluency=True),
        with_value(fluency=None),
        with_value(fluency="4"),
        with_value(fluency="4/5"),
        with_value(fluency=[4]),
        GOOD.replace("4", "1e999"),
        GOOD.replace("4", "NaN"),
        GOOD.replace("fluency", "Fluency"),
        GOOD.replace('"fluency": 4, ', ""),
        GOOD.replace('"fluency": 4', '"fluency": 4, "fluency": 4'),
        f"{GOOD} {with_value(fluency=5)}",
        f"{with_value(fluency=6)} {GOOD}",
        json.dumps({"scores": SCORES}),
    ],
)
def test_what_is_doubtful_is_no_score(reply: str) -> None:
    assert read_scores(reply) is None


@pytest.mark.parametrize(
    ("reply", "verdicts"),
    [
        ('{"correct": [true, false, true]}', [True, False, True]),
        ('```json\n{"correct": [false, true]}\n```', [False, True]),
        ('1 is fine, 2 is not. {"why": "No [verb].", "correct": [true, false]} Bye.', [True, False]),
        ('{"correct": [true]} {"other": [false]}', [True]),
        ('{"correct": []}', []),
    ],
)
def test_verdicts_are_read(reply: str, verdicts: list[bool]) -> None:
    assert read_verdicts(reply, len(verdicts)) == verdicts
    # Of another number of reasons the same reply says nothing.
    assert read_verdicts(reply, len(verdicts) + 1) is None
    assert read_verdicts(reply, len(verdicts) - 1) is None


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "[true, false]",
        '{"correct": [true, false]',
        '{"correct": [true, 0]}',
        '{"correct": [1, 0]}',
        '{"correct": ["true", "false"]}',
        '{"correct": [true, null]}',
        '{"correct": [[true], false]}',
        '{"correct": {"1": true, "2": false}}',
        '{"correct": "no"}',
        '{"correct": null}',
        '{"Correct": [true, false]}',
        '{"correct": [true, false], "correct": [true, true]}',
        '{"correct": [true, false]} {"correct": [true, true]}',
    ],
)
def test_what_is_doubtful_is_no_verdict(reply: str) -> None:
    assert read_verdicts(reply, 2) is None


@settings(max_examples=200)
@given(REPLIES | st.lists(st.fixed_dictionaries(dict.fromkeys(RESPECTS, VALUES)), max_size=2), AROUND)
def test_only_whole_scores_on_which_all_objects_agree_are_read(found: list[Mapping[str, Any]], around: str) -> None:
    valid = [one for one in found if all(type(one[name]) is int and 1 <= one[name] <= 5 for name in RESPECTS)]
    picked = read_scores(around + around.join(map(json.dumps, found)) + around)
    assert picked is None or all(type(score) is int and 1 <= score <= 5 for score in picked.values())
    if not valid:
        assert picked is None
    elif len(valid) == len(found):
        first, *rest = ({name: one[name] for name in RESPECTS} for one in valid)
        assert picked == (None if any(one != first for one in rest) else first)


@settings(max_examples=200)
@given(st.text() | PIECES.map("".join), st.integers(0, 3))
def test_any_reply_is_read_without_an_error(reply: str, reasons: int) -> None:
    assert read_scores(reply) in (None, SCORES)
    verdicts = read_verdicts(reply, reasons)
    assert verdicts is None or len(verdicts) == reasons
