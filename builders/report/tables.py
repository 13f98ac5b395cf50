"""Tables and sentences on stdout that are never wider than the terminal.

Cells are text, never markup, and control characters in foreign text become visible escapes.
"""

import textwrap
from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from builders.cards.figure_text import shortened as shortened

GAP = 2  # columns between the columns of a table
SENTENCE = 24  # columns that a text keeps while names beside it are shortened
WORD = 10  # columns that a text keeps in a narrow terminal
SHORTEST = 24  # columns to which a name may be shortened: some of the name, and 12 digits of its revision


def width() -> int:
    """Return the columns that output may fill: the terminal's, or `COLUMNS`; 80 where neither says."""
    return Console().width


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], *, names: Sequence[str] = ()
) -> None:
    """Print a table on stdout, as wide as the terminal at most; columns of numbers are right-aligned.

    Args:
        title: heading; "" for none.
        columns: headings of the columns.
        rows: cells of each row.
        names: columns whose texts are names, which are shortened in the middle where the table is too wide; other texts
            are broken into lines.
    """
    numeric = [any(map(_is_number, cells)) and all(map(_fits_numbers, cells)) for cells in _by_column(columns, rows)]
    cells = [[str(cell) for cell in row] for row in rows]
    sizes = fitted(_widths(columns, cells), [_kind(*pair, names) for pair in zip(columns, numeric, strict=True)])
    table = Table(title=escape(title), title_justify="left", box=None, header_style="bold", pad_edge=False)
    for column, right, size in zip(columns, numeric, sizes, strict=True):
        table.add_column(escape(column), justify="right" if right else "left", overflow="fold", width=size)
    for row in cells:
        short = (
            shortened(cell, max(size, SHORTEST)) if name in names else cell
            for name, cell, size in zip(columns, row, sizes, strict=True)
        )
        table.add_row(*map(Text, short))
    _print_lines(table)


def _kind(column: str, numeric: bool, names: Sequence[str]) -> int:
    """Return the place of a column in the order in which columns give up width: texts, names, numbers."""
    return 1 if column in names else 2 if numeric else 0


def fitted(sizes: Sequence[int], kinds: Sequence[int]) -> list[int]:
    """Return the widths of columns that fit the terminal together: the widest gives way first.

    Args:
        sizes: the widths that the cells need.
        kinds: 0 for texts, 1 for names, 2 for numbers. Texts give way down to `SENTENCE`, names to `SHORTEST`, texts
            to `WORD`, and in a terminal that is narrower still every column.
    """
    found = list(sizes)
    room = width() - GAP * (len(found) - 1)
    for kind, least in ((0, SENTENCE), (1, SHORTEST), (0, WORD), (None, 1)):
        while sum(found) > room:
            wide = [i for i, size in enumerate(found) if kind in (None, kinds[i]) and size > least]
            if not wide:
                break
            found[max(wide, key=found.__getitem__)] -= 1
    return found


def print_wide_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table of many columns, in several tables below one another where the terminal is narrower.

    Each of them begins with the first column, whose texts are names.
    """
    name_room = max(width() // 3, SHORTEST)
    rows = [[shortened(row[0], name_room), *row[1:]] for row in rows]
    sizes = _widths(columns, rows)
    part: list[int] = []
    parts = [part]
    for place in range(1, len(columns)):
        if part and sizes[0] + sum(GAP + sizes[i] for i in (*part, place)) > width():
            part = []
            parts.append(part)
        part.append(place)
    for number, part in enumerate(parts):
        if number:
            print()
        chosen = [0, *part]
        print_table("" if number else title, [columns[i] for i in chosen], [[row[i] for i in chosen] for row in rows])


def _by_column(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[list[object]]:
    """Return the cells of each column."""
    return [[row[place] for row in rows] for place in range(len(columns))]


def _is_number(cell: object) -> bool:
    return isinstance(cell, int | float)


def _fits_numbers(cell: object) -> bool:
    """Whether a cell may stand in a column of numbers: a number, or nothing."""
    return cell == "" or _is_number(cell)


def _widths(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    """Return the width that each column needs."""
    return [max(cell_len(row[i]) for row in (columns, *rows)) for i in range(len(columns))]


def _print_lines(table: Table) -> None:
    """Print a table without blanks at the ends of its lines."""
    console = Console()
    with console.capture() as capture:
        console.print(table)
    for line in capture.get().splitlines():
        print(line.rstrip())


def print_paragraph(text: str) -> None:
    """Print a sentence below an empty line, broken at words where it is longer than the terminal is wide."""
    print("", *textwrap.wrap(text, width(), break_long_words=False, break_on_hyphens=False), sep="\n")
