"""Figures of a dataset's columns: histograms, means with intervals, and rewards against lengths.

Of numbers that are null, NaN or infinite none is drawn; how many are left is said as n.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from builders.cards.figure_text import drawable, shortened
from builders.cards.figures.counts import (
    Mean,
    Spread,
    counts_by,
    edges_of,
    finite,
    means_by,
    sampled,
    spreads,
    tenths,
)
from builders.cards.figures.drawing import INK, bars, caption, new_figure, panels, steps, style, zero_line
from scorers.rating import HIGHEST, LOWEST

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_PANELS = 24
MOST_SERIES = 8  # policies or criteria whose means are compared
LABEL = 22  # characters of a name
PAIRS = (
    ("reward_chosen", "reward_rejected", "chosen", "rejected", "reward"),
    ("metric_winner", "metric_loser", "winner", "loser", "metric"),
)
"""Columns of pairs: of the better and of the worse one, what they are called, and what is measured."""
UNITS = {
    "length": "tokens",
    "num_tokens": "tokens",
    "words": "words",
    "diversity": "%",
    "logprob": "nats",
}
LENGTHS = ("length", "num_tokens", "words")
#: Numbers that are no metrics: settings, seeds, places, and what has a picture of its own.
NO_METRICS = frozenset(
    ("weight", "reward", "temperature", "top_p", *(name for pair in PAIRS for name in pair[:2]), "metrics")
)


def by_label(schema: pl.Schema) -> dict[str, pl.Expr]:
    """Return the conditions of positive and negative rows, and of those without a score where a reward says so."""
    label = pl.col("label").fill_null(False)
    if "reward" not in schema:
        return {"positive": label, "negative": ~label}
    scored = pl.col("reward").is_not_null()
    return {"positive": scored & label, "negative": scored & ~label, "not scored": ~scored}


def numeric(schema: pl.Schema, *columns: str) -> bool:
    """Whether a dataset has some columns as numbers."""
    return all(column in schema and schema[column].is_numeric() for column in columns)


def weights_figure(rows: pl.LazyFrame) -> "Figure | None":
    """Draw the weights' histogram by label; rows without a score, whose weight is a rule's, are a series of their own.

    None without the columns weight and label, and without a finite weight.
    """
    schema = rows.collect_schema()
    if not numeric(schema, "weight") or schema.get("label") != pl.Boolean:
        return None
    spread = spreads(rows, ["weight"]).get("weight")
    if spread is None:
        return None
    edges = edges_of(spread, 50)
    counts = counts_by(rows, finite("weight"), edges, by_label(schema))
    figure = new_figure(2.8)
    axes = figure.add_subplot()
    named = [(f"{label} ({sum(numbers):,})", numbers) for label, numbers in counts.items() if any(numbers)]
    bars(axes, edges, named, [list(counts).index(label) for label, numbers in counts.items() if any(numbers)])
    zero_line(axes, vertical=True)
    axes.set(xlabel=_axis("weight W", spread, edges), ylabel="rows")
    axes.legend()
    return figure


def _ends(spread: Spread, edges: Sequence[float]) -> list[str]:
    """Say how far the numbers in a histogram's outermost bins go where they do not end at an edge."""
    low = [f"min {_short(spread.low)}"] if spread.low < edges[0] else []
    return low + ([f"max {_short(spread.high)}"] if spread.high > edges[-1] else [])


def _short(number: float) -> str:
    """Return a number with three digits, of a large one all before the point."""
    return _minus(f"{number:,.0f}" if abs(number) >= 1_000 else f"{number:.3g}")


def _minus(number: str) -> str:
    """Return a number with the sign that axes have."""
    return number.replace("-", "\N{MINUS SIGN}")


def _axis(name: str, spread: Spread, edges: Sequence[float]) -> str:
    """Return the label of a histogram's axis."""
    ends = ", ".join(_ends(spread, edges))
    return f"{name} (outermost bin: {ends})" if ends else name


def metric_columns(schema: pl.Schema) -> list[str]:
    """Return the columns that are metrics: lengths, and floats that are no rank, setting or reward."""
    return [
        name
        for name, dtype in schema.items()
        if name not in NO_METRICS
        and not name.startswith("rank_")
        and (name in LENGTHS or name in UNITS or dtype.is_float())
        and dtype.is_numeric()
    ]


def titled(column: str) -> str:
    """Return a column's name as a panel's title, with its unit."""
    name, _ = drawable([shortened(column, LABEL)])
    return f"{name[0]}, {UNITS[column]}" if column in UNITS else name[0]


