"""Pictures of a dataset or a model for a report or a paper, as PNG and as SVG."""

from dataclasses import dataclass

from builders.cards.figures.drawing import fixed_style, png, svg
from builders.cards.figures.kinds import figures_of
from builders.store.revision import Revision


@dataclass(frozen=True)
class Picture:
    """One picture in both formats; equal data give equal bytes on one machine.

    Attributes:
        name: of letters and underscores, fit for a file.
        title: what it shows, in words.
        svg: a whole SVG document, texts as outlines; it names no other file.
        png: the same at 150 dots per inch.
    """

    name: str
    title: str
    svg: bytes
    png: bytes


def pictures_of(revision: Revision) -> list[Picture]:
    """Draw all pictures that a dataset's columns or a model's training log allow, see `builders.cards.figures.kinds`.

    Args:
        revision: of a dataset or a model, this project's or anybody's.

    Returns:
        The pictures, the most telling ones first; none for a dataset without such columns, or without rows, and for a
        model without a log.

    Raises:
        UserError: a file is not readable.
    """
    with fixed_style():
        return [Picture(name, title, svg(figure), png(figure)) for name, title, figure in figures_of(revision)]
