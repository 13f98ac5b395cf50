"""What `grace verify` looks at in criteria and ratings, beyond their files.

Criteria are five, distinct and whole; a rating is a whole number from 1 to 10, or null, and stands there once.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import polars as pl

from builders.store.check import Finding, listed
from builders.store.manifest import Manifest
from scorers.criteria import check_criteria
from scorers.rating import HIGHEST, LOWEST


def check_criteria_rows(manifest: Manifest, files: Mapping[str, Path], sound: bool) -> list[Finding]:
    """List the queries whose criteria are not five whole and distinct ones; see `listed`."""
    return listed(files, sound, ("query_id", "criteria"), _criteria)


def check_ratings(manifest: Manifest, files: Mapping[str, Path], sound: bool) -> list[Finding]:
    """List ratings out of range, and those that stand there twice; see `listed`."""
    return listed(files, sound, ("response_id", "criterion", "repeat", "score"), _ratings)


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