def metrics_figure(rows: pl.LazyFrame) -> "Figure | None":
    """Draw the distribution of each metric, in its own unit, with its median; positive and negative rows apart.

    None without a metric that has a number.
    """
    schema = rows.collect_schema()
    columns = metric_columns(schema)
    found = spreads(rows, columns[:MOST_PANELS])
    if not found:
        return None
    labelled = schema.get("label") == pl.Boolean
    series = {name: holds for name, holds in by_label(schema).items() if name != "not scored"} if labelled else {}
    figure, grid = panels(len(found), 4, 0.9, below=0.42)
    for axes, (column, spread) in zip(grid, found.items(), strict=True):
        edges = edges_of(spread, 24)
        counts = counts_by(rows, finite(column), edges, series or {"rows": pl.lit(True)})
        if series:
            for place, (label, numbers) in enumerate(counts.items()):
                steps(axes, edges, _shares(numbers), place, label)
        else:
            bars(axes, edges, list(counts.items()))
        axes.axvline(spread.quartiles[1], color=INK, linewidth=1, linestyle="--")
        axes.set_title(titled(column))
        axes.set_xlabel("; ".join([f"n = {spread.count:,}", *_ends(spread, edges)]), fontsize=7)
        axes.locator_params(axis="x", nbins=4)
        axes.tick_params(labelsize=7)
    if series:
        grid[0].legend(fontsize=7)
    figure.supylabel("% of the rows" if series else "rows", fontsize=8, x=0.01)
    more = f"; the first {MOST_PANELS} of {len(columns)} metrics" if len(columns) > MOST_PANELS else ""
    caption(figure, f"dashed: median; n: rows with a number; min, max: how far the outermost bin goes{more}")
    return figure


def _shares(counts: Sequence[int]) -> list[float]:
    """Return counts in percent of their sum; zeros where there is nothing."""
    total = sum(counts)
    return [100 * count / total if total else 0.0 for count in counts]


def pairs_figure(rows: pl.LazyFrame) -> "Figure | None":
    """Draw the rewards, or metrics, of the better and the worse one of a pair, and their differences.

    None without such columns, and where no pair has both numbers.
    """
    schema = rows.collect_schema()
    pair = next((pair for pair in PAIRS if numeric(schema, *pair[:2])), None)
    if pair is None:
        return None
    better, worse, *names, measured = pair
    frame = rows.select(finite(better).alias("better"), finite(worse).alias("worse")).drop_nulls()
    both = pl.concat([frame.select(pl.col(side).alias("value")) for side in ("better", "worse")])
    margins = frame.select((pl.col("better") - pl.col("worse")).alias("value"))
    if not (all_ := spreads(both, ["value"])):
        return None
    spread = spreads(margins, ["value"])["value"]
    edges, apart = edges_of(all_["value"]), edges_of(spread)
    figure, (left, right) = panels(2, 2, 1.9, below=0.45)
    for place, side in enumerate(("better", "worse")):
        counts = counts_by(frame, pl.col(side), edges, {"": pl.lit(True)})[""]
        steps(left, edges, counts, place, names[place])
    left.legend()
    left.set(xlabel=_axis(measured, all_["value"], edges), ylabel="pairs", title=f"{measured} of each of a pair")
    bars(right, apart, [("", counts_by(margins, pl.col("value"), apart, {"": pl.lit(True)})[""])])
    zero_line(right, vertical=True)
    right.axvline(spread.quartiles[1], color=INK, linewidth=1, linestyle="--")
    right.set(xlabel=_axis("difference", spread, apart), title=f"{names[0]} − {names[1]} (dashed: median)")
    caption(figure, f"n = {spread.count:,} pairs")
    return figure


def ratings_figure(rows: pl.LazyFrame) -> "Figure | None":
    """Draw how often each score was given, and where there are a few criteria, the mean of each with its interval.

    None without a column `score` of whole numbers beside `criterion`, and without a score.
    """
    schema = rows.collect_schema()
    if "score" not in schema or not schema["score"].is_integer() or "criterion" not in schema:
        return None
    spread = spreads(rows, ["score"]).get("score")
    if spread is None:
        return None
    criteria = rows.select(pl.col("criterion").drop_nulls().unique(maintain_order=True).head(MOST_SERIES + 1)).collect()
    few = 1 < criteria.height <= MOST_SERIES and "query_id" in schema
    means = means_by(rows, "score", "criterion") if few else []
    figure = new_figure(2.8)
    grid = figure.subplots(1, 2 if means else 1, squeeze=False)[0]
    low, high = int(min(spread.low, LOWEST)), int(max(spread.high, HIGHEST))
    edges = [value - 0.5 for value in range(low, high + 2)]
    bars(grid[0], edges, [("", counts_by(rows, finite("score"), edges, {"": pl.lit(True)})[""])])
    grid[0].axvline(
        mean := rows.select(finite("score").mean()).collect().item(), color=INK, linestyle="--", linewidth=1
    )
    grid[0].set_xticks(range(low, high + 1))
    without = rows.select(pl.len()).collect().item() - spread.count
    grid[0].set(xlabel="score", ylabel="ratings")
    said = f"n = {spread.count:,} ratings, {without:,} without a score; dashed: mean {mean:.2f}"
    if means:
        said += f"; right: 95 % intervals over queries{_means(grid[1], means, [mean.name for mean in means])}"
        grid[1].set(xlabel="mean score")
    caption(figure, said)
    return figure


