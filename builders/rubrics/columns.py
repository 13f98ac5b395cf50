"""The columns of criteria and ratings, the same in every pipeline that has them."""

import polars as pl

from builders.store.columns import column
from scorers.criteria import FIELDS

CRITERION = pl.Struct(dict.fromkeys(FIELDS, pl.String))
"""A criterion with the fields of the benchmark's own files: name, criteria_description and five bands."""

CRITERIA = column(
    "criteria", pl.List(CRITERION), "five criteria with their bands, in the fields of the benchmark's `checklist`"
)
CRITERIA_WRITER = column(
    "criteria_writer", pl.String, "model@revision that wrote them; null for fixed ones", nullable=True
)
QUERY_ID = column("query_id", pl.String, "first 16 hex digits of the SHA-256 of the query's text")
RESPONSE_ID = column("response_id", pl.String, "{query_id}-{j}, j counts the responses of all policies from 0")
CRITERION_NAME = column("criterion", pl.String, "name of the criterion")
RATINGS_COLUMNS = (
    QUERY_ID,
    RESPONSE_ID,
    CRITERION_NAME,
    column("repeat", pl.Int32, "number of the rating of this response by this criterion, from 0"),
    column("score", pl.Int32, "1 (worst) to 10; null where no reply could be read: unscored, never 0", nullable=True),
    column("reason", pl.String, "the judge's reason; null where there is no score, or no reason", nullable=True),
    column("attempts", pl.Int32, "replies asked for; 0 for an empty response, which is not asked about"),
    column("judge", pl.String, "model@revision that rated"),
    column("prompt_hash", pl.String, "first 16 hex digits of the SHA-256 of the judge's prompt file"),
    column("temperature", pl.Float64, "of the judge's sampling; 0 is greedy"),
    column("top_p", pl.Float64, "of the judge's sampling"),
)
