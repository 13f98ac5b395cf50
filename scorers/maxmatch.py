"""MaxMatch: how many of a corrected sentence's edits are those of an annotator (Dahlmeier and Ng, 2012); F0.5.

A sentence can be corrected by different edits that give the same words. Of all sets of edits that lead from the source
to the output, those count that agree best with the annotator: the most gold edits, then the fewest steps outside them,
then the fewest edits. The sets are the ways through a lattice, whose steps are those of all shortest alignments, with
substitutions that cost as much as one step and as much as two; an edit is a run of steps in which a word changes and at
most `UNCHANGED` words do not. Of several annotators the one counts, sentence by sentence, with whom the score of all
sentences so far is highest.

    S This are a sentence .
    A 1 2|||Vform|||is|||REQUIRED|||-NONE-|||0
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from scorers.errors import UserError

UNCHANGED = 2
BETA = 0.5
NOOP = "noop"

Words = tuple[str, ...]


class GoldEdit(NamedTuple):
    """An annotator's edit.

    Attributes:
        start: number of the first word of the source that it replaces, from 0.
        end: number after the last one; equal to `start` where words are inserted.
        corrections: what may stand in their place; an empty one deletes them.
    """

    start: int
    end: int
    corrections: tuple[Words, ...]


class Annotated(NamedTuple):
    """A sentence of an M2 file.

    Attributes:
        source: its words.
        gold: each annotator's edits, by the annotator's number; one who changes nothing has none.
    """

    source: Words
    gold: Mapping[int, Sequence[GoldEdit]]


class Counts(NamedTuple):
    """Edits of one sentence or many.

    Attributes:
        correct: proposed edits that the annotator has too.
        proposed: edits of the output.
        gold: edits of the annotator.
    """

    correct: int
    proposed: int
    gold: int

    def __add__(self, other: object) -> "Counts":
        if not isinstance(other, Counts):
            return NotImplemented
        return Counts(self.correct + other.correct, self.proposed + other.proposed, self.gold + other.gold)

    @property
    def precision(self) -> float:
        """Share of the proposed edits that are correct; 1 where none is proposed."""
        return self.correct / self.proposed if self.proposed else 1.0

    @property
    def recall(self) -> float:
        """Share of the gold edits that are proposed; 1 where there is none."""
        return self.correct / self.gold if self.gold else 1.0

    @property
    def f(self) -> float:
        """F0.5 of precision and recall; 1 where nothing is proposed and nothing is gold."""
        weight = BETA * BETA
        below = weight * self.gold + self.proposed
        return (1 + weight) * self.correct / below if below else 1.0


def read_m2(lines: Iterable[str], name: str) -> Iterator[Annotated]:
    """Yield the sentences of a file in M2's format.

    Args:
        lines: its lines.
        name: the file's, for messages.

    Raises:
        UserError: naming a line that is none of the format's, or an edit outside its sentence.
    """
    source: Words | None = None
    gold: dict[int, list[GoldEdit]] = {}
    for number, line in enumerate(lines, 1):
        text = line.rstrip("\n")
        if text.startswith("S ") or text == "S":
            if source is not None:
                yield Annotated(source, gold or {0: []})
            source, gold = tuple(text[2:].split()), {}
        elif text.startswith("A ") and source is not None:
            annotator, edit = _annotation(text, len(source), f"{name}, line {number}")
            gold.setdefault(annotator, []).extend([edit] if edit is not None else [])
        elif text.strip():
            raise UserError(f"{name}, line {number}: begins with {text[:20]!r}; expected S, or A after an S")
    if source is not None:
        yield Annotated(source, gold or {0: []})


def _annotation(text: str, words: int, where: str) -> tuple[int, GoldEdit | None]:
    """Return the annotator and the edit of a line; None where the annotator says that nothing is wrong."""
    fields = text[2:].split("|||")
    try:
        start, end = map(int, fields[0].split())
        annotator = int(fields[5]) if len(fields) > 5 else 0
        kind, corrections = fields[1], tuple(tuple(choice.split()) for choice in fields[2].split("||"))
    except (ValueError, IndexError):
        raise UserError(
            f"{where}: {text[:60]!r} is no annotation; expected A start end|||type|||correction|||…|||…|||annotator"
        ) from None
    if kind == NOOP or start == -1:
        return annotator, None
    if not 0 <= start <= end <= words:
        raise UserError(
            f"{where}: the edit is of words {start} to {end}, and the sentence has {words}; correct the line, or leave "
            "the sentence out"
        )
    return annotator, GoldEdit(start, end, tuple(() if choice == ("-NONE-",) else choice for choice in corrections))


def maxmatch(sentences: Iterable[Annotated], outputs: Iterable[Sequence[str]]) -> Counts:
    """Return the edits of all sentences, with the annotator of each who makes the score of all so far the highest.

    Equal scores are decided by more correct edits, then by fewer proposed and gold ones.

    Args:
        sentences: sources and annotators.
        outputs: the corrected sentences as words, in the same order.

    Raises:
        ValueError: for more sentences than outputs, or fewer.
    """
    return sum(by_sentence(sentences, outputs), Counts(0, 0, 0))


def by_sentence(sentences: Iterable[Annotated], outputs: Iterable[Sequence[str]]) -> Iterator[Counts]:
    """Yield what `maxmatch` adds up: of each sentence the counts with the annotator that it chooses.

    Raises:
        ValueError: as `maxmatch`.
    """
    total = Counts(0, 0, 0)
    for sentence, output in zip(sentences, outputs, strict=True):
        choices = list(matches(sentence.source, output, sentence.gold.values()))
        chosen = max(choices, key=lambda c: _merit(total + c))
        total += chosen
        yield chosen


def _merit(counts: Counts) -> tuple[float, int, float]:
    """Return what the counts of the better choice are greater in."""
    return counts.f, counts.correct, -(counts.proposed + BETA * BETA * counts.gold)


def match(source: Sequence[str], output: Sequence[str], gold: Sequence[GoldEdit]) -> Counts:
    """Return the edits of one sentence that agree best with one annotator.

    >>> match("This are a sentence .".split(), "This is a sentence .".split(), [GoldEdit(1, 2, (("is",),))])
    Counts(correct=1, proposed=1, gold=1)
    """
    [found] = matches(source, output, [gold])
    return found


def matches(source: Sequence[str], output: Sequence[str], golds: Iterable[Sequence[GoldEdit]]) -> Iterator[Counts]:
    """Yield the edits of one sentence that agree best with each of several annotators, see `match`."""
    steps, words, end = lattice(source, output), tuple(output), (len(source), len(output))
    for gold in golds:
        ordered = sorted(gold, key=lambda edit: (edit.start, edit.end))
        correct, _, others = _best(steps, ordered, words, end)
        yield Counts(correct, correct + others, len(gold))


Node = tuple[int, int]
Steps = Mapping[Node, Sequence[tuple[Node, bool]]]
"""From each node (words of the source read, words of the output written) the next ones, and whether a word changes."""


def lattice(source: Sequence[str], output: Sequence[str]) -> Steps:
    """Return the steps of all shortest alignments, with substitutions of cost 1 and of cost 2."""
    found: dict[Node, dict[Node, bool]] = {}
    for substitution in (1, 2):
        for start, end, changes in _shortest(source, output, substitution):
            found.setdefault(start, {})[end] = changes
    return {start: sorted(ends.items()) for start, ends in found.items()}


def _shortest(source: Sequence[str], output: Sequence[str], substitution: int) -> Iterator[tuple[Node, Node, bool]]:
    """Yield the steps of the shortest alignments as (from, to, whether a word changes).

    No shortest alignment leaves a band of diagonals: at node (i, j) it has at least |j - i| insertions and deletions
    behind it, and as many before it as lead from there to the diagonal of the end.
    """
    from rapidfuzz.distance import Levenshtein

    rows, columns = len(source), len(output)
    shift = columns - rows
    distance = Levenshtein.distance(source, output, weights=(1, 1, substitution))
    low, high = -((distance - shift) // 2), (distance + shift) // 2
    beyond = rows + columns + 1
    # By word of the source, the cost of each node of the band, with one that cannot be reached on either side.
    cost = [[beyond] * (high - low + 3) for _ in range(rows + 1)]
    for i, row in enumerate(cost):
        above = cost[i - 1]
        for j in range(max(0, i + low), min(columns, i + high) + 1):
            place = j - i - low + 1
            if i and j:
                aligned = above[place] + (0 if source[i - 1] == output[j - 1] else substitution)
                row[place] = min(aligned, above[place + 1] + 1, row[place - 1] + 1)
            else:
                row[place] = i + j
    # Back from the end, by the steps that a shortest alignment may take.
    waiting, seen = [(rows, columns)], set()
    while waiting:
        node = i, j = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        place = j - i - low + 1
        here = cost[i][place]
        before = []
        if i and j:
            changes = source[i - 1] != output[j - 1]
            if cost[i - 1][place] + (substitution if changes else 0) == here:
                before.append(((i - 1, j - 1), changes))
        if i and cost[i - 1][place + 1] + 1 == here:
            before.append(((i - 1, j), True))
        if j and cost[i][place - 1] + 1 == here:
            before.append(((i, j - 1), True))
        for start, changes in before:
            yield start, node, changes
            waiting.append(start)


def _best(steps: Steps, gold: Sequence[GoldEdit], output: Words, end: Node) -> tuple[int, int, int]:
    """Return gold edits, steps outside them, and other edits of the best way through the lattice.

    Gold edits are in their order, and each is taken once at most: of several insertions at one place those before the
    last one taken are passed.
    """
    arcs = _gold_arcs(steps, gold, output)
    starts = [edit.start for edit in gold]
    first = [bisect_left(starts, word) for word in range(end[0] + 2)]  # by word, its first gold edit
    outside: dict[tuple[Node, int], Cost] = {}
    inside: dict[tuple[Node, int, int, bool], Cost] = {}
    for node in sorted({*steps, end}, reverse=True):
        forward = steps.get(node, ())
        for passed in range(first[node[0]], first[node[0] + 1] + 1):
            # What has been passed counts at this word alone.
            ahead = [(there, changes, max(passed, first[there[0]])) for there, changes in forward]
            # Inside an edit in which no word has changed yet it cannot end.
            for unchanged in range(UNCHANGED + 1):
                inside[node, passed, unchanged, False] = _through(ahead, inside, unchanged, changed=False)
            ways = [inside[node, passed, 0, False]]
            ways += [_plus(outside[there, after], (0, 1, 0)) for there, changes, after in ahead if not changes]
            for number, there in arcs.get(node, ()):
                if number >= passed:
                    ways.append(_plus(outside[there, max(number + 1, first[there[0]])], (-1, 0, 0)))
            outside[node, passed] = best = (0, 0, 0) if node == end else min(ways)
            for unchanged in range(UNCHANGED + 1):
                on = _through(ahead, inside, unchanged, changed=True)
                inside[node, passed, unchanged, True] = min(_plus(best, (0, 0, 1)), on)
    correct, length, others = outside[(0, 0), 0]
    return -correct, length, others


Cost = tuple[int, int, int]
"""Minus the gold edits, steps outside them, other edits: the least is best."""
_NO_WAY: Cost = (1 << 30, 0, 0)


def _through(
    ahead: Sequence[tuple[Node, bool, int]],
    inside: Mapping[tuple[Node, int, int, bool], Cost],
    unchanged: int,
    *,
    changed: bool,
) -> Cost:
    """Return the least cost of a step on inside an edit, which has some unchanged words already."""
    ways = [
        inside[there, after, unchanged + (not changes), changed or changes]
        for there, changes, after in ahead
        if changes or unchanged < UNCHANGED
    ]
    return _plus(min(ways), (0, 1, 0)) if ways else _NO_WAY


def _plus(a: Cost, b: Cost) -> Cost:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def _gold_arcs(steps: Steps, gold: Sequence[GoldEdit], output: Words) -> dict[Node, list[tuple[int, Node]]]:
    """Return from each node the gold edits that lead on from there, as (number of the edit, node after it)."""
    nodes = {*steps, *(there for found in steps.values() for there, _ in found)}
    arcs: dict[Node, list[tuple[int, Node]]] = {}
    for number, edit in enumerate(gold):
        for node in nodes:
            if node[0] != edit.start:
                continue
            for correction in edit.corrections:
                there = edit.end, node[1] + len(correction)
                fits = output[node[1] : there[1]] == correction
                if fits and there in nodes and _is_edit(steps, node, there):
                    arcs.setdefault(node, []).append((number, there))
    return arcs


def _is_edit(steps: Steps, start: Node, end: Node) -> bool:
    """Whether a run of steps leads from one node to another in which a word changes and at most `UNCHANGED` do not."""
    waiting, seen = [(start, 0, False)], set()
    while waiting:
        state = node, unchanged, changed = waiting.pop()
        if node == end and changed:
            return True
        if state in seen or node[0] > end[0] or node[1] > end[1]:
            continue
        seen.add(state)
        for there, changes in steps.get(node, ()):
            if changes or unchanged < UNCHANGED:
                waiting.append((there, unchanged + (not changes), changed or changes))
    return False
