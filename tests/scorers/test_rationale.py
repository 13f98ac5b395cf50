"""Reasons for edits: how an edit is said, which lines are reasons, and which edits they cover."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorers.edits import Edit, edits_between
from scorers.rationale import coverage, covered, describe, reasons_of

WORDS = st.lists(st.sampled_from(["he", "go", "goes", "to", "the", "school", "It's", ","]), max_size=12)
REPLACED = 'The word "go" should be replaced by "goes" because the subject is singular.'


def edit(source: str, target: str) -> Edit:
    return Edit(0, len(source.split()), tuple(source.split()), tuple(target.split()))


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        ("go", "goes", 'The word "go" should be replaced by "goes"'),
        ("go to", "goes into the", 'The words "go to" should be replaced by "goes into the"'),
        ("very", "", 'The word "very" should be deleted'),
        ("you know", "", 'The words "you know" should be deleted'),
        ("", "the", 'The word "the" should be inserted'),
        ("", "of the", 'The words "of the" should be inserted'),
    ],
)
def test_each_kind_is_said(source: str, target: str, said: str) -> None:
    assert describe(edit(source, target)) == said
    assert covered([edit(source, target)], [f"{said} because x."]) == [True]


def test_lines_that_give_a_reason() -> None:
    deleted, inserted = 'The word "a" should be deleted because x.', 'The word "b" should be inserted because y.'
    reply = f"Here you are:\n1. {REPLACED}\n 2) {deleted}\r\n(3) {inserted}\n- {deleted}\n• {inserted}\n* {REPLACED}\n"
    assert reasons_of(reply) == [REPLACED, deleted, inserted, deleted, inserted, REPLACED]
    bold = f"**{REPLACED}**"
    assert reasons_of(f"{bold}\n- {bold}\n2. {bold}") == [bold] * 3
    # No reason, no edit, and nothing at all.
    assert reasons_of('The word "a" should be deleted.\nIt is good because I say so.\n\n') == []
    assert reasons_of("") == []


def test_each_edit_needs_a_line_of_its_own_in_any_order() -> None:
    edits = [edit("go", "goes"), edit("", "the"), edit("go", "goes")]
    lines = [f"{describe(one)} because x." for one in edits]
    assert covered(edits, lines) == covered(edits, lines[::-1]) == [True, True, True]
    assert covered(edits, lines[:2]) == covered(edits, lines[1::-1]) == [True, True, False]
    assert covered(edits, lines[1:2]) == [False, True, False]
    assert covered(edits, []) == [False, False, False] and covered([], lines) == []
    assert coverage(edits, lines[:2]) == pytest.approx(2 / 3)
    assert coverage(edits, lines) == 1.0 and coverage(edits, []) == 0.0
    assert coverage([], lines) is None


@pytest.mark.parametrize(
    ("line", "covers"),
    [
        (REPLACED, True),
        ("The word “go” should be replaced by “goes” because x.", True),
        ("The word `go` should be replaced by `goes` because x.", True),
        ("The subject's word 'go' should be replaced by 'goes' because it's singular.", True),
        ('THE WORD "GO" is to be replaced with "Goes" because x.', True),
        ('The word "go " should be replaced by " goes" because of the word "the".', True),
        ('The word "go" should be inserted because x.', False),
        ('The word "go" should be deleted because of "goes".', False),
        ('The word "go" should be replaced by "gone" because x.', False),
        ('The word "goes" should be replaced by "go" because x.', False),
        ('The words "go to" should be replaced by "goes" because x.', False),
        ("The word go should be replaced by goes because x.", False),
        ('The word "go" should be replaced because "goes" is right.', False),
    ],
)
def test_a_line_names_the_words_and_what_happens_to_them(line: str, covers: bool) -> None:
    assert covered([edit("go", "goes")], [line]) == [covers]


@pytest.mark.parametrize(
    "line",
    [
        'The word "go" should be inserted because x.',
        'The word "gone" should be deleted because x.',
        'The word "go" should be replaced by "goes" because x.',
        'The word "go" should be replaced by "goes" because it must not be deleted.',
        'The word "go" should be replaced by "deleted" because x.',
    ],
)
def test_what_covers_no_deletion(line: str) -> None:
    assert covered([edit("go", "")], [line]) == [False]


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ('"', ""),
        ("", 'said , "'),
        ('"', "“"),
        ("because", "since"),
        ("left because of", ""),
        ("It's", "It is"),
        ("well-known", "known"),
        ("他 说", "他 们"),
    ],
)
def test_the_words_of_an_edit_may_be_any(source: str, target: str) -> None:
    assert covered([edit(source, target)], [f"{describe(edit(source, target))} because x."]) == [True]


def test_the_words_of_an_edit_are_no_reason() -> None:
    assert reasons_of('The words "left because of" should be deleted') == []


@given(WORDS, WORDS, st.randoms(use_true_random=False))
def test_what_is_said_of_an_edit_covers_it(source: list[str], target: list[str], rng: Random) -> None:
    edits = edits_between(" ".join(source), " ".join(target))
    lines = [f"{describe(one)} because x." for one in edits]
    reply = "\n".join(f"{number}. {line}" for number, line in enumerate(rng.sample(lines, len(lines)), 1))
    assert covered(edits, reasons_of(reply)) == [True] * len(edits)
    # One line less covers one edit less.
    assert sum(covered(edits, lines[1:])) == max(0, len(edits) - 1)
