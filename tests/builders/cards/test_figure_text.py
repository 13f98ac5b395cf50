"""Names in figures: no character is ever drawn as a box."""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest

from builders.cards.figure_text import OWN_FONT, drawable

NAMES = ["first", "策略一", "策略二 (r2)"]
NOWHERE = "\U0010fffd"  # a character for private use, in no font


def draw(labels: Sequence[str], families: Sequence[str]) -> bytes:
    """A figure with the labels on an axis; a missing glyph, of which matplotlib warns, is an error."""
    from matplotlib.figure import Figure

    image = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = Figure()
        axes = figure.add_subplot()
        axes.plot(range(len(labels)), range(len(labels)))
        axes.set_xticks(range(len(labels)), labels, fontfamily=list(families))
        figure.savefig(image, format="png")
    return image.getvalue()


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A font that has the Chinese characters of NAMES, as if it were the only one beside matplotlib's own."""
    from fontTools.fontBuilder import FontBuilder  # type: ignore[import-untyped]
    from fontTools.pens.ttGlyphPen import TTGlyphPen  # type: ignore[import-untyped]
    from matplotlib.font_manager import fontManager

    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 700), (700, 700), (700, 0)):
        pen.lineTo(corner)
    pen.closePath()
    square, glyphs = pen.glyph(), [".notdef", "g"]
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(glyphs)
    font.setupCharacterMap({ord(char): "g" for char in "策略一二"})
    font.setupGlyf(dict.fromkeys(glyphs, square))
    font.setupHorizontalMetrics(dict.fromkeys(glyphs, (800, 0)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": "Test Song", "styleName": "Regular"})
    font.setupOS2(usWeightClass=400)
    font.setupPost()
    font.save(tmp_path / "song.ttf")
    only_own(monkeypatch)
    fontManager.addfont(str(tmp_path / "song.ttf"))
    return "Test Song"


def only_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if matplotlib's own fonts were the only ones installed."""
    from matplotlib.font_manager import fontManager

    own = [entry for entry in fontManager.ttflist if entry.name.startswith("DejaVu")]
    monkeypatch.setattr(fontManager, "ttflist", own)


def test_names_in_latin_script_need_no_other_font() -> None:
    labels, families = drawable(["first", "Größe 2", "λ"])
    assert (labels, families) == (["first", "Größe 2", "λ"], [OWN_FONT])
    draw(labels, families)


def test_chinese_names_are_drawn_in_a_font_that_has_them(installed: str) -> None:
    assert drawable(NAMES) == (NAMES, [OWN_FONT, installed])
    draw(*drawable(NAMES))


def test_names_that_no_font_has_become_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserWarning, match=r"Glyph \d+ .* missing"):
        draw([NOWHERE], [OWN_FONT])
    assert drawable(["first", f"a{NOWHERE}"]) == (["first", "2"], [OWN_FONT])
    only_own(monkeypatch)
    labels, families = drawable(NAMES)
    assert (labels, families) == (["first", "2", "3"], [OWN_FONT])
    draw(labels, families)
