"""JSON in replies: as models write it, and text that tries to be more than data."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorers.replies import json_values

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
)


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ('{"score": 7}', [{"score": 7}]),
        ('```json\n{"score": 7}\n```', [{"score": 7}]),
        ('Sure!\n[{"a": 1}, {"b": [2]}] Anything else?', [[{"a": 1}, {"b": [2]}]]),
        ('{"a": "one\nline"}', [{"a": "one\nline"}]),
        ('{"a": 1} and {"a": 2}', [{"a": 1}, {"a": 2}]),
        ('{"score": 7, "reason": "cut', []),
        ('{"score": 7, "score": 9}', []),
        ('{"score": {"x": 1, "x": 2}}', [{"score": None}]),
        ('{"score": NaN}', []),
        ('{"reason": "\\ud83d"} {"reason": "\\ud83d\\ude00"}', [{"reason": "😀"}]),
        ("{'score': 7}", []),
        ("no JSON at all", []),
        ("", []),
    ],
)
def test_what_is_found(reply: str, found: list[object]) -> None:
    assert json_values(reply) == found


@given(st.lists(st.lists(JSON) | st.dictionaries(TEXT, JSON), max_size=3))
def test_what_is_written_is_read(values: list[object]) -> None:
    assert json_values(" then ".join(json.dumps(value) for value in values)) == values


@given(st.text(st.sampled_from('{}[]":,0a\\ ')))
def test_any_text_is_read_without_an_error(text: str) -> None:
    assert all(isinstance(value, dict | list) for value in json_values(text))


def test_a_hostile_reply_takes_no_time() -> None:
    began = time.process_time()
    for reply in ("[" * 1_000_000, '{"a":' * 300_000, "{ " * 500_000, '{"a": "' * 100_000):
        assert json_values(reply) == []
    assert time.process_time() - began < 20
