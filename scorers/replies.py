"""JSON in a model's reply: bare, in a code fence, with words before and after it; parsed and never evaluated.

    Here is my judgement:
    ```json
    {"score": 7, "reason": "Two of three sections are there."}
    ```

A value counts as it is written. One that is cut, or that says the same key twice, is no value: a reader that guessed
would take one judgement for another.
"""

import json
import re
from typing import Any

TRIES = 200
"""Brackets at which no value begins, before the rest of a reply is given up: each may cost a look at all of it."""

_OPENING = re.compile(r"[{\[]")


def json_values(reply: str) -> list[Any]:
    """Return the JSON objects and arrays of a reply in their order, those inside another one left out; never raises.

    A value with half a character is left out. An object with the same key twice is left out too, or null where it
    stands inside another value. Line breaks inside
    strings are allowed, which JSON itself forbids and models write.

    >>> json_values('Sure: {"score": 7} [1, 2] {"score": 7, "score": 8} {"cut": ')
    [{'score': 7}, [1, 2]]
    """
    values: list[Any] = []
    position = failed = 0
    while failed < TRIES and (found := _OPENING.search(reply, position)):
        try:
            value, position = _DECODER.raw_decode(reply, found.start())
        except (ValueError, RecursionError):
            failed, position = failed + 1, found.end()
        else:
            values += [value] if value is not None and _is_text(value) else []
    return values


def json_objects(reply: str) -> list[dict[str, Any]]:
    """Return the JSON objects of a reply in their order, those of an array among them; see `json_values`.

    >>> json_objects('[{"score": 7}, 3] {"score": 8}')
    [{'score': 7}, {'score': 8}]
    """
    values = [value if isinstance(value, list) else [value] for value in json_values(reply)]
    return [found for value in values for found in value if isinstance(found, dict)]


def _is_text(value: Any) -> bool:
    """Whether all texts of a value can be written: an escape such as \\ud83d alone is half a character."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        return False
    return True


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | None:
    """Return an object, or None for one that has a key twice."""
    found = dict(pairs)
    return found if len(found) == len(pairs) else None


def _no_number(name: str) -> Any:
    """Refuse NaN and Infinity, which Python's decoder reads and JSON does not know."""
    raise ValueError(name)


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_number, strict=False)
