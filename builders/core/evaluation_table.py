"""Tables that commands print and a page shows: any, and the result of an evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Table:
    """A table; cells are text, never markup.

    Attributes:
        title: its heading.
        header: names of the columns.
        rows: cells, formatted for people.
        lines: sentences below it.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    lines: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class EvaluationTable(Table):
    """The result of an evaluation: its table, and what belongs to it.

    Attributes:
        beside: further tables, printed between the first and its lines.
        pictures: titles and SVG documents, for a page.
        public: the same results as a JSON value, for `--json`.
        files: names of the files that were written.
    """

    beside: Sequence[Table] = ()
    pictures: Sequence[tuple[str, bytes]] = ()
    public: dict[str, Any]
    files: Sequence[str]
