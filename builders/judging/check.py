"""What `grace verify` looks at in graded responses, beyond their files: grades in range, whole rows, right means."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import polars as pl

from builders.store.check import Finding, listed
from builders.store.manifest import Manifest
from scorers.judgement import CRITERIA
from scorers.rating import HIGHEST, LOWEST

NAMES = ("response_id", *CRITERIA, "judge_score")


def check_grades(manifest: Manifest, files: Mapping[str, Path], sound: bool) -> list[Finding]:
    """List grades out of range, rows with some of them only, and scores that are not the mean; see `listed`."""
    return listed(files, sound, NAMES, _faults)


def _faults(rows: pl.DataFrame) -> Iterator[Finding]:
    allowed = f"a whole number from {LOWEST} to {HIGHEST}"
    for name in CRITERIA:
        for row in rows.filter(~pl.col(name).is_between(LOWEST, HIGHEST)).iter_rows(named=True):
            yield Finding(row["response_id"], name, str(row[name]), allowed)
    for row in rows.filter(pl.sum_horizontal(pl.col(NAMES[1:]).is_null()).is_between(1, len(CRITERIA))).iter_rows(
        named=True
    ):
        yield Finding(row["response_id"], "judge_score", "some grades are null", "all of them, or none")
    mean = 10 * pl.mean_horizontal(*CRITERIA)
    for row in rows.with_columns(mean=mean).filter((pl.col("judge_score") - mean).abs() > 1e-9).iter_rows(named=True):
        yield Finding(
            row["response_id"], "judge_score", f"{row['judge_score']:g}", f"{row['mean']:g}, ten times the mean"
        )
