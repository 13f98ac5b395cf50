"""Word edits: by hand, and what holds of any two texts."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorers.edits import Edit, edits_between, word_edits, words_of

WORDS = st.lists(st.sampled_from("abcd"), max_size=12)


def test_words() -> None:
    assert words_of("He's well-known , isn’t he?") == ["He's", "well-known", ",", "isn’t", "he", "?"]
    assert words_of("他说 OK。ひらがな") == ["他", "说", "OK", "。", "ひ", "ら", "が", "な"]
    assert words_of("a_b  \n") == ["a", "_", "b"] and words_of(" ") == []


@pytest.mark.parametrize(
    ("source", "target", "edits"),
    [
        ("He go to school .", "He goes to the school .", [(1, 2, "go", "goes"), (3, 3, "", "the")]),
        ("a b c", "a c", [(1, 2, "b", "")]),
        # Neighbouring edits are one.
        ("a b c d", "a x y d", [(1, 3, "b c", "x y")]),
        ("a b", "x a b", [(0, 0, "", "x")]),
        ("", "a", [(0, 0, "", "a")]),
        ("a", "a", []),
    ],
)
def test_by_hand(source: str, target: str, edits: list[tuple[int, int, str, str]]) -> None:
    expected = [Edit(start, end, tuple(old.split()), tuple(new.split())) for start, end, old, new in edits]
    assert edits_between(source, target) == expected


def test_kinds() -> None:
    assert [edit.kind for edit in edits_between("a b c", "x a d")] == ["inserted", "replaced"]
    assert [edit.kind for edit in edits_between("a b", "a")] == ["deleted"]


@given(WORDS, WORDS)
def test_they_lead_from_one_text_to_the_other(source: list[str], target: list[str]) -> None:
    found = word_edits(source, target)
    made = list(source)
    for edit in reversed(found):
        assert made[edit.start : edit.end] == list(edit.source)
        made[edit.start : edit.end] = edit.target
    assert made == target
    # In order, apart from one another, and none that changes nothing.
    assert all(a.end < b.start for a, b in pairwise(found))
    assert all(edit.source != edit.target for edit in found)
