"""Numbers behind the figures of a dataset: counts by bin, means by group, samples; each column is read by itself.

Numbers that are null, NaN or infinite do not count.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

Z = 1.96  # standard errors on each side of a 95 % interval
BINS = 30  # of a histogram, about
FENCES = 3  # times the distance of the quartiles: what lies further out is counted in the outermost bins
SAMPLE = 2_000  # rows of a scatter plot at most
TENTHS = 10
ENDLESS = 1e15  # numbers from here on are no measurement of anything here
EQUAL = 1e-9  # numbers whose distance is this part of their size, or less, share a bin


@dataclass(frozen=True)
class Spread:
    """Where the numbers of a column lie.

    Attributes:
        count: finite numbers; the others are over these.
        low: the smallest.
        high: the largest.
        quartiles: 25 %, 50 % and 75 %.
    """

    count: int
    low: float
    high: float
    quartiles: tuple[float, float, float]


def finite(column: str) -> pl.Expr:
    """Return a column's numbers as floats: null for what is null, NaN or infinite, or as good as that."""
    number = pl.col(column).cast(pl.Float64)
    return pl.when(number.abs() < ENDLESS).then(number)


def spreads(rows: pl.LazyFrame, columns: Sequence[str]) -> dict[str, Spread]:
    """Return where the numbers of columns lie; a column without any is left out. One pass over the rows."""
    asked = [
        expression.alias(f"{index}.{part}")
        for index, column in enumerate(columns)
        for part, expression in enumerate(
            (
                finite(column).count(),
                finite(column).min(),
                finite(column).max(),
                *(finite(column).quantile(q, "linear") for q in (0.25, 0.5, 0.75)),
            )
        )
    ]
    if not asked:
        return {}
    found = rows.select(asked).collect().row(0)
    by_column = {column: found[6 * index : 6 * index + 6] for index, column in enumerate(columns)}
    return {
        column: Spread(count, low, high, (first, median, third))
        for column, (count, low, high, first, median, third) in by_column.items()
        if count
    }


def edges_of(spread: Spread, bins: int = BINS) -> list[float]:
    """Return the edges of a histogram: multiples of a round width, so that 0 is an edge where it lies inside.

    What lies more than three times the distance of the quartiles beyond these gets no bins of its own.
    """
    first, _, third = spread.quartiles
    fence = FENCES * (third - first)
    low, high = (
        (max(spread.low, first - fence), min(spread.high, third + fence)) if fence else (spread.low, spread.high)
    )
    size = max(abs(low), abs(high))
    apart = high - low > max(EQUAL * size, EQUAL)
    width = round_width((high - low if apart else max(size, 1.0)) / bins)
    start, end = math.floor(low / width + 1e-9), math.floor(high / width + 1e-9) + 1
    # The largest number may lie on the last edge, as 100 of a percentage; but 0 divides the signs.
    if end - 1 > start and end != 1 and math.isclose((end - 1) * width, high):
        end -= 1
    return [width * step for step in range(start, end + 1)]


def round_width(least: float) -> float:
    """Return the smallest of 1, 2, 2.5 and 5 times a power of ten that is not below a positive number.

    >>> [round_width(x) for x in (0.03, 0.1, 2.2, 7)]
    [0.05, 0.1, 2.5, 10.0]
    """
    power = 10.0 ** math.floor(math.log10(least))
    return next(
        round(step * power, 12) or step * power for step in (1, 2, 2.5, 5, 10) if step * power >= least * (1 - 1e-9)
    )


def counts_by(
    rows: pl.LazyFrame, column: pl.Expr, edges: Sequence[float], series: Mapping[str, pl.Expr]
) -> dict[str, list[int]]:
    """Count numbers by bin and series; those beyond the outermost edges are counted in the outermost bins.

    Args:
        rows: the dataset.
        column: the numbers; null is not counted.
        edges: N + 1 edges of bins of one width; a number on an edge belongs to the bin above it.
        series: conditions by label; a row belongs to the first one that holds.

    Returns:
        By label N counts.
    """
    width, bins = edges[1] - edges[0], len(edges) - 1
    # A hair above the edge: 0.3 / 0.1 is below 3.
    place = ((column - edges[0]) / width + 1e-9).floor().clip(0, bins - 1).cast(pl.Int64)
    which = pl.coalesce([pl.when(holds).then(pl.lit(number)) for number, holds in enumerate(series.values())])
    found = (
        rows.select(place.alias("bin"), which.alias("series")).drop_nulls().group_by("bin", "series").len().collect()
    )
    counts = {label: [0] * bins for label in series}
    labels = list(series)
    for bin_, number, count in found.iter_rows():
        counts[labels[number]][bin_] = count
    return counts


@dataclass(frozen=True)
class Mean:
    """A mean over queries.

    Attributes:
        name: of the series.
        value: mean of the queries' means.
        half: half the width of its 95 % interval; None of fewer than two queries.
        count: queries.
    """

    name: str
    value: float
    half: float | None
    count: int


def means_by(rows: pl.LazyFrame, column: str, by: str) -> list[Mean]:
    """Return the mean of a metric for each value of another column, over queries, which are independent of each other.

    Needs the column `query_id`. In the order of the names; a name without a number is left out.
    """
    frame = rows.select(
        finite(column).alias("value"), pl.col(by).cast(pl.String).alias("name"), "query_id"
    ).drop_nulls()
    queries = frame.group_by("name", "query_id").agg(pl.col("value").mean())
    # Sorted: sums of floats depend on their order.
    found = (
        queries.sort("name", "query_id")
        .collect()
        .group_by("name", maintain_order=True)
        .agg(pl.col("value").mean().alias("mean"), pl.col("value").std().alias("std"), pl.len())
    )
    return [
        Mean(name, mean, None if std is None else Z * std / math.sqrt(count), count)
        for name, mean, std, count in found.iter_rows()
    ]


def sampled(rows: pl.LazyFrame, by: str | None) -> tuple[pl.LazyFrame, int]:
    """Choose the rows of a scatter plot: whole groups in the order of the SHA-256 of their ids, as many as have room.

    Args:
        rows: the rows to choose from.
        by: the column of the groups' ids; None: the first rows.

    Returns:
        The chosen rows, `SAMPLE` at most and all where there are no more, and how many there are to choose from.
    """
    count = rows.select(pl.len()).collect().item()
    if count <= SAMPLE or by is None:
        return rows.head(SAMPLE), count
    sizes = dict(rows.group_by(pl.col(by).cast(pl.String)).len().collect().drop_nulls().iter_rows())
    order = sorted(sizes, key=lambda name: hashlib.sha256(name.encode()).digest())
    chosen, left = order[:1], SAMPLE - sum(sizes[name] for name in order[:1])
    for name in order[1:]:
        left -= sizes[name]
        if left < 0:
            break
        chosen.append(name)
    # The first group alone may be too large.
    return rows.filter(pl.col(by).cast(pl.String).is_in(chosen)).head(SAMPLE), count


def tenths(rows: pl.DataFrame) -> tuple[pl.DataFrame, float | None]:
    """Return the mean length and reward of each tenth of the rows by length, and the rank correlation of the two.

    Equal lengths stay together, so there may be fewer than ten; the correlation is None where one of them is constant.
    """
    rank = (pl.col("length").rank("average") - 0.5) / pl.len() * TENTHS
    means = rows.with_columns(rank.floor().alias("tenth")).group_by("tenth").agg(pl.col("length", "reward").mean())
    rho = rows.select(pl.corr("length", "reward", method="spearman")).item()
    return means.sort("tenth"), None if rho is None or math.isnan(rho) else float(rho)
