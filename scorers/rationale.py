"""Reasons for edits: which edits of a text they cover (RationAlign, §3.1).

An edit is covered by a line that quotes its words and says why:

    The word "go" should be replaced by "goes" because the subject is singular.
    The words "you know" should be deleted because they say nothing.
    The word "the" should be inserted because the noun is known.
"""

import re
from collections.abc import Sequence

from scorers.edits import Edit, words_of

_NUMBER = re.compile(r"^\s*(?:[-*•]|\(?\d+[.):])\s*")
_QUOTED = re.compile(r'"([^"\n]*)"|“([^”\n]*)”|`([^`\n]*)`|\'([^\'\n]*)\'(?![^\W_])')
VERBS = ("deleted", "inserted", "replaced")


def describe(edit: Edit) -> str:
    """Return an edit as the beginning of the sentence that gives its reason, without "because".

    >>> describe(Edit(1, 2, ("go",), ("goes",)))
    'The word "go" should be replaced by "goes"'
    """
    words = edit.source or edit.target
    subject = f'The {"word" if len(words) == 1 else "words"} "{" ".join(words)}" should be'
    if edit.kind == "replaced":
        return f'{subject} replaced by "{" ".join(edit.target)}"'
    return f"{subject} {edit.kind}"


def reasons_of(reply: str) -> list[str]:
    """Return the lines of a reply that give a reason, without bullets and numbers."""
    lines = (_NUMBER.sub("", line).strip() for line in reply.splitlines())
    return [line for line in lines if " because " in line and any(verb in line for verb in VERBS)]


def covered(edits: Sequence[Edit], reasons: Sequence[str]) -> list[bool]:
    """Tell which edits have a reason of their own; a line counts for one edit.

    Args:
        edits: the edits.
        reasons: a sentence each, in any order.

    Returns:
        Of each edit, whether a line quotes the words that go and the words that come, and says what happens to them.
    """
    free = [(_quotes(line), line) for line in reasons]
    found = []
    for edit in edits:
        wanted = [" ".join(words_of(" ".join(words))).lower() for words in (edit.source, edit.target) if words]
        fits = (k for k, (quotes, line) in enumerate(free) if edit.kind in line and quotes[: len(wanted)] == wanted)
        place = next(fits, None)
        found.append(place is not None)
        if place is not None:
            free.pop(place)
    return found


def coverage(edits: Sequence[Edit], reasons: Sequence[str]) -> float | None:
    """Return the share of the edits that have a reason; None where there is no edit."""
    return sum(covered(edits, reasons)) / len(edits) if edits else None


def _quotes(line: str) -> list[str]:
    """Return the quoted texts before "because", as words in small letters."""
    before = line.partition(" because ")[0]
    found = (next(part for part in match if part is not None) for match in _matches(before))
    return [" ".join(words_of(text)).lower() for text in found]


def _matches(text: str) -> list[tuple[str | None, ...]]:
    return [match.groups() for match in _QUOTED.finditer(text)]
