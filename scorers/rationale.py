"""Reasons for edits: which edits of a text they cover (RationAlign, §3.1).

An edit is covered by a line that quotes its words and says why:

    The word "go" should be replaced by "goes" because the subject is singular.
    The words "you know" should be deleted because they say nothing.
    The word "the" should be inserted because the noun is known.
"""

import re
from collections.abc import Sequence

from scorers.edits import Edit, words_of

_NUMBER = re.compile(r"^\s*(?:[-*•](?=\s)|•|\(?\d+[.):])\s*")  # two stars begin bold type
_PAIRS = (('"', '"'), ("“", "”"), ("`", "`"), ("‘", "’"), ("«", "»"), ("„", "“"))
# A quoted text, in any of these marks or between apostrophes that are inside no word.
_QUOTED = re.compile("|".join(rf"{a}[^{b}\n]*{b}" for a, b in _PAIRS) + r"|(?<!\w)'[^\n]*?'(?!\w)")
_VERB = re.compile(r"\b(deleted|inserted|replaced)\b")


def describe(edit: Edit) -> str:
    """Return an edit as the beginning of the sentence that gives its reason, without "because".

    >>> describe(Edit(1, 2, ("go",), ("goes",)))
    'The word "go" should be replaced by "goes"'
    """
    words = edit.source or edit.target
    subject = f"The {'word' if len(words) == 1 else 'words'} {_quoted(words)} should be"
    return f"{subject} replaced by {_quoted(edit.target)}" if edit.kind == "replaced" else f"{subject} {edit.kind}"


def _quoted(words: Sequence[str]) -> str:
    """Return words in the first quotation marks that are not among their own."""
    text = " ".join(words)
    start, end = next((pair for pair in _PAIRS if not set(pair) & set(text)), _PAIRS[0])
    return f"{start}{text}{end}"


def reasons_of(reply: str) -> list[str]:
    """Return the lines of a reply that give a reason, without bullets and numbers."""
    lines = (_NUMBER.sub("", line).strip() for line in reply.splitlines())
    return [line for line in lines if _read(line) is not None]


def covered(edits: Sequence[Edit], reasons: Sequence[str]) -> list[bool]:
    """Tell which edits have a reason of their own, see `covering`."""
    return [reason is not None for reason in covering(edits, reasons)]


def covering(edits: Sequence[Edit], reasons: Sequence[str]) -> list[str | None]:
    """Return the reason of each edit; a line counts for one edit.

    Args:
        edits: the edits.
        reasons: a sentence each, in any order.

    Returns:
        Of each edit, the first free line that quotes the words that go and the words that come, and says what happens
        to them; None where there is none.
    """
    free = [(*found, line) for line in reasons if (found := _read(line)) is not None]
    result: list[str | None] = []
    for edit in edits:
        wanted = [_small(" ".join(words)) for words in (edit.source, edit.target) if words]
        fits = (k for k, (kind, quotes, _) in enumerate(free) if kind == edit.kind and quotes[: len(wanted)] == wanted)
        place = next(fits, None)
        result.append(None if place is None else free.pop(place)[2])
    return result


def coverage(edits: Sequence[Edit], reasons: Sequence[str]) -> float | None:
    """Return the share of the edits that have a reason; None where there is no edit."""
    return sum(covered(edits, reasons)) / len(edits) if edits else None


def _read(line: str) -> tuple[str, list[str]] | None:
    """Return what a line says is done, and the texts that it quotes before "because"; None for one without a reason.

    What stands in quotation marks is no part of the sentence: neither its verb nor its "because".
    """
    masked = _QUOTED.sub(lambda found: "\0" * len(found[0]), line)
    at = masked.find(" because ")
    verb = _VERB.search(masked, 0, at) if at >= 0 else None
    if verb is None or not masked[at + len(" because ") :].strip():
        return None
    return verb[1], [_small(found[0][1:-1]) for found in _QUOTED.finditer(line[:at])]


def _small(text: str) -> str:
    """Return a text as words in small letters."""
    return " ".join(words_of(text)).lower()
