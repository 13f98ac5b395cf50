"""What all figures share: one style, colours that are never alone, and files with the same bytes for the same data.

A series is told by its place in `STYLES`: colour (Okabe and Ito, 2008: safe for the colour-blind), marker, line style
and hatch together, with greys that differ in black and white. No figure depends on the user's matplotlibrc.

This module imports matplotlib inside functions.
"""

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from builders.store.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 7.0  # inches: the text's width in a paper of two columns, and what a card shows without scaling
LINE = 110  # characters of a caption's line
DPI = 150
INK = "#222222"  # text, axes, zero lines
RULES = "#8c8c8c"  # borders between rounds, medians
RC = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "figure.titlesize": 10,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.formatter.limits": (-4, 5),
    "axes.formatter.use_mathtext": True,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "savefig.dpi": DPI,
    "figure.dpi": DPI,
    # Ids in an SVG are random without it.
    "svg.hashsalt": "grace-data",
}


@dataclass(frozen=True)
class Style:
    """How one series looks.

    Attributes:
        colour: of its line, its markers and its edge.
        fill: of its area, a light or dark tone of the colour.
        marker: matplotlib's name.
        line: matplotlib's line style.
        hatch: of its area.
    """

    colour: str
    fill: str
    marker: str
    line: Any
    hatch: str


STYLES = (
    Style("#0072b2", "#0072b2", "o", "-", ""),
    Style("#d55e00", "#f6c9a8", "s", "--", "////"),
    Style("#5a5a5a", "#ececec", "^", ":", "xxxx"),
    Style("#009e73", "#9fdcc8", "D", "-.", "\\\\\\\\"),
    Style("#cc79a7", "#efd3e3", "v", (0, (5, 1, 1, 1, 1, 1)), "||||"),
    Style("#000000", "#ffffff", "P", (0, (1, 1)), "----"),
    Style("#56b4e9", "#d3ebf9", "X", (0, (8, 2)), "++++"),
    Style("#e69f00", "#fbe6bd", "*", (0, (3, 1, 1, 1)), "//"),
)
"""No hatch of dots: in an SVG each dot would be a path."""


def style(place: int) -> Style:
    """Return the style of the series at a place, from 0; from the ninth on they repeat."""
    return STYLES[place % len(STYLES)]


@contextmanager
def fixed_style() -> Iterator[None]:
    """Draw and write figures in the one style; a user's matplotlibrc has no say inside."""
    import matplotlib

    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **RC}):
        yield


def new_figure(height: float, width: float = WIDTH, *, fitted: bool = True) -> "Figure":
    """Return an empty figure, without pyplot: no display is needed, and no global figure is left.

    Args:
        height: inches.
        width: inches.
        fitted: whether matplotlib makes room for labels of any size.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained" if fitted else None)
    FigureCanvasAgg(figure)
    return figure


def panels(count: int, columns: int, height: float, *, below: float, left: float = 0.55) -> "tuple[Figure, list[Any]]":
    """Return a figure of small panels in rows, with their axes, at fixed places: fitting many takes a second or two.

    Args:
        count: how many panels, at least one.
        columns: panels in a row at most.
        height: of a panel in inches, without title and labels.
        below: inches below a panel for its labels.
        left: inches left of the first panel for its labels.
    """
    columns = min(count, columns)
    rows = -(-count // columns)
    above, between, right, caption = 0.25, 0.5, 0.12, 0.32  # inches
    whole = rows * (height + above + below) + caption
    figure = new_figure(whole, fitted=False)
    wide = (WIDTH - left - right - between * (columns - 1)) / columns
    places = {"left": left / WIDTH, "right": 1 - right / WIDTH, "wspace": between / wide}
    places |= {"bottom": (below + caption) / whole, "top": 1 - above / whole, "hspace": (above + below) / height}
    grid = figure.subplots(rows, columns, squeeze=False, gridspec_kw=places)
    for axes in grid.flat[count:]:
        axes.set_axis_off()
    return figure, list(grid.flat[:count])


def caption(figure: "Figure", text: str) -> None:
    """Write what a figure shows below all of it, in lines as long as a figure of `WIDTH` has room for."""
    # Where matplotlib fits the figure, it finds the place itself.
    place = {} if figure.get_layout_engine() is not None else {"y": 0.05 / figure.get_figheight(), "va": "bottom"}
    figure.supxlabel("\n".join(wrap(text, LINE)), fontsize=8, **place)


def png(figure: "Figure") -> bytes:
    """Return a figure as PNG; the same figure gives the same bytes on one machine."""
    image = io.BytesIO()
    figure.savefig(image, format="png", metadata={"Software": None})  # no version of matplotlib in the file
    return image.getvalue()


def svg(figure: "Figure") -> bytes:
    """Return a figure as SVG, texts as outlines, which look the same everywhere; the same figure, the same bytes."""
    image = io.BytesIO()
    figure.savefig(image, format="svg", metadata={"Date": None, "Creator": None})
    return image.getvalue()


def write_both(figure: "Figure", path: Path) -> tuple[str, str]:
    """Write a figure as PNG and as SVG.

    Args:
        figure: the figure, drawn in `fixed_style`.
        path: its file without the ending.

    Returns:
        The names of the files.
    """
    names = []
    for ending, content in (("png", png(figure)), ("svg", svg(figure))):
        file = path.with_name(f"{path.name}.{ending}")
        with replacing(file) as target:
            target.write(content)
        names.append(file.name)
    return names[0], names[1]


def bars(
    axes: Any, edges: Sequence[float], series: Sequence[tuple[str, Sequence[int]]], places: Sequence[int] = ()
) -> None:
    """Draw a histogram as stacked bars, each series with a hatch of its own.

    Args:
        axes: matplotlib's.
        edges: N + 1 edges of the bins.
        series: by label, the N counts; the first one stands below the others.
        places: of the series' styles; empty: 0, 1, …
    """
    from matplotlib.ticker import MaxNLocator

    below = [0] * (len(edges) - 1)
    for place, (label, counts) in zip(places or range(len(series)), series, strict=True):
        look = style(place)
        above = [a + b for a, b in zip(below, counts, strict=True)]
        # One outline per series, where a bar per bin would make an SVG ten times as large; none where it has no row.
        axes.stairs(
            [top if count else math.nan for top, count in zip(above, counts, strict=True)],
            edges,
            baseline=below,
            fill=True,
            label=label,
            facecolor=look.fill,
            edgecolor=look.colour,
            hatch=look.hatch,
            linewidth=0.6,
        )
        below = above
    axes.set_ylim(0)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))


def steps(axes: Any, edges: Sequence[float], heights: Sequence[float], place: int, label: str) -> None:
    """Draw a histogram that another one may lie behind: the first series filled lightly, the next ones as outlines."""
    look = style(place)
    if place == 0:
        axes.stairs(heights, edges, fill=True, facecolor=look.fill, alpha=0.35)
    axes.stairs(heights, edges, color=look.colour, linestyle=look.line, linewidth=1.4, label=label)


def zero_line(axes: Any, *, vertical: bool = False) -> None:
    """Draw a thin line at 0."""
    (axes.axvline if vertical else axes.axhline)(0, color=INK, linewidth=0.8)
