"""Reading generated queries out of a model's reply (§3.2), which is parsed and never evaluated."""

import ast
import json

MAX_REPLY_CHARS = 200_000  # a longer reply is cut before it is read
MAX_STARTS = 16  # opening brackets tried per reply; bounds the work on hostile text


def parse_queries(reply: str) -> list[str] | None:
    """Return the list of strings in a reply: bare, inside `queries.extend([...])`, or in a code fence.

    The first list that is a Python literal or JSON, not empty, and holds strings alone is taken; None where there is no
    such list.

    >>> parse_queries('Sure: queries.extend(["Write a report", \\'Write a plan\\'])')
    ['Write a report', 'Write a plan']
    """
    reply = reply[:MAX_REPLY_CHARS]
    start = -1
    for _ in range(MAX_STARTS):
        # Prose may hold brackets too, so each opening bracket is tried in turn.
        start = reply.find("[", start + 1)
        if start < 0:
            return None
        end = _list_end(reply, start)
        if end is not None and (queries := _read_list(reply[start:end])) is not None:
            return queries
    return None


def _list_end(text: str, start: int) -> int | None:
    """Return the index after the bracket that closes the one at `start`; None where it is never closed.

    Brackets inside string literals are passed over.
    """
    depth = 0
    quote = ""
    position = start
    while position < len(text):
        char = text[position]
        if quote:
            if char == "\\":  # an escape: the next character is part of the literal
                position += 1
            elif char == quote:
                quote = ""
        elif char in "\"'":
            quote = char
        elif char == "[":
            depth += 1
        elif char == "]":
            depth -= 1
            if depth == 0:
                return position + 1
        position += 1
    return None


def _read_list(text: str) -> list[str] | None:
    """Return a Python or JSON list of strings; None for any other text."""
    value = _literal(text)
    if value is None:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return None
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        return None
    return [_whole_characters(item) for item in value]


def _whole_characters(text: str) -> str:
    """Return text that UTF-8 can hold.

    A pair of surrogate escapes becomes the character that it spells, a single surrogate the replacement character.
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _literal(text: str) -> object:
    """Return the value of a Python literal; None for any other text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None
