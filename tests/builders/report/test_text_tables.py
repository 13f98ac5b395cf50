"""A table in each format: what is text stays text, and what reads it back finds the cells."""

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.report.text_tables import comma_separated, latex, markdown, write_tables
from scorers.errors import UserError

HEADER = ["method", "R_s", "P & L"]
ROWS = [["a|b", "1.5 (1)", "50 %"], ["c\\d~^", "–", "#2 {x}$"]]


def test_markdown_by_hand() -> None:
    assert markdown(HEADER, ROWS).splitlines() == [
        "| method | R_s | P & L |",
        "| --- | --- | --- |",
        "| a\\|b | 1.5 (1) | 50 % |",
        "| c\\d~^ | – | #2 {x}$ |",
    ]


def test_latex_by_hand() -> None:
    assert latex(HEADER, ROWS).splitlines() == [
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"method & R\_s & P \& L \\",
        r"\midrule",
        r"a|b & 1.5 (1) & 50 \% \\",
        r"c\textbackslash{}d\textasciitilde{}\textasciicircum{} & -- & \#2 \{x\}\$ \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


CELLS = st.text(st.characters(exclude_characters="\r", exclude_categories=["Cs"]))


@given(st.lists(st.lists(CELLS, min_size=2, max_size=2)))
def test_csv_holds_the_cells(rows: list[list[str]]) -> None:
    text = io.StringIO(comma_separated(["a", "b"], rows), newline="")
    assert list(csv.reader(text)) == [["a", "b"], *rows]


def test_the_files_of_a_comparison(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "out"
    names = write_tables(folder, "found", HEADER, ROWS, record={"é": [1.5, None]}, lines=["Better."])
    assert names == ("found.json", "found.md", "found.csv", "found.tex")
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    assert json.loads((folder / "found.json").read_text(encoding="utf-8")) == {"é": [1.5, None]}
    assert (folder / "found.md").read_text(encoding="utf-8") == markdown(HEADER, ROWS) + "\nBetter.\n"
    with (folder / "found.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [HEADER, *ROWS]
    assert (folder / "found.tex").read_text(encoding="utf-8") == latex(HEADER, ROWS)
    with pytest.raises(TypeError):
        write_tables(folder, "found", HEADER, [["z"]], record=object())
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_tables(folder, "found", HEADER, [["z"]], record=float("nan"))
    with pytest.raises(UserError, match=r"^--output /proc/x: cannot be made: .*; name another folder$"):
        write_tables(Path("/proc/x"), "found", HEADER, ROWS, record=None)
    assert "z" not in (folder / "found.md").read_text(encoding="utf-8")
