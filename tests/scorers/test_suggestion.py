"""Answers of a writing assistant: both orders and none, what is broken, and whatever text may come."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorers.suggestion import REASONS, SUGGESTION, Answer, Order, read_answer, write_answer

TAGS = (*SUGGESTION, *REASONS)
REASON = 'The word "go" should be replaced by "goes" because the subject is singular.'
WITHOUT_TAGS = st.text().filter(lambda text: not any(tag in text for tag in TAGS))
PIECES = st.lists(st.sampled_from([*TAGS, "<suggestion", "reasons>", "He goes.", " ", "\n"]) | st.text(max_size=3))


@pytest.mark.parametrize(
    ("order", "written", "rationale"),
    [
        (
            "suggestion-first",
            f"<suggestion>He goes.</suggestion>\n<reasons>{REASON}</reasons>",
            REASON,
        ),
        (
            "rationale-first",
            f"<reasons>{REASON}</reasons>\n<suggestion>He goes.</suggestion>",
            REASON,
        ),
        ("none", "He goes.", None),
    ],
)
def test_each_order_is_written_and_read(order: Order, written: str, rationale: str | None) -> None:
    assert write_answer("He goes.", REASON, order) == written
    assert read_answer(written) == Answer("He goes.", rationale)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<suggestion>\n He goes.\nShe too. \n</suggestion>", Answer("He goes.\nShe too.", None)),
        ("Sure!\n<suggestion>He goes.</suggestion> so <reasons>a\nb</reasons> Bye.", Answer("He goes.", "a\nb")),
        # Reasons that are cut, blank, there twice, in the wrong order or around something else are none.
        ("<suggestion>He goes.</suggestion><reasons>It is", Answer("He goes.", None)),
        ("<suggestion>He goes.</suggestion><reasons> \n</reasons>", Answer("He goes.", None)),
        ("<suggestion>He goes.</suggestion><reasons>a</reasons><reasons>b</reasons>", Answer("He goes.", None)),
        ("<suggestion>He goes.</suggestion></reasons>a<reasons>", Answer("He goes.", None)),
        ("<reasons>a <suggestion>He goes.</suggestion> b</reasons>", Answer("He goes.", None)),
        # A text that only looks like tags is a text.
        ("  a < b and b > c  ", Answer("a < b and b > c", None)),
    ],
)
def test_a_suggestion_is_read(text: str, answer: Answer) -> None:
    assert read_answer(text) == answer


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n\t",
        "<suggestion> \n</suggestion><reasons>a</reasons>",
        "<suggestion>He goes.",
        "<suggestion>He goes.</sugges",
        "He goes.</suggestion>",
        "</suggestion>He goes.<suggestion>",
        "<reasons>a</reasons>",
        "He goes. <reasons>a</reasons>",
        "<suggestion>He goes.</suggestion><suggestion>She goes.</suggestion>",
        "<suggestion>He goes.</suggestion></suggestion>",
        "<suggestion><suggestion>He goes.</suggestion></suggestion>",
        "<suggestion>He goes. <reasons>a</reasons></suggestion>",
        "<suggestion>He goes.<reasons></suggestion>a</reasons>",
    ],
)
def test_what_is_broken_is_no_answer(text: str) -> None:
    assert read_answer(text) is None


@given(WITHOUT_TAGS, WITHOUT_TAGS, st.sampled_from(["suggestion-first", "rationale-first", "none"]))
def test_what_is_written_is_read(suggestion: str, rationale: str, order: Order) -> None:
    found = read_answer(write_answer(suggestion, rationale, order))
    if not suggestion.strip():
        assert found is None
    else:
        assert found == Answer(suggestion.strip(), None if order == "none" else rationale.strip() or None)


@given(st.text() | PIECES.map("".join))
def test_any_text_is_read_without_an_error(text: str) -> None:
    found = read_answer(text)
    for part in [] if found is None else [found.suggestion, *([found.rationale] if found.rationale else [])]:
        assert part and part == part.strip() and part in text
        assert not any(tag in part for tag in TAGS)
