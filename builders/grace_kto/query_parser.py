"""Reading generated queries out of a model's reply (§3.2), without ever evaluating it."""

import ast
import json

MAX_REPLY_CHARS = 200_000
MAX_STARTS = 16  # opening brackets tried in one reply; bounds the work on hostile text


def parse_queries(reply: str) -> list[str] | None:
    """The list of strings in a reply: bare, inside `queries.extend([...])`, or in a code fence.

    Python literals first, JSON as a fallback. None where the reply holds no list of strings.

    >>> parse_queries('Sure: queries.extend(["Write a report", \\'Write a plan\\'])')
    ['Write a report', 'Write a plan']
    """
    reply = reply[:MAX_REPLY_CHARS]
    start = -1
    for _ in range(MAX_STARTS):
        start = reply.find("[", start + 1)
        if start < 0:
            return None
        end = _list_end(reply, start)
        if end is not None and (queries := _read_list(reply[start:end])) is not None:
            return queries
    return None


def _list_end(text: str, start: int) -> int | None:
    """Index after the bracket that closes the one at `start`, quotes respected; None where it is never closed."""
    depth = 0
    quote = ""
    position = start
    while position < len(text):
        char = text[position]
        if quote:
            if char == "\\":
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
    """Text that UTF-8 can hold: surrogate escapes joined to the character they spell, a single one replaced."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _literal(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None
