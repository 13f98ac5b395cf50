"""Tables as text for files: Markdown, CSV and LaTeX; cells are text, never markup."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from builders.store.files import write_text
from scorers.errors import UserError


def write_tables(
    folder: Path,
    name: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    record: object,
    lines: Sequence[str] = (),
) -> tuple[str, ...]:
    """Write a comparison as JSON, Markdown, CSV and LaTeX.

    It is written last, so that a failure leaves an earlier comparison in the folder as it was.

    Args:
        folder: made where it is missing.
        name: the files' name without ending.
        header: names of the columns.
        rows: cells, formatted for people.
        record: everything behind the table, as a JSON value.
        lines: sentences below the table, for Markdown.

    Returns:
        The names of the files.

    Raises:
        UserError: the folder cannot be made.
    """
    texts = {
        "json": json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "md": "\n".join([markdown(header, rows), *lines]).rstrip() + "\n",
        "csv": comma_separated(header, rows),
        "tex": latex(header, rows),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {folder}: cannot be made: {error.strerror}; name another folder") from None
    for ending, text in texts.items():
        write_text(folder / f"{name}.{ending}", text)
    return tuple(f"{name}.{ending}" for ending in texts)


def comma_separated(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return the table as CSV (RFC 4180, but with line feeds)."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return the table as Markdown; a bar in a name is escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def latex(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return the table as LaTeX, with every character that LaTeX reads as a command escaped."""
    body = [" & ".join(map(_tex, line)) + r" \\" for line in (header, *rows)]
    body.insert(1, r"\midrule")
    columns = "l" + "r" * (len(header) - 1)
    return "\n".join([rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *body, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _tex(text: str) -> str:
    """Escape a cell for LaTeX."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--"}
    return "".join(special.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)
