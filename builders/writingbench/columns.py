"""The data contract of WritingBench: every dataset's columns, defined once."""

import polars as pl

from builders.rubrics.columns import CRITERIA, CRITERIA_WRITER, CRITERION, CRITERION_NAME, QUERY_ID, RESPONSE_ID
from builders.store.columns import MESSAGES, column

# Columns that several datasets share.
DOMAIN = column("domain", pl.String, "domain of the writing task")
SUBDOMAIN = column("subdomain", pl.String, "subdomain of the writing task")
LANGUAGE = column("language", pl.String, "language code, such as en or zh")
QUERY = column("query", pl.String, "the whole query: the refined request, and below it the material, if there is any")
RESPONSE = column("response", pl.String, "the response, without special tokens and a thinking block before it")

# Stage `taxonomy`.
TAXONOMY_COLUMNS = (
    column("subdomain_id", pl.String, "first 16 hex digits of the SHA-256 of domain, subdomain and language"),
    DOMAIN,
    SUBDOMAIN,
    LANGUAGE,
    column("description", pl.String, "what texts of this kind are; null where the source says nothing", nullable=True),
    column("source", pl.String, "where the row came from: file name or dataset@revision"),
)
# Stage `request`.
REQUEST_COLUMNS = (
    column("request_id", pl.String, "{subdomain_id}-{j}, j = 0 … n-1 within the subdomain and language"),
    column("request", pl.String, "the initial writing request"),
    DOMAIN,
    SUBDOMAIN,
    LANGUAGE,
    column("writer", pl.String, "model@revision that wrote the request"),
)
# Stage `refine`.
QUERIES_COLUMNS = (
    QUERY_ID,
    QUERY,
    DOMAIN,
    SUBDOMAIN,
    LANGUAGE,
    column("request_id", pl.String, "the initial request's"),
    column("request", pl.String, "the initial writing request"),
    column("refined", pl.String, "the request after refinement, without material"),
    column(
        "requirements",
        pl.List(pl.String),
        "guidance that was drawn: length, format, style, personalisation, content, brevity",
    ),
    column("materials", pl.List(pl.String), "what material the request needs, as the teacher lists it; may be empty"),
    column("material", pl.String, "the material that was written; null for none", nullable=True),
    column("refiner", pl.String, "model@revision that refined the request and wrote the material"),
)
# Stage `criteria` keeps all columns of its parent.
CRITERIA_COLUMNS = (
    *QUERIES_COLUMNS,
    CRITERIA,
    CRITERIA_WRITER,
)
# Stage `benchmark` takes the place of `criteria`.
REQUIRED = pl.Struct({"requirement": pl.String, "criterion": pl.String})
BENCHMARK_COLUMNS = (
    QUERY_ID,
    column("query", pl.String, "the benchmark's query, its material included"),
    DOMAIN,
    SUBDOMAIN,
    LANGUAGE,
    column("criteria", pl.List(CRITERION), "the benchmark's checklist, or its fixed dimensions, with their bands"),
    column("index", pl.Int64, "number of the query in the benchmark"),
    column("requirements", pl.List(pl.String), "subsets that the query is in: style, format, length"),
    column("required_criteria", pl.List(REQUIRED), "criteria of the query that ask for a requirement"),
    column(
        "words", pl.Int64, "words asked for, of Chinese characters; null where the benchmark says none", nullable=True
    ),
)
# Stage `respond`.
RESPONSES_COLUMNS = (
    QUERY_ID,
    QUERY,
    DOMAIN,
    SUBDOMAIN,
    LANGUAGE,
    RESPONSE_ID,
    RESPONSE,
    column("finish_reason", pl.String, "stop (an end token was sampled) or length (cut at the limit)"),
    column("num_tokens", pl.Int32, "tokens that were sampled, a thinking block and the end token included"),
    column("sample_seed", pl.Int64, "seed of this response's random draws"),
    column("policy", pl.String, "model@revision that wrote the response"),
)
# Stage `select`.
SELECT_COLUMNS = (
    *RESPONSES_COLUMNS[:7],
    column("score", pl.Float64, "mean of all ratings of the response, 1 to 10"),
    column("policy", pl.String, "model@revision that wrote the response"),
    column("prompt", MESSAGES, "the query as one user message, TRL's conversational form"),
    column("completion", MESSAGES, "the response as one assistant message"),
)
# Stage `critique`.
CRITIC_COLUMNS = (
    QUERY_ID,
    RESPONSE_ID,
    CRITERION_NAME,
    column("score", pl.Int32, "1 (worst) to 10"),
    column("reason", pl.String, "the judge's reason; null where it gave none", nullable=True),
    column("split", pl.String, "train or test; a query is in one of them alone"),
    column("judge", pl.String, "model@revision that rated"),
    column("prompt", MESSAGES, "what a judge is asked: query, response and criterion"),
    column("completion", MESSAGES, "score and reason as JSON, one assistant message"),
)
