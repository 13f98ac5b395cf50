"""A small benchmark in the format of WritingBench's own files."""

import json
from pathlib import Path
from typing import Any

from scorers.criteria import BANDS

CHINESE = "请写一份关于长江防汛的报告，不少于三百字。"
ENGLISH = 'Please write a report titled "rural ferry", covering the following sections: 1. delta law 2. silt risks'
#: index, domain1, domain2, query, names of the first criteria
QUERIES = (
    (3, "Education", "Lesson Plan", ENGLISH, ("Length", "Form")),
    (5, "Education", "Coursework", CHINESE, ("Length", "Facts")),
    (8, "Politics & Law", "White Paper", f"{ENGLISH}; write about 4 sentences", ("Tone", "Length")),
)
OTHERS = ("on topic", "no repetition", "sections covered")


def query_row(index: int, domain: str, subdomain: str, query: str, names: tuple[str, ...]) -> dict[str, Any]:
    criteria = [
        {"name": name, "criteria_description": f"Looks at {name}.", **dict.fromkeys(BANDS, "so")}
        for name in (*names, *OTHERS)
    ]
    return {"index": index, "domain1": domain, "domain2": subdomain, "query": query, "checklist": criteria}


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_benchmark(folder: Path) -> tuple[Path, Path]:
    """Write the benchmark; its file and the folder of its requirements.

    Length: queries 3 and 8 by their criterion Length. Style: query 8 by Tone. Format: query 3 by Form.
    """
    rows = [query_row(*query) for query in QUERIES]
    asked = {"length": {3: ["Length"], 8: ["Length"]}, "style": {8: ["Tone"]}, "format": {3: ["Form", "Length"]}}
    for name, wanted in asked.items():
        subset = [row for row in rows if row["index"] in wanted]
        cut = [
            row | {"checklist": [c for c in row["checklist"] if c["name"] in wanted[row["index"]]]} for row in subset
        ]
        write_lines(folder / "requirement" / name / f"{name}_subset.jsonl", subset)
        write_lines(folder / "requirement" / name / f"{name}_subset_C.jsonl", cut)
    return write_lines(folder / "benchmark_all.jsonl", rows), folder / "requirement"


def scores_row(index: int, **scores: Any) -> dict[str, Any]:
    """A line of scores, a list of scores by criterion."""
    said = {name: [{"score": score, "reason": "so"} for score in found] for name, found in scores.items()}
    return {"index": index, "scores": said}
