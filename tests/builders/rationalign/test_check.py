"""What `grace verify` says of RationAlign's datasets: nothing of whole ones, and the row of each fault."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from builders.core.prompting import answer
from builders.rationalign import check, columns
from builders.rationalign.messages import NOTHING
from builders.store.columns import Column, frame_of
from scorers.suggestion import write_answer

Check = Callable[[Any, dict[str, Path], bool], list[Any]]
Row = dict[str, Any]

PAIR: Row = {"pair_id": "p", "task": "gec", "source": "He go .", "target": "He goes .", "references": [], "fold": 1}
GO = 'The word "go" should be replaced by "goes" because he is one.'
NO = 'The word "no" should be deleted because it says nothing.'
EDIT: Row = {"start": 1, "end": 2, "source": ["go"], "target": ["goes"]}
DELETION: Row = {"start": 3, "end": 4, "source": ["no"], "target": []}
RATIONALE: Row = PAIR | {"edits": [EDIT], "rationale": GO, "teacher": "t@1"}
CONTEST: Row = {key: PAIR[key] for key in ("pair_id", "task", "source", "fold")} | {
    "contest_id": "p-0",
    "samples": ["He goes .", "He go .", "He goes ."],
    "metrics": [100.0, 0.0, 100.0],
    "winner": "He goes .",
    "loser": "He go .",
    "metric_winner": 100.0,
    "metric_loser": 0.0,
    "policy": "m@1",
    "chosen": "c",
    "rejected": "r",
}
TEXT: Row = {"text_id": "t", "task": "gec", "source": "He go ."}
CANDIDATE: Row = TEXT | {
    "response_id": "t-0",
    "response": write_answer("He goes .", GO, "suggestion-first"),
    "suggestion": "He goes .",
    "rationale": GO,
    "finish_reason": "stop",
    "num_tokens": 9,
    "sample_seed": 1,
    "policy": "m@1",
}
PREFERENCE: Row = TEXT | {
    "suggestion_chosen": "He goes .",
    "suggestion_rejected": "He go .",
    "reward_chosen": 1.0,
    "reward_rejected": -1.0,
    "policy": "m@1",
    "reward_model": "r@1",
    "prompt": [{"role": "user", "content": "Correct."}],
    "chosen": answer(CANDIDATE["response"]),
    "rejected": answer(write_answer("He go .", NOTHING, "rationale-first")),
}


def said(tmp_path: Path, check: Check, names: Sequence[Column], *rows: Row) -> list[tuple[str, str]]:
    path = tmp_path / "rows.parquet"
    frame_of(list(rows), names).write_parquet(path)
    return [(finding.where, finding.what) for finding in check(None, {"rows.parquet": path}, True)]


STAGES: dict[str, tuple[Check, Sequence[Column], Row]] = {
    "pairs": (check.check_pairs, columns.PAIRS_COLUMNS, PAIR),
    "explain": (check.check_rationales, columns.RATIONALES_COLUMNS, RATIONALE),
    "contest": (check.check_contests, columns.CONTESTS_COLUMNS, CONTEST),
    "sample": (check.check_candidates, columns.CANDIDATES_COLUMNS, CANDIDATE),
    "prefer": (check.check_preferences, columns.PREFERENCES_COLUMNS, PREFERENCE),
}
FAULTS: list[tuple[str, Row, tuple[str, str]]] = [
    ("pairs", {"pair_id": "q", "task": "fluency", "fold": 2}, ("p", "fold")),
    ("pairs", {}, ("p", "pair_id")),
    ("explain", {"edits": []}, ("p", "edits")),
    ("explain", {"edits": [EDIT | {"target": ["went"]}]}, ("p", "edits")),
    ("explain", {"edits": [EDIT | {"end": 3}]}, ("p", "edits")),
    ("explain", {"target": "He go ."}, ("p", "edits")),
    ("explain", {"rationale": NO}, ("p", "rationale")),
    ("explain", {"rationale": NOTHING}, ("p", "rationale")),
    ("contest", {"winner": "He go .", "loser": "He goes ."}, ("p", "winner")),
    ("contest", {"winner": "He went ."}, ("p", "winner")),
    ("contest", {"metric_winner": 99.0}, ("p", "winner")),
    ("contest", {"loser": "He goes .", "metric_loser": 100.0}, ("p", "winner")),
    ("contest", {"metrics": [0.0, 100.0, 0.0]}, ("p", "winner")),
    ("contest", {"metrics": [100.0, 0.0]}, ("p", "metrics")),
    ("sample", {"suggestion": "He go ."}, ("t-0", "suggestion")),
    ("sample", {"suggestion": None, "rationale": None}, ("t-0", "suggestion")),
    ("sample", {"rationale": None}, ("t-0", "suggestion")),
    ("sample", {"response": "<suggestion>He goes ."}, ("t-0", "suggestion")),
    ("prefer", {"reward_chosen": -2.0}, ("t", "reward_chosen")),
    ("prefer", {"reward_chosen": -1.0}, ("t", "reward_chosen")),
    ("prefer", {"suggestion_chosen": "He went ."}, ("t", "chosen")),
    ("prefer", {"rejected": answer("He went .")}, ("t", "rejected")),
    ("prefer", {"rejected": []}, ("t", "rejected")),
]


@pytest.mark.parametrize(("stage", "change", "fault"), FAULTS)
def test_faults_are_found(tmp_path: Path, stage: str, change: Row, fault: tuple[str, str]) -> None:
    check_rows, names, whole = STAGES[stage]
    assert said(tmp_path, check_rows, names, whole) == []
    assert said(tmp_path, check_rows, names, whole, whole | change) == [fault]


def test_what_is_no_fault(tmp_path: Path) -> None:
    """Other sources in other folds, a pair without an edit, responses without reasons or without a suggestion."""
    good: list[tuple[str, Row]] = [
        ("pairs", {"pair_id": "q", "source": "She go .", "fold": 2}),
        ("pairs", {"pair_id": "q", "task": "fluency"}),
        ("explain", {"target": "He go .", "edits": [], "rationale": NOTHING, "teacher": None}),
        (
            "explain",
            {
                "source": "He go far no .",
                "target": "He goes far .",
                "edits": [EDIT, DELETION],
                "rationale": f"{NO}\n{GO}",
            },
        ),
        ("sample", {"response": " He goes . ", "rationale": None}),
        ("sample", {"response": "<suggestion>", "suggestion": None, "rationale": None}),
        ("prefer", {"chosen": answer("He goes .")}),
    ]
    for stage, change in good:
        check_rows, names, whole = STAGES[stage]
        assert said(tmp_path, check_rows, names, whole, whole | change) == []


@pytest.mark.parametrize("stage", STAGES)
def test_many_faults_are_counted_and_incomplete_rows_not_looked_at(tmp_path: Path, stage: str) -> None:
    check_rows, names, whole = STAGES[stage]
    change = next(change for name, change, _ in FAULTS[1:] if name == stage)
    key = str(names[0].name) if stage != "sample" else "response_id"
    rows = [whole | change | {key: f"{k}"} for k in range(9) for _ in (1, 2)]
    path = tmp_path / "rows.parquet"
    frame_of(rows, names).write_parquet(path)
    found = check_rows(None, {"a": path, "b": path}, True)
    assert len(found) == 6 and found[-1].found.endswith("rows differ, 5 shown")
    for files, sound in (({}, True), ({"a": path}, False)):
        [only] = check_rows(None, files, sound)
        assert only.found == "not looked at: the rows are incomplete or do not fit"


def test_faults_across_files_are_found(tmp_path: Path) -> None:
    files = {}
    for name, fold in (("a", 1), ("b", 2)):
        files[name] = tmp_path / f"{name}.parquet"
        pl.DataFrame([PAIR | {"pair_id": name, "fold": fold}]).write_parquet(files[name])
    [found] = check.check_pairs(None, files, True)  # type: ignore[arg-type]
    assert (found.where, found.what, found.stored) == ("a", "fold", "2 folds")
