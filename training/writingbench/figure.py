"""A comparison on WritingBench as a figure: scores by subdomain as a heat map, by length of query and answer as lines.

These are the paper's figures 5, 6 and 7.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builders.cards.figure_text import drawable, shortened
from builders.cards.figures.drawing import fixed_style, new_figure, style, write_both
from scorers.rating import HIGHEST, LOWEST

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABEL = 28  # characters of a name


def draw(records: Sequence[Mapping[str, Any]], path: Path) -> tuple[str, str]:
    """Write the figure of a comparison as PNG and as SVG.

    Args:
        records: of each model `model`, `subdomains`, `by_query_length` and `by_response_length`.
        path: its file without the ending.

    Returns:
        The names of the files.
    """
    with fixed_style():
        return write_both(figure_of(records), path)


def figure_of(records: Sequence[Mapping[str, Any]]) -> "Figure":
    """Draw the scores of models, see `draw`."""
    kinds = [f"{one['subdomain']}" for one in records[0]["subdomains"]]
    names = [str(record["model"]) for record in records]
    labels, families = drawable([shortened(text, LABEL) for text in (*names, *kinds)])
    models, subdomains = labels[: len(names)], labels[len(names) :]
    height = max(4.0, 0.17 * len(kinds) + 1.5)  # inches
    figure = new_figure(height, max(9.0, 0.5 * len(names) + 8.0))
    grid: dict[str, Any] = figure.subplot_mosaic([["map", "query"], ["map", "response"]])
    cells = [[_number(record["subdomains"][row]["score"]) for record in records] for row in range(len(kinds))]
    # From dark to light in black and white too, and the same for the colour-blind.
    image = grid["map"].imshow(cells, aspect="auto", cmap="cividis", vmin=LOWEST, vmax=HIGHEST)
    grid["map"].set_xticks(range(len(models)), models, rotation=30, ha="right", fontfamily=families)
    grid["map"].set_yticks(range(len(subdomains)), subdomains, fontfamily=families)
    grid["map"].tick_params(labelsize="x-small")
    grid["map"].set_title("mean score by subdomain")
    figure.colorbar(image, ax=grid["map"])
    for place, what in (("query", "query"), ("response", "answer")):
        axes = grid[place]
        for number, (record, label) in enumerate(zip(records, models, strict=True)):
            classes, look = record[f"by_{place}_length"], style(number)
            scores = [_number(score) for score in classes.values()]
            axes.plot(list(classes), scores, marker=look.marker, linestyle=look.line, color=look.colour, label=label)
        axes.set_ylim(LOWEST, HIGHEST)
        axes.set_title(f"by words of the {what}")
    grid["query"].legend(prop={"family": families, "size": "x-small"})
    return figure


def _number(value: float | None) -> float:
    """Return a score as matplotlib takes it: NaN, which leaves a gap, where there is none."""
    return math.nan if value is None else value
