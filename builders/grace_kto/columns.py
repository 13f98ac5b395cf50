"""The data contract: every dataset's columns, once.

A stage adds columns to its parent's and never renames or rewrites them. Other people's tools read these names.
Ranges and units here are the ones the dataset cards print. One weights row, cut short::

    {"query_id": "8f1c…", "query": "Please write a report titled …", "round": 1, "response_id": "8f1c…-3",
     "matched": True, "length": 61, "diversity": 97.4, "rank_length": 2.5, "rank_sum": 17.9, "reward": 0.83,
     "weight": 1.12, "label": True, "prompt": [{"role": "user", "content": "…"}], …}
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from scorers.errors import UserError

MESSAGES = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))


@dataclass(frozen=True)
class Column:
    """One public column: its polars type, whether null is allowed, and what it means (unit, range, null rule)."""

    name: str
    dtype: pl.DataType
    nullable: bool
    meaning: str


def _column(name: str, dtype: type[pl.DataType] | pl.DataType, meaning: str, *, nullable: bool = False) -> Column:
    return Column(name, dtype if isinstance(dtype, pl.DataType) else dtype(), nullable, meaning)


QUERY_ID = _column("query_id", pl.String, "first 16 hex digits of the SHA-256 of the query's text")
QUERY = _column("query", pl.String, "the writing request")
LANGUAGE = _column("language", pl.String, "language code of the query, such as en or zh")
ROUND = _column("round", pl.Int32, "round of the semi-online loop, from 1")

SEED_COLUMNS = (
    QUERY_ID,
    QUERY,
    _column("reference", pl.String, "a reference document; null where the source has none", nullable=True),
    LANGUAGE,
    _column("source", pl.String, "where the row came from: file name or dataset@revision"),
)
QUERIES_COLUMNS = (
    QUERY_ID,
    QUERY,
    LANGUAGE,
    ROUND,
    _column("example_ids", pl.List(pl.String), "query_id of the seeds shown to the generator"),
    _column("generator", pl.String, "model@revision that wrote the query"),
)
GROUPS_COLUMNS = (
    QUERY_ID,
    QUERY,
    ROUND,
    _column("response_id", pl.String, "{query_id}-{j}, j = 0 … m-1 within the query's group"),
    _column("response", pl.String, "the whole response as sampled, special tokens removed"),
    _column("summary", pl.String, "text between the summary tags; null where unmatched", nullable=True),
    _column("outline", pl.String, "text between the outline tags; null where unmatched", nullable=True),
    _column("document", pl.String, "text between the answer tags; null where unmatched", nullable=True),
    _column("matched", pl.Boolean, "whether the response has the tagged form (§3.3)"),
    _column("finish_reason", pl.String, "stop (an end token was sampled) or length (cut at the limit)"),
    _column("num_tokens", pl.Int32, "tokens of the response, the end token included"),
    _column(
        "logprob",
        pl.Float64,
        "sum of the tokens' log-probabilities in nats under the policy, before temperature and top-p; null if unknown",
        nullable=True,
    ),
    _column("sample_seed", pl.Int64, "seed of this response's random draws"),
    _column("policy", pl.String, "model@revision that wrote the response"),
)


def _metric(name: str, meaning: str) -> Column:
    return _column(name, pl.Float64, f"{meaning}; null where unmatched", nullable=True)


_SIMILARITIES = tuple(
    _metric(f"{kind}_{part}", f"BGE-M3 {label} similarity of query and {part} (eq. {equation})")
    for part in ("summary", "document")
    for kind, label, equation in (
        ("dense", "dense", 13),
        ("lexical", "lexical", 14),
        ("multivector", "multi-vector", 15),
    )
)
SCORE_COLUMNS = (
    _column("length", pl.Int32, "L: tokens of the document, ≥ 1 (eq. 1); null where unmatched", nullable=True),
    _metric("diversity", "E: 100 · distinct n-grams / n-grams, 0 to 100 (eq. 2)"),
    _metric("ppl_general", "perplexity of the document under the general model, ≥ 1; null too for one token"),
    _metric("ppl_domain", "perplexity of the document under the domain model, ≥ 1; null too for one token"),
    _metric("professionalism", "P: w_G·ppl_general − w_D·ppl_domain (eq. 3)"),
    *_SIMILARITIES[:3],
    _metric("relevance_summary", "R_s: weighted sum of the summary's three similarities (eq. 4)"),
    *_SIMILARITIES[3:],
    _metric("relevance_document", "R_d: weighted sum of the document's three similarities (eq. 4)"),
)


def _rank(metric: str, best: str = "high") -> Column:
    return _metric(f"rank_{metric}", f"rank by {metric} in the group, 1 best ({best} is better), ties share the mean")


WEIGHT_COLUMNS = (
    _rank("length"),
    _rank("diversity"),
    _rank("professionalism"),
    _rank("relevance_document"),
    _rank("relevance_summary"),
    _rank("ppl_domain", "low"),
    _metric("rank_sum", "rho: weighted sum of the ranks, low is better (eq. 5)"),
    _metric("reward", "z: −rho standardised in the group, 0 where its deviation is 0 (eq. 6–7)"),
    _column("weight", pl.Float64, "W: signed weight of the row in the loss (eq. 8–9); −1 where unmatched"),
    _column("label", pl.Boolean, "whether the row is positive, W ≥ 0 (eq. 10); False where unmatched"),
    _column("prompt", MESSAGES, "the messages that were answered, TRL's conversational form"),
    _column("completion", MESSAGES, "the response as one assistant message"),
)
SCORES_COLUMNS = GROUPS_COLUMNS + SCORE_COLUMNS
WEIGHTS_COLUMNS = SCORES_COLUMNS + WEIGHT_COLUMNS

RANKED = ("length", "diversity", "professionalism", "relevance_document", "relevance_summary", "ppl_domain")
METRICS = tuple(column.name for column in SCORE_COLUMNS)


def polars_schema(columns: Sequence[Column]) -> pl.Schema:
    """The columns as a polars schema, in order."""
    return pl.Schema({column.name: column.dtype for column in columns})


def frame_of(rows: Sequence[dict[str, object]], columns: Sequence[Column]) -> pl.DataFrame:
    """Rows as a frame with exactly these columns; a missing key or a wrong type raises."""
    # By column: from rows polars fills what is missing with null and turns numbers into text.
    values = {c.name: [row[c.name] for row in rows] for c in columns}
    return pl.DataFrame(values, schema=polars_schema(columns), strict=True)


def _kind(dtype: pl.DataType) -> str:
    if dtype.is_integer():
        return "integer"
    if dtype.is_float():
        return "float"
    return "nested" if dtype.is_nested() else str(dtype)


def require_columns(found: pl.Schema, columns: Sequence[Column], what: str) -> None:
    """Check that a dataset has these columns with these types (integer and float widths are free).

    Raises:
        UserError: naming the columns that are missing and those whose type differs.
    """
    missing = [c.name for c in columns if c.name not in found]
    wrong = [
        f"{c.name} is {found[c.name]}, not {c.dtype}"
        for c in columns
        if c.name in found and _kind(found[c.name]) != _kind(c.dtype)
    ]
    if missing or wrong:
        faults = ([f"missing {', '.join(missing)}"] if missing else []) + wrong
        raise UserError(f"{what} does not fit this stage: {'; '.join(faults)}; it needs {_listing(columns)}")


def _listing(columns: Sequence[Column]) -> str:
    return ", ".join(c.name for c in columns)


def check_frame(frame: pl.DataFrame, columns: Sequence[Column], what: str) -> None:
    """Check what a stage is about to write: exact schema, no null where none is allowed, no NaN or infinity.

    Raises:
        UserError: naming the column and the first offending row.
    """
    if frame.schema != polars_schema(columns):
        raise TypeError(f"{what}: columns {frame.schema} are not the contract's {polars_schema(columns)}")
    for column in columns:
        values = frame[column.name]
        if not column.nullable and values.null_count():
            raise UserError(f"{what}: {column.name} is null in {_row_name(frame, values.is_null())}, a value is needed")
        if column.dtype.is_float() and not values.drop_nulls().is_finite().all():
            bad = ~values.is_finite().fill_null(True)
            value = values.filter(bad)[0]
            raise UserError(
                f"{what}: {column.name} is {'NaN' if math.isnan(value) else value} in {_row_name(frame, bad)}; "
                "metrics must be finite: look at that text and at the model that scored it"
            )


def _row_name(frame: pl.DataFrame, bad: pl.Series) -> str:
    key = next((k for k in ("response_id", "query_id") if k in frame.columns), None)
    index = int(bad.arg_true()[0])
    return f"row {index}" if key is None else f"{key} {frame[key][index]}"
