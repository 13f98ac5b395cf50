"""From rows to the records that the page shows: plain JSON values, one record a group.

    {"id": "8f1c…", "query": "Please write …", "base": null, "criteria": [],
     "parts": [{"source": 0, "fields": {"round": "1"}, "responses": [
        {"id": "8f1c…-3", "text": "<summary>…", "matched": true, "label": true, "values": [61, 97.4], "ranks": [2.5, 1],
         "fields": {}, "ratings": []}]}]}

A value that is missing, NaN or infinite is null.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from builders.report.page.layout import SIDES, Layout

Row = Mapping[str, Any]
EXACT = 2**53
"""Up to here a float holds every whole number."""


def part_of(layout: Layout, rows: Sequence[Row]) -> dict[str, Any]:
    """Return what one dataset says of a group.

    Args:
        layout: how the dataset is read.
        rows: the group's rows, at least one.

    Returns:
        `query`, `base` and `criteria` of the group, `fields` that all its responses share, and `responses`.
    """
    makers = {"responses": _response, "edits": _edit, "preferences": _preference, "ratings": _rated, "rows": _none}
    responses = [found for number, row in enumerate(rows) for found in makers[layout.kind](layout, row, number)]
    if layout.kind == "ratings":
        responses = _by_response(responses)
    if layout.kind == "preferences":
        responses = _without_repeated_samples(responses)
    shared = _fields(layout, rows[0]) if layout.kind == "rows" else _share(responses)
    return {
        "query": query_of(layout, rows[0]),
        "base": text_of(rows[0][layout.base]) if layout.base else None,
        "criteria": criteria_of(rows[0].get("criteria")),
        "fields": shared,
        "responses": responses,
    }


def text_of(value: object) -> str:
    """Return a text, chat messages or any other value as text; a single user or assistant message without its role."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if (
        isinstance(value, list)
        and value
        and all(item is None or (isinstance(item, dict) and "role" in item) for item in value)
    ):
        return messages_text(value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return "\n".join(value)
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else str(value)


def messages_text(messages: Sequence[Row | None]) -> str:
    """Return chat messages as one text, each below its role; one user or assistant message is its content alone.

    A message that is null says nothing.
    """
    there = [message for message in messages if message is not None]
    if len(there) == 1 and there[0]["role"] in ("user", "assistant"):
        return text_of(there[0].get("content"))
    return "\n\n".join(f"{m['role']}:\n{text_of(m.get('content'))}" for m in there)


def criteria_of(value: object) -> list[dict[str, str]]:
    """Return the criteria of a query: name, description and bands; empty where there are none."""
    if not isinstance(value, list):
        return []
    return [{key: text_of(text) for key, text in one.items()} for one in value if isinstance(one, dict)]


def number(value: object) -> float | int | str | None:
    """Return a number, of six significant digits where it has a fraction; None for what is none, NaN and infinity.

    A browser's numbers are floats: whole ones beyond 2^53 are texts.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    if isinstance(value, int):
        return value if abs(value) <= EXACT else str(value)
    return value if value.is_integer() or abs(value) >= 10**6 else float(f"{value:.6g}")


def query_of(layout: Layout, row: Row) -> str:
    """Return what the group of a row is about; of a pair without a prompt what both sides begin with."""
    if layout.query is not None:
        return text_of(row[layout.query])
    return common_start(*(row[name] for name in layout.texts))[0] if len(layout.texts) == 2 else ""


def common_start(first: object, second: object) -> tuple[str, str, str]:
    """Return the prompt that two conversations share, and what comes after it in each.

    Of texts the prompt ends with a line, so that two replies that begin alike keep their beginnings.

    >>> common_start("Human: Hi\\nBot: Hello", "Human: Hi\\nBot: Go")
    ('Human: Hi', 'Bot: Hello', 'Bot: Go')
    """
    if isinstance(first, list) and isinstance(second, list):
        same = 0
        while same < min(len(first), len(second)) - 1 and first[same] == second[same]:
            same += 1
        return messages_text(first[:same]) if same else "", messages_text(first[same:]), messages_text(second[same:])
    a, b = text_of(first), text_of(second)
    size = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    cut = a.rfind("\n", 0, size) + 1
    return a[:cut].strip(), a[cut:].lstrip("\n"), b[cut:].lstrip("\n")


def _response(layout: Layout, row: Row, place: int) -> list[dict[str, Any]]:
    """Return the response of a row."""
    text, whole = row[layout.texts[0]], layout.whole[0]
    reply = None if whole is None else row[whole]
    found = _record(layout, row, str(row.get("response_id") or place), text_of(reply if text is None else text), 0)
    if reply is not None and text is not None and reply != text:
        found["whole"] = text_of(reply)
    return [found]


def _edit(layout: Layout, row: Row, place: int) -> list[dict[str, Any]]:
    """Return the edited text of a row, and further references that differ from it."""
    target = text_of(row["target"])
    found = [_record(layout, row, "target", target, 0)]
    others = dict.fromkeys(text for text in row.get("references") or () if text != target)
    return found + [_bare(layout, f"reference {i}", text) for i, text in enumerate(others, 1)]


def _preference(layout: Layout, row: Row, place: int) -> list[dict[str, Any]]:
    """Return both sides of a pair, and other samples of a contest."""
    texts = [row[name] for name in layout.texts]
    shown = [text_of(text) for text in texts] if layout.query else list(common_start(*texts)[1:])
    sides = next((pair for pair in SIDES if layout.texts[0].endswith(pair[0])), SIDES[0])
    end = f" {place + 1}" if place else ""
    found = []
    for side, (name, text, whole) in enumerate(zip(sides, shown, layout.whole, strict=True)):
        one = _record(layout, row, f"{name}{end}", text, side) | {"label": side == 0}
        if whole is not None and text_of(row[whole]) != text:
            one["whole"] = text_of(row[whole])
        found.append(one)
    return found + _samples(layout, row, set(shown))


def _samples(layout: Layout, row: Row, shown: set[str]) -> list[dict[str, Any]]:
    """Return the samples of a contest that are neither winner nor loser, each text once, with their metric."""
    found = []
    for place, (text, metric) in enumerate(zip(row.get("samples") or (), row.get("metrics") or (), strict=False), 1):
        if text in shown:
            continue
        shown.add(text)
        one = _bare(layout, f"sample {place}", text_of(text))
        one["values"] = [number(metric) if name == "metric" else None for name in layout.metrics]
        found.append(one)
    return found


def _without_repeated_samples(responses: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out samples that another contest of the same pair shows already."""
    # Pairs come first, in their order; samples after them.
    ordered = sorted(responses, key=lambda one: "label" not in one)
    shown: set[str] = set()
    found = []
    for one in ordered:
        if "label" in one or one["text"] not in shown:
            found.append(one)
        shown.add(one["text"])
    return found


def _rated(layout: Layout, row: Row, place: int) -> list[dict[str, Any]]:
    """Return one rating as a response without a text, which `_by_response` joins with its others."""
    found = _record(layout, row, str(row["response_id"]), "", 0)
    score = number(row["score"])
    rating = {"criterion": text_of(row["criterion"]), "score": score, "reason": text_of(row.get("reason"))}
    if row.get("repeat"):
        rating["repeat"] = row["repeat"]
    return [found | {"ratings": [rating]}]


def _none(layout: Layout, row: Row, place: int) -> list[dict[str, Any]]:
    """Return nothing: a row without responses."""
    return []


def _by_response(ratings: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the ratings of each response together."""
    found: dict[str, dict[str, Any]] = {}
    for one in ratings:
        if one["id"] in found:
            found[one["id"]]["ratings"] += one["ratings"]
        else:
            found[one["id"]] = one
    return [found[key] for key in sorted(found, key=natural)]


def natural(name: str) -> tuple[str, int]:
    """Return a key that sorts `x-2` before `x-10`."""
    stem, _, last = name.rpartition("-")
    return (stem, int(last)) if last.isdecimal() else (name, -1)


def _record(layout: Layout, row: Row, id_: str, text: str, side: int) -> dict[str, Any]:
    """Return a response with its metrics, ranks, label and fields."""
    found = _bare(layout, id_, text)
    found["values"] = [number(row[layout.columns[name][side]]) for name in layout.metrics]
    if layout.ranks:
        found["ranks"] = [number(row[layout.ranks[m]]) if m in layout.ranks else None for m in layout.metrics]
    for name in layout.flags:
        if (value := row.get(name)) is not None:
            found[name] = bool(value)
    return found | {"fields": _fields(layout, row)}


def _bare(layout: Layout, id_: str, text: str) -> dict[str, Any]:
    """Return a response of which nothing but its text is known."""
    return {"id": id_, "text": text, "values": [None] * len(layout.metrics), "fields": {}, "ratings": []}


def _fields(layout: Layout, row: Row) -> dict[str, str]:
    """Return the fields of a row that have a value."""
    texts = {name: text_of(row[name]) for name in layout.fields if name != "criteria"}
    return {name: text for name, text in texts.items() if text}


def _share(responses: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Take the fields that all responses with fields have alike out of them, and return them."""
    own = [one["fields"] for one in responses if one["fields"]]
    if not own:
        return {}
    shared = {name: text for name, text in own[0].items() if all(fields.get(name) == text for fields in own)}
    for fields in own:
        for name in shared:
            del fields[name]
    return shared
