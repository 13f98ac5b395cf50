"""Names in figures and tables: texts that somebody chose, as long as they like and in any script.

In a figure a text is drawn in a font that has its characters, or not at all: matplotlib's own font has no Chinese and
draws a box for each character that it lacks.
"""

from collections.abc import Sequence

from rich.cells import cell_len

from builders.store.ref import is_commit

OWN_FONT = "DejaVu Sans"  # comes with matplotlib
BOXES = "Last Resort"  # begins the name of the font with a box for every character, which comes with matplotlib too


def drawable(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return names as a figure can show them.

    Args:
        names: texts of any script.

    Returns:
        The labels, and the font families to draw them in. Every dollar sign is escaped: two of them would make what is
        between them a formula. A second font is the first one installed that has all
        characters which matplotlib's own one lacks; where no font has them, a name that needs them becomes its number,
        from 1.
    """
    from matplotlib.font_manager import fontManager

    own = next(entry.fname for entry in fontManager.ttflist if entry.name == OWN_FONT and entry.style == "normal")
    known = _characters(own)
    missing = [{char for char in name if not char.isspace()} - known for name in names]
    lacking = set().union(*missing)
    labels = [name.replace("$", r"\$") for name in names]
    if not lacking:
        return labels, [OWN_FONT]
    for entry in sorted(fontManager.ttflist, key=lambda entry: (entry.name, entry.fname)):
        plain = entry.style == "normal" and entry.weight in (400, "normal") and not entry.name.startswith(BOXES)
        if plain and lacking <= _characters(entry.fname):
            return labels, [OWN_FONT, entry.name]
    return [str(i + 1) if missing[i] else label for i, label in enumerate(labels)], [OWN_FONT]


def shortened(text: str, room: int) -> str:
    """Return a name in at most `room` columns: the middle left out, the beginning of a 40-hex revision kept.

    >>> shortened("local/grace-kto-world-0-exercises@8ab01bac7e43", 30)
    'local/grac…rcises@8ab01bac7e43'
    """
    if cell_len(text) <= room:
        return text
    name, at, revision = text.rpartition("@")
    if at and is_commit(revision):
        return shortened(f"{name}@{revision[:12]}", room)
    tail = (room - 1) * 2 // 3
    end = text[len(text) - tail :]
    while cell_len(end) > tail:
        end = end[1:]
    begin = text[: room - 1 - tail]
    while cell_len(begin) > room - 1 - tail:
        begin = begin[:-1]
    return f"{begin}…{end}"


def _characters(font: str) -> set[str]:
    """Return the characters that a font file has glyphs for."""
    from matplotlib.ft2font import FT2Font

    return {chr(code) for code in FT2Font(font).get_charmap()}
