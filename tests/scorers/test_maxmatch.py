"""MaxMatch: the format, cases by hand, and an independent search through all ways of a lattice."""

from collections.abc import Iterator, Sequence
from itertools import product
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorers.errors import UserError
from scorers.maxmatch import UNCHANGED, Annotated, Counts, GoldEdit, lattice, match, maxmatch, read_m2

M2 = """S This are a sentence .
A 1 2|||Vform|||is|||REQUIRED|||-NONE-|||0
A 3 3|||ArtOrDet|||long||short|||REQUIRED|||-NONE-|||0
A -1 -1|||noop|||-NONE-|||REQUIRED|||-NONE-|||1

S Nothing here .

S Too many many words .
A 2 3|||Rloc-||||||REQUIRED|||-NONE-|||2
"""


def gold(*edits: tuple[int, int, str]) -> list[GoldEdit]:
    return [GoldEdit(start, end, (tuple(text.split()),)) for start, end, text in edits]


def test_the_format() -> None:
    assert list(read_m2(M2.splitlines(keepends=True), "x.m2")) == [
        Annotated(
            ("This", "are", "a", "sentence", "."),
            {0: [GoldEdit(1, 2, (("is",),)), GoldEdit(3, 3, (("long",), ("short",)))], 1: []},
        ),
        Annotated(("Nothing", "here", "."), {0: []}),
        Annotated(("Too", "many", "many", "words", "."), {2: [GoldEdit(2, 3, ((),))]}),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("B x", "x.m2, line 2: begins with 'B x'; expected S, or A after an S"),
        ("A 1|||x|||y", "is no annotation; expected A start end"),
        ("A 1 2|||x", "is no annotation"),
        ("A 3 9|||x|||y|||REQUIRED|||-NONE-|||0", "the edit is of words 3 to 9, and the sentence has 3"),
        ("A 2 1|||x|||y|||REQUIRED|||-NONE-|||0", "the edit is of words 2 to 1"),
    ],
)
def test_what_is_not_the_format(line: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        list(read_m2(["S a b c", line], "x.m2"))
    assert message in str(error.value)
    with pytest.raises(UserError, match="expected S, or A after an S"):
        list(read_m2(["A 1 2|||x|||y|||REQUIRED|||-NONE-|||0"], "x.m2"))


@pytest.mark.parametrize(
    ("source", "output", "edits", "counts"),
    [
        ("a b c", "a b c", [], (0, 0, 0)),
        ("a b c", "a b c", [(0, 1, "x")], (0, 0, 1)),
        ("a b c", "a x c", [], (0, 1, 0)),
        ("a b c", "a x c", [(1, 2, "x")], (1, 1, 1)),
        # The same words by other edits: b is deleted and x inserted, in one gold edit or in two.
        ("a b c", "a x c", [(1, 2, ""), (2, 2, "x")], (2, 2, 2)),
        # Two changes with an unchanged word between them: two edits, or one of the annotator's.
        ("a b c d", "x b y d", [(0, 1, "x"), (2, 3, "y")], (2, 2, 2)),
        ("a b c d", "x b y d", [(0, 3, "x b y")], (1, 1, 1)),
        # Without a gold edit the fewest edits count: both changes are one, since two unchanged words may lie between.
        ("a b c d", "x b y d", [], (0, 1, 0)),
        ("a b c d e f", "x b c d y f", [], (0, 2, 0)),
        # Inserted once, wanted once, though it stands there twice.
        ("a", "a b b", [(1, 1, "b")], (1, 2, 1)),
        ("a", "a b b", [(1, 1, "b"), (1, 1, "b")], (2, 2, 2)),
        ("", "a", [(0, 0, "a")], (1, 1, 1)),
        ("a", "", [(0, 1, "")], (1, 1, 1)),
        ("", "", [], (0, 0, 0)),
    ],
)
def test_by_hand(source: str, output: str, edits: list[tuple[int, int, str]], counts: tuple[int, int, int]) -> None:
    assert match(source.split(), output.split(), gold(*edits)) == Counts(*counts)


def test_one_of_several_corrections() -> None:
    edits = [GoldEdit(0, 1, (("x",), ("y", "z")))]
    assert [match(["a"], output.split(), edits).correct for output in ("x", "y z", "", "q")] == [1, 1, 0, 0]
    # "q" is also the deletion of "a" and the insertion of "q", and the deletion is what an annotator may want.
    assert match(["a"], ["q"], [GoldEdit(0, 1, (("x",), ()))]) == Counts(1, 2, 1)


def test_precision_recall_and_f() -> None:
    found = Counts(2, 3, 5)
    assert (found.precision, found.recall) == (2 / 3, 2 / 5)
    # F0.5 = 1.25 · P · R / (0.25 · P + R).
    assert found.f == pytest.approx(1.25 * (2 / 3) * (2 / 5) / (0.25 * (2 / 3) + 2 / 5))
    assert (Counts(0, 0, 0).f, Counts(0, 0, 2).precision, Counts(0, 2, 0).recall, Counts(0, 2, 0).f) == (1, 1, 1, 0)


def test_the_better_annotator_counts_sentence_by_sentence() -> None:
    sentence = Annotated(("a", "b"), {0: gold((0, 1, "x")), 1: gold((1, 2, "y"))})
    assert maxmatch([sentence], [["x", "b"]]) == Counts(1, 1, 1)
    assert maxmatch([sentence, sentence], [["x", "b"], ["a", "y"]]) == Counts(2, 2, 2)
    # Of equal scores the one with fewer gold edits: nothing is proposed, and annotator 1 wants nothing.
    silent = Annotated(("a", "b"), {0: gold((0, 1, "x")), 1: []})
    assert maxmatch([silent], [["a", "b"]]) == Counts(0, 0, 0)
    with pytest.raises(ValueError, match="zip"):
        maxmatch([sentence], [])


def ways(steps: dict[tuple[int, int], list[tuple[tuple[int, int], bool]]], node: tuple[int, int], end: tuple[int, int]):  # type: ignore[no-untyped-def]
    """Every way from a node to the end, as lists of steps."""
    if node == end:
        yield []
    for there, changes in steps.get(node, ()):
        for rest in ways(steps, there, end):
            yield [(node, there, changes), *rest]


def cuts(way: Sequence[tuple[tuple[int, int], tuple[int, int], bool]]) -> Iterator[list[Sequence]]:  # type: ignore[type-arg]
    """Every division of a way into edits and single unchanged steps."""
    for mask in product((False, True), repeat=max(0, len(way) - 1)):
        parts, begin = [], 0
        for place, cut in enumerate(mask, 1):
            if cut:
                parts.append(way[begin:place])
                begin = place
        parts.append(way[begin:])
        if all(
            (len(part) == 1 and not part[0][2])
            or (any(step[2] for step in part) and sum(not step[2] for step in part) <= UNCHANGED)
            for part in parts
        ):
            yield parts


def searched(source: list[str], output: list[str], edits: list[GoldEdit]) -> Counts:
    """The counts by trying everything."""
    if not source and not output:
        return Counts(0, 0, len(edits))
    best = None
    steps = {node: list(found) for node, found in lattice(source, output).items()}
    for way in ways(steps, (0, 0), (len(source), len(output))):
        for parts in cuts(way):
            left = sorted(edits, key=lambda e: (e.start, e.end))
            correct = length = others = 0
            for part in parts:
                (i, j), (k, m) = part[0][0], part[-1][1]
                if not any(step[2] for step in part):
                    length += 1
                    continue
                place = next(
                    (
                        n
                        for n, edit in enumerate(left)
                        if (edit.start, edit.end) == (i, k) and tuple(output[j:m]) in edit.corrections
                    ),
                    None,
                )
                if place is None:
                    others, length = others + 1, length + len(part)
                else:
                    correct, left = correct + 1, left[place + 1 :]
            found = (-correct, length, others)
            best = found if best is None else min(best, found)
    assert best is not None
    return Counts(-best[0], best[2] - best[0], len(edits))


def test_equals_a_search_through_all_ways() -> None:
    rng = Random(0)
    for _ in range(1000):
        source = [rng.choice("abc") for _ in range(rng.randrange(5))]
        output = list(source)
        for _ in range(rng.randrange(4)):
            place = rng.randrange(len(output) + 1)
            output[place : place + rng.randrange(2)] = rng.choices("abcx", k=rng.randrange(3))
        output = output[:5]
        edits = []
        for _ in range(rng.randrange(4)):
            start = rng.randrange(len(source) + 1)
            end = min(len(source), start + rng.randrange(3))
            edits.append(GoldEdit(start, end, (tuple(rng.choices("abcx", k=rng.randrange(3))),)))
        assert match(source, output, edits) == searched(source, output, edits), (source, output, edits)


WORDS = st.lists(st.sampled_from("abcd"), max_size=12)


@given(WORDS, WORDS)
def test_counts_stay_within_their_bounds(source: list[str], output: list[str]) -> None:
    whole = [GoldEdit(0, len(source), (tuple(output),))]
    found = match(source, output, whole)
    assert 0 <= found.correct <= min(found.proposed, found.gold)
    assert (found.proposed == 0) == (source == output)
    assert match(source, output, []).proposed == 0 or source != output


def test_a_long_sentence() -> None:
    source = ["word", "other", "thing"] * 200
    output = [word if place % 7 else "x" for place, word in enumerate(source)]
    edits = gold(*((place, place + 1, "x") for place in range(0, 600, 7)))
    assert match(source, output, edits) == Counts(86, 86, 86)
