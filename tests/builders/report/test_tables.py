"""Tables: never wider than the terminal, names cut in the middle, numbers and revisions whole."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from builders.core.evaluation_table import Table
from builders.core.run import StagePlan
from builders.core.runner import StageResult
from builders.inspect.status import Status
from builders.report import console
from builders.report.tables import fitted, print_table, print_wide_table, shortened
from builders.store.check import Finding
from builders.store.revision import Revision
from scorers.errors import plain

REVISION = "8ab01bac7e4300112233445566778899aabbccdd"
REPO = "a-rather-long-namespace/qwen2.5-0.5b-instruct-harbours-and-piers-weights"
MADE = Revision(REPO, REVISION, Path("snapshot"), None)
WIDE = [
    "policy",
    "L",
    "E",
    "P",
    "R_s",
    "R_d",
    "avg. rank",
    "matched",
    "cut",
    "ppl_D",
    "duplicate_sentences",
    "on_topic",
]


@pytest.fixture(params=[80, 40])
def columns(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Two widths of a terminal."""
    width: int = request.param
    monkeypatch.setenv("COLUMNS", str(width))
    return width


def lines(capsys: pytest.CaptureFixture[str], width: int) -> list[str]:
    """What was printed, every line of it within the width."""
    found = capsys.readouterr().out.splitlines()
    assert found and max(map(cell_len, found)) <= width, found
    return found


def test_a_build(columns: int, capsys: pytest.CaptureFixture[str]) -> None:
    results = [
        StageResult("world:exercises", 0, MADE, False, "of an earlier round", 0.0),
        StageResult("calibrate", 1, MADE, True, "configuration changed: sample.top_p, sample.max_new_tokens", 12.3),
    ]
    console.print_build(results, None)
    found = lines(capsys, columns)
    if columns == 80:
        assert "seconds  why" in found[0] and "@8ab01bac7e43" in found[1] and "12.3" in "".join(found)


def test_a_plan_a_status_and_findings(columns: int, capsys: pytest.CaptureFixture[str]) -> None:
    console.print_plan([StagePlan("world:exercises", 40, REPO, "build", "world:general is built first")])
    console.print_status(
        [
            Status(40, "world:exercises", "dataset", "built", 8_000_000, f"{REPO}@{REVISION}", "d" * 64),
            Status(40, "policy", "model", "missing", None, None, None),
        ]
    )
    console.print_findings(MADE, [Finding("data/train-00000-of-00001.parquet", "sha256", "a" * 64, "b" * 64)])
    found = lines(capsys, columns)
    if columns == 80:
        assert any("8ab01bac7e43" in line and "8000000" in line for line in found)


def test_an_evaluation_of_many_metrics(columns: int, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [["first", *["-0.649 (5)"] * 11], ["/a/folder/with/a/long/name/of/a/policy", *["1.657 (5)"] * 11]]
    console.print_evaluation([Table("128 held-out queries", WIDE, rows)], ["From first to last, better: nothing. " * 5])
    found = lines(capsys, columns)
    # Every metric stands once, in tables below one another that each begin with the policy.
    text = "\n".join(found)
    assert all(text.count(f" {name}") == 1 for name in WIDE[6:])
    assert text.count("-0.649 (5)") == 11 and len([line for line in found if line.startswith("policy")]) > 1


def test_a_comparison(columns: int, capsys: pytest.CaptureFixture[str]) -> None:
    side = {"repo": REPO, "revision": REVISION, "rows": 8_000_000, "queries": 1_000_000, "labels": None}
    side |= dict.fromkeys(("effective_sample_size", "length_and_weight", "length_and_reward"))
    summary = {"mean": -1234.5678, "std": 1.25e-9, "q10": 0.1, "q50": 1 / 3, "q90": 2 / 3, "null": 123_456}
    pair = {"a": summary, "b": summary, "standardised_difference": 0.5}
    metrics = {"relevance_document": pair, "multivector_summary": pair}
    result = {"a": side, "b": side, "queries_in_common": 3, "metrics": metrics, "warnings": ["word " * 40]}
    console.print_diff(result | {"only": {"a": [], "b": ["rubric"]}})
    found = lines(capsys, columns)
    assert "only in b: rubric" in found and not any("only in a" in line for line in found)
    assert "".join(found).count("-1235") == 4  # twice in each of two rows


@pytest.mark.parametrize(
    ("text", "room", "shown"),
    [
        (f"local/tiny-weights@{REVISION}", 80, f"local/tiny-weights@{REVISION}"),
        (f"local/tiny-weights@{REVISION}", 40, "local/tiny-weights@8ab01bac7e43"),
        (f"local/tiny-weights@{REVISION}", 28, "local/tin…ights@8ab01bac7e43"),
        ("a/long/folder/policy", 12, "a/lo…/policy"),
        ("写作策略的名称很长很长", 11, "写作…长很长"),
    ],
)
def test_names_are_cut_in_the_middle(text: str, room: int, shown: str) -> None:
    assert shortened(text, room) == shown and cell_len(shown) <= max(room, cell_len(text) if room == 80 else 0)


@given(st.lists(st.tuples(st.integers(1, 200), st.integers(0, 2)), min_size=1, max_size=8))
def test_columns_fit_together(columns: list[tuple[int, int]]) -> None:
    sizes, kinds = (list(values) for values in zip(*columns, strict=True))
    found = fitted(sizes, kinds)
    assert sum(found) + 2 * (len(found) - 1) <= 80
    assert all(1 <= size <= wanted for size, wanted in zip(found, sizes, strict=True))
    if sum(sizes) + 2 * (len(sizes) - 1) <= 80:
        assert found == sizes


def test_cells_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("[red]t", ("[b]", "rows"), [("[bold]x[/bold]", 3), (plain("\x1b[31m"), "")])
    assert capsys.readouterr().out.splitlines() == [
        "[red]t",
        "[b]             rows",
        "[bold]x[/bold]     3",
        "\\x1b[31m",
    ]
    print_wide_table("", ["a", "b"], [["1", "2"]])
    assert capsys.readouterr().out.splitlines() == ["a  b", "1  2"]