def _means(axes: Any, means: Sequence[Mean], names: Sequence[str], *, named: bool = True) -> str:
    """Draw means with their intervals, one below the other, each with a marker of its own.

    Args:
        axes: matplotlib's.
        means: some of the series.
        names: of all series, from above to below.
        named: whether the names are written.

    Returns:
        What a caption has to add where a name could not be drawn.
    """
    short = [shortened(name, LABEL) for name in names]
    labels, families = drawable(short)
    for mean in means:
        place = names.index(mean.name)
        look = style(place)
        errors = {} if mean.half is None else {"xerr": mean.half}
        axes.errorbar(mean.value, place, fmt=look.marker, color=look.colour, capsize=3, markersize=5, **errors)
    axes.set_yticks(range(len(names)), labels if named else [""] * len(names), fontfamily=families)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.locator_params(axis="x", nbins=4)
    return "" if labels == short else " (a number stands for a name that no font of this machine can draw)"


def by_policy_figure(rows: pl.LazyFrame) -> "Figure | None":
    """Draw the mean of each metric by the policy that wrote the responses, with 95 % intervals over queries.

    None where there are not two to eight policies, no column `query_id`, or no metric.
    """
    schema = rows.collect_schema()
    if "policy" not in schema or "query_id" not in schema:
        return None
    names = rows.select(pl.col("policy").cast(pl.String).drop_nulls().unique().head(MOST_SERIES + 1)).collect()
    policies = sorted(names["policy"])
    if not 2 <= len(policies) <= MOST_SERIES:
        return None
    found = {column: means_by(rows, column, "policy") for column in metric_columns(schema)}
    columns = [column for column, means in found.items() if means][:MOST_PANELS]
    if not columns:
        return None
    figure, grid = panels(len(columns), 4, 0.2 * len(policies) + 0.1, below=0.3, left=1.4)
    said = "mean with 95 % interval over queries"
    for place, (axes, column) in enumerate(zip(grid, columns, strict=True)):
        more = _means(axes, found[column], policies, named=place % 4 == 0)
        axes.set_title(titled(column))
        axes.tick_params(labelsize=7)
    caption(figure, said + more)
    return figure


def reward_by_length_figure(rows: pl.LazyFrame) -> "Figure | None":
    """Draw rewards against lengths, of a sample of whole groups, with the mean reward in each tenth of all lengths.

    None without a reward and a length, and where no row has both numbers.
    """
    schema = rows.collect_schema()
    length = next((name for name in LENGTHS if numeric(schema, name)), None)
    if length is None or not numeric(schema, "reward"):
        return None
    positive = pl.col("label") if schema.get("label") == pl.Boolean else pl.col("reward") >= 0
    both = (finite(length).alias("length"), finite("reward").alias("reward"))
    scored = rows.filter(both[0].is_not_null() & both[1].is_not_null())
    points, count = sampled(scored, "query_id" if "query_id" in schema else None)
    shown = points.select(*both, positive.fill_null(False).alias("positive")).collect()
    if shown.is_empty():
        return None
    figure = new_figure(3.0)
    axes = figure.add_subplot()
    for place, (label, holds) in enumerate((("positive", True), ("negative", False))):
        part, look = shown.filter(pl.col("positive") == holds), style(place)
        axes.scatter(
            part["length"],
            part["reward"],
            s=12,
            marker="o" if holds else "x",
            facecolors="none" if holds else look.colour,
            edgecolors=look.colour if holds else None,
            linewidths=0.7,
            label=label,
        )
    middle, rho = tenths(scored.select(both).collect())
    axes.plot(middle["length"], middle["reward"], color=INK, marker="D", label="mean in each tenth of the lengths")
    zero_line(axes)
    axes.set(xlabel=f"{length}, {UNITS[length]}", ylabel="reward z")
    drawn = f"all {count:,} rows" if shown.height == count else f"{shown.height:,} of {count:,} rows, whole groups"
    axes.set_title(f"Spearman's rank correlation {'unknown' if rho is None else _minus(f'{rho:.2f}')}; {drawn}")
    axes.legend(loc="best", ncols=3)
    return figure
