"""What a writing assistant answers: a suggestion, and the reasons for its edits (RationAlign, §3).

    <suggestion>He goes to the school.</suggestion>
    <reasons>The word "go" should be replaced by "goes" because the subject is singular.</reasons>

The reasons may stand first. An assistant that gives none answers with the suggestion alone, without tags.
"""

from typing import Literal, NamedTuple

SUGGESTION = ("<suggestion>", "</suggestion>")
REASONS = ("<reasons>", "</reasons>")
Order = Literal["suggestion-first", "rationale-first", "none"]


class Answer(NamedTuple):
    """A suggestion, never blank, and the reasons for its edits; None where the answer has none that are whole."""

    suggestion: str
    rationale: str | None


def write_answer(suggestion: str, rationale: str, order: Order) -> str:
    """Return an answer in the form that `read_answer` takes apart.

    Args:
        suggestion: the new text.
        rationale: the reasons, a line each.
        order: which comes first; none: the suggestion alone.
    """
    if order == "none":
        return suggestion
    parts = [f"{SUGGESTION[0]}{suggestion}{SUGGESTION[1]}", f"{REASONS[0]}{rationale}{REASONS[1]}"]
    return "\n".join(parts if order == "suggestion-first" else parts[::-1])


def has_tag(text: str) -> bool:
    """Tell whether a text holds a tag of the form, so that it cannot be a suggestion."""
    return any(tag in text for tag in (*SUGGESTION, *REASONS))


def read_answer(text: str) -> Answer | None:
    """Take an answer apart; never raises.

    Returns:
        None for a blank answer, and for one with tags whose suggestion is missing, blank, cut or there twice.

    >>> read_answer("<suggestion>He goes.</suggestion><reasons>It is")
    Answer(suggestion='He goes.', rationale=None)
    >>> read_answer(" He goes. ")
    Answer(suggestion='He goes.', rationale=None)
    >>> read_answer("<suggestion>He goes.") is None
    True
    """
    if not has_tag(text):
        return Answer(text.strip(), None) if text.strip() else None
    suggestion = _between(text, SUGGESTION)
    return None if suggestion is None else Answer(suggestion, _between(text, REASONS))


def _between(text: str, tags: tuple[str, str]) -> str | None:
    """Return what stands between two tags, each of which occurs once; None where it is blank."""
    if any(text.count(tag) != 1 for tag in tags):
        return None
    start, end = text.find(tags[0]) + len(tags[0]), text.find(tags[1])
    found = text[start:end].strip() if start <= end else ""
    return found if found and not has_tag(found) else None
