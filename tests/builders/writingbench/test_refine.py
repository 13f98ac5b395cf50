"""Refinement: what is drawn for a request, how replies are read, and what repeats an earlier request or a benchmark."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from builders.core.prompting import ask_for
from builders.core.replies import CUT, Question, Unread
from builders.engines import Completion
from builders.writingbench.refine import (
    BENCHMARK,
    NEAR,
    SAME,
    drawn,
    read_material,
    read_materials,
    read_refined,
    repeated,
)
from builders.writingbench.settings import PROMPTS, REQUIREMENTS, RefineSettings

REQUEST = "Please write a letter to my landlord about the broken boiler, which has been out of order for nine days now."


def question(kind: str = "materials") -> Question[Any]:
    values: dict[str, Any] = {"request": REQUEST} | ({"materials": ["notes"]} if kind == "material" else {})
    return Question("r-0", ask_for(PROMPTS, kind, "en", REQUEST, **values))


def test_one_to_the_most_are_drawn_and_never_length_with_brevity() -> None:
    found = [drawn(draw, 3) for draw in range(6_000)]
    assert all(names == [name for name in REQUIREMENTS if name in names] for names in found)
    assert not any({"length", "brevity"} <= set(names) for names in found)
    sizes = Counter(map(len, found))
    # Two or three are drawn as often as one; where length and brevity fall together one of them goes.
    assert set(sizes) == {1, 2, 3} and sizes[3] < sizes[2] and abs(sum(sizes.values()) / 3 - sizes[1]) < 500
    counts = Counter(name for names in found for name in names)
    assert min(counts[name] for name in REQUIREMENTS) > 1_200
    assert {len(drawn(draw, 1)) for draw in range(100)} == {1}


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ('{"query": " Write it in verse. "}', "Write it in verse."),
        ('Sure:\n```json\n{"query": "Write it in verse."}\n```', "Write it in verse."),
        ('{"query": ""}', None),
        ('{"query": ["Write it."]}', None),
        ('{"request": "Write it."}', None),
        ('{"query": "One."} or {"query": "Two."}', None),
        ("Write it in verse.", None),
    ],
)
def test_a_refined_request_is_read(reply: str, found: str | None) -> None:
    read = read_refined(question(), reply)
    assert isinstance(read, Unread) if found is None else read == found


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ("[]", []),
        ("None is needed: []", []),
        ('["The lease.", "Photos of the boiler."]', ["The lease.", "Photos of the boiler."]),
        (json.dumps([f"Piece {k}." for k in range(9)]), [f"Piece {k}." for k in range(5)]),
        ("The lease and some photos.", None),
        ('["the first piece", "the second piece"]', None),
    ],
)
def test_a_list_of_material_is_read(reply: str, found: list[str] | None) -> None:
    read = read_materials(question(), reply)
    assert isinstance(read, Unread) if found is None else read == found


def test_material_is_taken_as_it_is_unless_it_is_cut() -> None:
    asked = question("material")
    asked.reply = Completion(" Notes: 1. … ", "stop", 5)
    assert read_material(asked, " Notes: 1. … ") == "Notes: 1. …"
    assert isinstance(read_material(asked, "  "), Unread)
    asked.reply = Completion("Notes: 1", "length", 5)
    assert read_material(asked, "Notes: 1") == CUT


def found_in(tmp_path: Path, texts: list[str], **settings: Any) -> dict[str, str]:
    """What repeats among refined requests, by their number."""
    part = tmp_path / "part.parquet"
    pl.DataFrame({"request_id": [str(k) for k in range(len(texts))], "refined": texts}).write_parquet(part)
    refine = RefineSettings(**settings)
    context: Any = type("Context", (), {"config": type("Config", (), {"refine": refine})})
    return repeated(context, [part])


def test_repetitions_are_found(tmp_path: Path) -> None:
    near = REQUEST.replace(" now.", "!")
    other = "Draft a toast for my sister's wedding in May, with a story from our childhood by the sea."
    assert found_in(tmp_path, [REQUEST, other, near, REQUEST]) == {"2": NEAR, "3": SAME}
    assert found_in(tmp_path, [REQUEST, other, near, REQUEST], near_duplicate_threshold=None) == {"3": SAME}


def test_what_repeats_a_benchmark_is_found_with_its_material_or_without(tmp_path: Path) -> None:
    file = tmp_path / "benchmark.jsonl"
    query = f"{REQUEST}\n\n{'The lease says that the landlord heats the flat. ' * 40}"
    file.write_text(json.dumps({"index": 1, "query": query}) + "\n")
    near = REQUEST.replace(" now.", "!")
    other = "Draft a toast for my sister's wedding in May, with a story from our childhood by the sea."
    found = found_in(tmp_path, [other, near, REQUEST], benchmarks=(str(file),))
    assert found == {"1": BENCHMARK, "2": BENCHMARK}
