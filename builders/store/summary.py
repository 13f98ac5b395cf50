"""Distributions of a dataset's numeric columns, for the manifest."""

from collections.abc import Iterable
from pathlib import Path

import polars as pl

from builders.store.manifest import Summary

QUANTILES = (("q10", 0.1), ("q25", 0.25), ("median", 0.5), ("q75", 0.75), ("q90", 0.9))


def summarise(files: list[Path], columns: Iterable[str]) -> dict[str, Summary]:
    """Return the distribution of each numeric column; one that is not there, or has no values, is left out.

    One column is in memory at a time. Quantiles are interpolated linearly; the standard deviation is the population's.
    """
    summaries = {}
    there = pl.scan_parquet(files, glob=False).collect_schema() if files else pl.Schema()
    for column in (name for name in columns if name in there):
        values = pl.scan_parquet(files, glob=False).select(column).collect()[column].cast(pl.Float64)
        present = values.drop_nulls().sort()
        if present.is_empty():
            continue
        summaries[column] = Summary(
            count=len(present),
            null=values.null_count(),
            # `or 0.0` is for the type checker: a column with values has all of these.
            mean=float(present.mean() or 0.0),  # type: ignore[arg-type]
            std=float(present.std(ddof=0) or 0.0),  # type: ignore[arg-type]
            min=float(present[0]),
            max=float(present[-1]),
            **{name: float(present.quantile(q, "linear") or 0.0) for name, q in QUANTILES},
        )
    return summaries
