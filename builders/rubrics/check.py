"""What `grace verify` looks at in criteria and ratings, beyond their files.

Criteria are five, distinct and whole; a rating is a whole number from 1 to 10, or null, and stands there once.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import polars as pl

from builders.store.check import Finding
from builders.store.manifest import Manifest
from scorers.criteria import check_criteria
from scorers.rating import HIGHEST, LOWEST

ROWS_SHOWN = 5  # differing rows listed
Faults = Callable[[pl.DataFrame], Iterator[Finding]]


def check_criteria_rows(manifest: Manifest, files: Mapping[str, Path], sound: bool) -> list[Finding]:
    """List the queries whose criteria are not five whole and distinct ones; see `listed`."""
    return listed(files, sound, ("query_id", "criteria"), _criteria)


def check_ratings(manifest: Manifest, files: Mapping[str, Path], sound: bool) -> list[Finding]:
    """List ratings out of range, and those that stand there twice; see `listed`."""
    return listed(files, sound, ("response_id", "criterion", "repeat", "score"), _ratings)


def listed(files: Mapping[str, Path], sound: bool, names: tuple[str, ...], faults: Faults) -> list[Finding]:
    """Return the first faults of a dataset, and how many there are where they are more than `ROWS_SHOWN`.

    Args:
        files: the readable data files by path.
        sound: whether all files are there and fit the contract; nothing is looked at otherwise.
        names: the columns that are read.
        faults: yields the faults of all rows.
    """
    if not sound or not files:
        return [Finding("data/", names[-1], "", "not looked at: the rows are incomplete or do not fit")]
    found = list(faults(pl.concat([pl.read_parquet(path, columns=list(names), glob=False) for path in files.values()])))
    if len(found) <= ROWS_SHOWN:
        return found
    return [*found[:ROWS_SHOWN], Finding("data/", names[-1], "", f"{len(found)} rows differ, {ROWS_SHOWN} shown")]


def _criteria(rows: pl.DataFrame) -> Iterator[Finding]:
    for identity, criteria in rows.select("query_id", "criteria").iter_rows():
        found = check_criteria(criteria)
        if isinstance(found, str):
            yield Finding(identity, "criteria", f"{len(criteria)} criteria", found)


def _ratings(rows: pl.DataFrame) -> Iterator[Finding]:
    outside = rows.filter(~pl.col("score").is_between(LOWEST, HIGHEST))
    for row in outside.iter_rows(named=True):
        yield Finding(row["response_id"], "score", str(row["score"]), f"a whole number from {LOWEST} to {HIGHEST}")
    key = ["response_id", "criterion", "repeat"]
    for row in rows.group_by(key, maintain_order=True).len().filter(pl.col("len") > 1).iter_rows(named=True):
        yield Finding(
            row["response_id"], "criterion", row["criterion"], f"{row['len']} times as repeat {row['repeat']}"
        )
