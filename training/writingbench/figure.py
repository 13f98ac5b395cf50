"""A comparison on WritingBench as a figure: scores by subdomain as a heat map, by length of query and answer as lines.

These are the paper's figures 5, 6 and 7.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from builders.cards.figure_text import drawable
from builders.report.tables import shortened
from scorers.rating import HIGHEST, LOWEST

LABEL = 28  # characters of a name


def draw(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the scores of models.

    Args:
        records: of each model `model`, `subdomains`, `by_query_length` and `by_response_length`.
        path: PNG file to write.
    """
    import matplotlib

    # The backend that needs no display; to be chosen before pyplot is imported.
    matplotlib.use("Agg")
    from matplotlib import pyplot

    kinds = [f"{one['subdomain']}" for one in records[0]["subdomains"]]
    names = [str(record["model"]) for record in records]
    labels, families = drawable([shortened(text, LABEL) for text in (*names, *kinds)])
    models, subdomains = labels[: len(names)], labels[len(names) :]
    height = max(4.0, 0.17 * len(kinds) + 1.5)  # inches
    figure, grid = pyplot.subplot_mosaic(
        [["map", "query"], ["map", "response"]],
        figsize=(max(9.0, 0.5 * len(names) + 8.0), height),
        layout="constrained",
    )
    cells = [[_number(record["subdomains"][row]["score"]) for record in records] for row in range(len(kinds))]
    image = grid["map"].imshow(cells, aspect="auto", cmap="viridis", vmin=LOWEST, vmax=HIGHEST)
    grid["map"].set_xticks(range(len(models)), models, rotation=30, ha="right", fontfamily=families)
    grid["map"].set_yticks(range(len(subdomains)), subdomains, fontfamily=families)
    grid["map"].tick_params(labelsize="x-small")
    grid["map"].set_title("mean score by subdomain", fontsize="medium")
    figure.colorbar(image, ax=grid["map"])
    for place, what in (("query", "query"), ("response", "answer")):
        axes = grid[place]
        for record, label in zip(records, models, strict=True):
            classes = record[f"by_{place}_length"]
            axes.plot(list(classes), [_number(score) for score in classes.values()], marker="o", label=label)
        axes.set_ylim(LOWEST, HIGHEST)
        axes.set_title(f"by words of the {what}", fontsize="medium")
        axes.tick_params(labelsize="small")
    grid["query"].legend(frameon=False, fontsize="x-small", prop={"family": families, "size": "x-small"})
    # Without the version of matplotlib the same numbers give the same file.
    figure.savefig(path, dpi=120, metadata={"Software": None})
    pyplot.close(figure)


def _number(value: float | None) -> float:
    """Return a score as matplotlib takes it: NaN, which leaves a gap, where there is none."""
    return math.nan if value is None else value
