"""The columns that a judge adds, the same in every pipeline."""

import polars as pl

from builders.store.columns import column
from scorers.judgement import CRITERIA

ASKED_COLUMNS = (
    column("attempts", pl.Int32, "replies asked for; 0 where nobody was asked: of an empty response, or of equal ones"),
    column("judge", pl.String, "model@revision that judged; different judges do not compare"),
    column("prompt_hash", pl.String, "first 16 hex digits of the SHA-256 of the judge's prompt file"),
    column("temperature", pl.Float64, "of the judge's sampling; 0 is greedy"),
    column("top_p", pl.Float64, "of the judge's sampling"),
)
"""How a judge was asked."""
JUDGED_COLUMNS = (
    *(
        column(name, pl.Int32, f"{title}: 1 (worst) to 10; null where unscored", nullable=True)
        for name, title in CRITERIA.items()
    ),
    column("judge_score", pl.Float64, "mean of the five, times ten: 10 to 100; null where unscored", nullable=True),
    column("analysis", pl.String, "the judge's analysis; null where unscored, or where it gave none", nullable=True),
    *ASKED_COLUMNS,
)
GRADES = (*CRITERIA, "judge_score")
"""The numbers among them."""
