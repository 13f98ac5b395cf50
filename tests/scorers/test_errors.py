"""The words of messages: the hint that goes with a misspelt name, foreign text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorers.errors import did_you_mean, plain

NAMES = ["policy", "general", "domain", "relevance"]


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("polcy", ", did you mean policy?"),
        ("Policy", ", did you mean policy?"),
        ("generell", ", did you mean general?"),
        ("teacher", ""),
        ("", ""),
    ],
)
def test_gold(word: str, hint: str) -> None:
    assert did_you_mean(word, NAMES) == hint


def test_the_names_may_come_from_a_generator_or_be_none() -> None:
    assert did_you_mean("polcy", (name for name in NAMES)) == ", did you mean policy?"
    assert did_you_mean("polcy", []) == ""


@given(st.text(max_size=12), st.lists(st.text(min_size=1, max_size=12), max_size=8))
def test_the_hint_names_one_of_those_allowed(word: str, allowed: list[str]) -> None:
    assert did_you_mean(word, allowed) in {"", *(f", did you mean {name}?" for name in allowed)}
    assert not word or did_you_mean(word, [*allowed, word]) == f", did you mean {word}?"


@given(st.text())
def test_foreign_text_cannot_steer_a_terminal(text: str) -> None:
    shown = plain(text)
    assert shown.isprintable() and (shown == text or not text.isprintable())
