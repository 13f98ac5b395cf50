"""Word-level edits that turn a text into another (RationAlign, §3.1): words deleted, inserted or replaced.

edits_between("He go to school .", "He goes to the school .")
[Edit(start=1, end=2, source=('go',), target=('goes',)), Edit(start=3, end=3, source=(), target=('the',))]
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

# A word with its inner apostrophes and hyphens, a Han or Japanese character alone, or a sign alone.
_WORD = re.compile(r"[\u3041-\u30fa\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|[^\W_]+(?:[-'’][^\W_]+)*|[^\w\s]|_")


class Edit(NamedTuple):
    """Words of the source, and what stands in their place.

    Attributes:
        start: number of the first word of the source, from 0.
        end: number after the last one; equal to `start` where words are inserted.
        source: the words that go; none of an insertion.
        target: the words that come; none of a deletion.
    """

    start: int
    end: int
    source: tuple[str, ...]
    target: tuple[str, ...]

    @property
    def kind(self) -> str:
        """`deleted`, `inserted` or `replaced`."""
        if not self.source:
            return "inserted"
        return "replaced" if self.target else "deleted"


def words_of(text: str) -> list[str]:
    """Cut a text into words and signs.

    >>> words_of("It's a well-known fact, 真的。")
    ["It's", 'a', 'well-known', 'fact', ',', '真', '的', '。']
    """
    return _WORD.findall(text)


def edits_between(source: str, target: str) -> list[Edit]:
    """Return the fewest word edits that turn one text into another, neighbouring ones as one, in their order."""
    return word_edits(words_of(source), words_of(target))


def word_edits(source: Sequence[str], target: Sequence[str]) -> list[Edit]:
    """Return the fewest word edits that turn one sequence of words into another, see `edits_between`."""
    from rapidfuzz.distance import Levenshtein

    found: list[Edit] = []
    for step in Levenshtein.opcodes(source, target):
        if step.tag == "equal":
            continue
        edit = Edit(
            step.src_start,
            step.src_end,
            tuple(source[step.src_start : step.src_end]),
            tuple(target[step.dest_start : step.dest_end]),
        )
        if found and found[-1].end == edit.start:
            last = found.pop()
            edit = Edit(last.start, edit.end, last.source + edit.source, last.target + edit.target)
        found.append(edit)
    return found
