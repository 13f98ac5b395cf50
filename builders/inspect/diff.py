"""`grace diff`: what two datasets have in common and how their distributions differ.

Datasets of different stages are compared in the columns they share. One column is in memory at a time, or the few that
a correlation needs.

- Standardised difference of a metric: (mean_b − mean_a) / s, where s² = (n_a·var_a + n_b·var_b) / (n_a + n_b) pools the
  population variances; 0 where the means are equal, null where s is 0 and the means differ.
- Effective sample size of the weights W (Kish, 1965): (Σ|W|)² / Σ W², between 1 and the number of rows.
- Length and weight: Pearson and Spearman correlation over the scored rows; null where one of the two is constant.
- Length and reward: Spearman correlation within a query's scored responses, averaged over the queries in which both
  vary. From |rho| = 0.7 on, length alone explains the reward: half of the variance of its ranks.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from builders.store.revision import Revision
from scorers.errors import UserError

LENGTH_EXPLAINS = 0.7  # |rho| from which on length counts as explaining the reward: 0.7² ≈ 1/2
IDS = ("query_id", "text_id", "pair_id")
"""Columns that say what a row is about, a query or a text; the first that both datasets have counts their queries."""
STATISTICS = ("mean", "std", "q10", "q50", "q90", "null")


def diff(a: Revision, b: Revision, compared: Sequence[str]) -> dict[str, Any]:
    """Compare two datasets.

    Args:
        a: the first dataset.
        b: the second dataset; differences are b minus a.
        compared: numeric columns to compare where both datasets have them, see `Pipeline.summaries`.

    Returns:
        `a`, `b`: repo, revision, digest, rows, queries (or texts, see `IDS`), and, null where the dataset lacks the
        columns, `labels` (positive, negative, share), `effective_sample_size`, `length_and_weight` (rows, pearson,
        spearman) and `length_and_reward` (queries, spearman). `queries_in_common`. `metrics`: for each metric that both
        have, `a` and `b` with mean, population std, quantiles and nulls, and `standardised_difference`. `only`: by
        side, the metrics that the other lacks. `warnings`: sentences.

    Raises:
        UserError: where the two datasets share nothing that can be compared, or cannot be read.
    """
    try:
        sides = [_Side(revision, compared) for revision in (a, b)]
        shared = [m for m in compared if all(m in side.numeric for side in sides)]
        key = next((name for name in IDS if all(name in side.schema for side in sides)), None)
        with_queries = key is not None
        for side in sides:
            side.key = key or next((name for name in IDS if name in side.schema), None)
        if not shared and not with_queries:
            raise UserError(
                f"{a} and {b} share no column to compare: one of {', '.join(IDS)} or a metric ({', '.join(compared)}) "
                f"is needed; the first has {', '.join(sides[0].schema.names())}"
            )
        described = [side.describe() for side in sides]
        warnings = [] if shared else [_no_metric(sides)]
        return {
            "a": described[0],
            "b": described[1],
            "queries_in_common": _common_queries(*sides) if with_queries else None,
            "metrics": {name: _compare(sides[0].column(name), sides[1].column(name)) for name in shared},
            "only": {
                name: [m for m in compared if m in side.numeric and m not in shared]
                for name, side in zip("ab", sides, strict=True)
            },
            "warnings": [
                *warnings,
                *(text for side, values in zip(sides, described, strict=True) for text in _warn(side, values)),
            ],
        }
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{a} or {b}: not readable as Parquet: {reason}; run `grace verify` on each") from None


class _Side:
    """One of the two datasets."""

    def __init__(self, revision: Revision, compared: Sequence[str]) -> None:
        self.revision = revision
        scan = revision.scan()
        self.schema = scan.collect_schema()
        self.numeric = {
            name
            for name in (*compared, "length", "reward", "weight")
            if name in self.schema and self.schema[name].is_numeric()
        }
        # NaN and infinity, which only foreign data can hold, count as null.
        number = (pl.col(name).cast(pl.Float64) for name in sorted(self.numeric))
        self.scan = scan.with_columns(pl.when(value.is_finite()).then(value) for value in number)
        self.key: str | None = None

    def column(self, name: str) -> pl.Series:
        """Return one numeric column as float64."""
        return self.scan.select(name).collect()[name]

    def query_ids(self) -> pl.LazyFrame:
        """Return the distinct queries, as the column `key` tells them."""
        assert self.key is not None
        return self.scan.select(pl.col(self.key).cast(pl.String)).unique()

    def describe(self) -> dict[str, Any]:
        """Return the numbers that need one dataset alone."""
        weights = self.column("weight") if "weight" in self.numeric else None
        return {
            "repo": self.revision.repo,
            "revision": self.revision.revision,
            "digest": self.revision.digest,
            "rows": self.scan.select(pl.len()).collect().item(),
            "queries": self.query_ids().select(pl.len()).collect().item() if self.key else None,
            "labels": self._labels(),
            "effective_sample_size": None if weights is None else effective_sample_size(weights),
            "length_and_weight": self._length_and_weight(),
            "length_and_reward": self._length_and_reward(),
        }

    def _labels(self) -> dict[str, float] | None:
        """Return the numbers of positive and negative rows and the share of the positive; None without labels."""
        if self.schema.get("label") != pl.Boolean:
            return None
        positive, negative = (
            self.scan.select(pl.col("label").sum(), (~pl.col("label")).sum().alias("no")).collect().row(0)
        )
        share = positive / (positive + negative) if positive + negative else 0.0
        return {"positive": positive, "negative": negative, "share": share}

    def _length_and_weight(self) -> dict[str, float | None] | None:
        """Return the correlations of length and weight over the scored rows; None without these columns."""
        if not {"length", "weight"} <= self.numeric:
            return None
        # Unscored rows have a weight too, −1 by rule, which says nothing about length.
        scored = ["length", "weight", *(["reward"] if "reward" in self.numeric else [])]
        pair = self.scan.filter(pl.all_horizontal(pl.col(c).is_not_null() for c in scored)).select("length", "weight")
        rows = pair.collect()
        return {
            "rows": rows.height,
            "pearson": correlation(rows["length"], rows["weight"]),
            "spearman": correlation(rows["length"].rank(), rows["weight"].rank()),
        }

    def _length_and_reward(self) -> dict[str, float | None] | None:
        """Return the mean correlation of length and reward within a query; None without these columns."""
        if "query_id" not in self.schema or not {"length", "reward"} <= self.numeric:
            return None
        rows = self.scan.select("query_id", "length", "reward").drop_nulls().collect()
        queries, rho = spearman_within(rows, "length", "reward")
        return {"queries": queries, "spearman": rho}


def effective_sample_size(weights: pl.Series) -> float:
    """Return (Σ|W|)² / Σ W² (Kish, 1965); 0 where every weight is 0.

    >>> effective_sample_size(pl.Series([1.0, -1.0, 2.0]))
    2.6666666666666665
    """
    absolute = weights.drop_nulls().abs().to_numpy()
    squares = float(np.square(absolute).sum())
    return float(absolute.sum()) ** 2 / squares if squares else 0.0


def correlation(x: pl.Series, y: pl.Series) -> float | None:
    """Return the Pearson correlation of two columns without nulls, in [−1, 1].

    None where one column is constant or there are fewer than two rows.
    """
    a, b = (values.cast(pl.Float64).to_numpy() for values in (x, y))
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    a, b = a - a.mean(), b - b.mean()
    # Clipped, since rounding can lead slightly beyond ±1.
    return float(np.clip((a @ b) / np.sqrt((a @ a) * (b @ b)), -1.0, 1.0))


def spearman_within(rows: pl.DataFrame, x: str, y: str) -> tuple[int, float | None]:
    """Average the Spearman correlation within each query.

    Args:
        rows: `query_id` and the two columns, without nulls.
        x: name of the first column.
        y: name of the second column.

    Returns:
        The number of queries in which both columns vary, and the mean correlation over these; None where there are
        none.
    """
    # Spearman's correlation is Pearson's of the ranks; ties get the mean rank.
    ranks = rows.select("query_id", pl.col(x).rank().over("query_id"), pl.col(y).rank().over("query_id"))
    # A query in which all lengths or all rewards are equal has no correlation.
    varying = ranks.filter(((pl.col(c).max() > pl.col(c).min()).over("query_id")) for c in (x, y))
    each = varying.group_by("query_id").agg(pl.corr(x, y).alias("rho"))["rho"]
    return len(each), float(each.mean()) if len(each) else None  # type: ignore[arg-type]


def _common_queries(a: _Side, b: _Side) -> int:
    """Return the number of queries that both datasets have."""
    joined = a.query_ids().join(b.query_ids(), on=a.key, how="semi")
    return int(joined.select(pl.len()).collect().item())


def _compare(a: pl.Series, b: pl.Series) -> dict[str, Any]:
    """Return both summaries of a metric and their standardised difference."""
    first, second = _summary(a), _summary(b)
    return {"a": first, "b": second, "standardised_difference": standardised_difference(a, b)}


def _summary(values: pl.Series) -> dict[str, float | None]:
    """Return mean, population std, quantiles and nulls of a column; statistics are null without values."""
    present = values.drop_nulls()
    if present.is_empty():
        return dict.fromkeys(STATISTICS[:-1]) | {"null": values.null_count()}
    numbers = present.to_numpy()
    q10, q50, q90 = (float(q) for q in np.quantile(numbers, (0.1, 0.5, 0.9)))
    mean, std = float(numbers.mean()), float(numbers.std())
    return {"mean": mean, "std": std, "q10": q10, "q50": q50, "q90": q90, "null": values.null_count()}


def standardised_difference(a: pl.Series, b: pl.Series) -> float | None:
    """Return (mean_b − mean_a) over the pooled population standard deviation; see the module for the formula.

    None where one column is empty, or where both are constant and differ.
    """
    first, second = (values.drop_nulls().to_numpy() for values in (a, b))
    if not len(first) or not len(second):
        return None
    difference = float(second.mean() - first.mean())
    pooled = (len(first) * first.var() + len(second) * second.var()) / (len(first) + len(second))
    if pooled == 0:
        return 0.0 if difference == 0 else None
    return difference / float(np.sqrt(pooled))


def _no_metric(sides: Sequence[_Side]) -> str:
    """Say that two datasets have no metric in common, and which metrics each of them has."""
    has = (f"{side.revision} has {', '.join(sorted(side.numeric)) or 'none'}" for side in sides)
    return f"the two share no metric, so none is compared: {'; '.join(has)}"


def _warn(side: _Side, values: dict[str, Any]) -> list[str]:
    """Return a warning where length alone explains the reward."""
    found = values["length_and_reward"]
    rho = found["spearman"] if found else None
    if rho is None or abs(rho) < LENGTH_EXPLAINS:
        return []
    direction = "longer" if rho > 0 else "shorter"
    return [
        f"{side.revision}: length alone explains the reward: within a query the {direction} response has the "
        f"higher reward (mean Spearman correlation {rho:.2f} over {found['queries']} queries, "
        f"{LENGTH_EXPLAINS} or more counts as explained)"
    ]
