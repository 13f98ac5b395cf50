"""The data contract of GRACE-KTO: every dataset's columns, defined once.

The dataset cards print the ranges and units given here. A weights row, cut short::

    {"query_id": "8f1c…", "query": "Please write a report titled …", "round": 1, "response_id": "8f1c…-3",
     "matched": True, "length": 61, "diversity": 97.4, "rank_length": 2.5, "rank_sum": 17.9, "reward": 0.83,
     "weight": 1.12, "label": True, "prompt": [{"role": "user", "content": "…"}], …}
"""

import polars as pl

from builders.rubrics.columns import CRITERIA, CRITERIA_WRITER, QUERY_ID
from builders.store.columns import MESSAGES, Column, column

# Columns that several datasets share.
QUERY = column("query", pl.String, "the writing request")
LANGUAGE = column("language", pl.String, "language code of the query, such as en or zh")
ROUND = column("round", pl.Int32, "round of the semi-online loop, from 1")

# Stage `seed`.
SEED_COLUMNS = (
    QUERY_ID,
    QUERY,
    column("reference", pl.String, "a reference document; null where the source has none", nullable=True),
    LANGUAGE,
    column("source", pl.String, "where the row came from: file name or dataset@revision"),
)
# Stage `format` keeps the seeds that have a document and adds these.
FORMAT_COLUMNS = (
    QUERY_ID,
    QUERY,
    column("reference", pl.String, "the reference document, as the seed has it"),
    *SEED_COLUMNS[3:],
    column("summary", pl.String, "the document's summary: the formatter's, or that of a reference with tags"),
    column("outline", pl.String, "the document's outline: the formatter's, or that of a reference with tags"),
    column("attempts", pl.Int32, "replies asked for, the last of them used; 0 for a reference with tags"),
    column(
        "formatter",
        pl.String,
        "model@revision that wrote summary and outline; null for a reference with tags",
        nullable=True,
    ),
    column("prompt", MESSAGES, "the messages that the document answers, TRL's conversational form"),
    column("completion", MESSAGES, "the document in the tagged form as one assistant message"),
)
# Stage `generate`.
QUERIES_COLUMNS = (
    QUERY_ID,
    QUERY,
    LANGUAGE,
    ROUND,
    column("example_ids", pl.List(pl.String), "query_id of the seeds shown to the generator"),
    column("generator", pl.String, "model@revision that wrote the query"),
)
# Stage `sample`.
GROUPS_COLUMNS = (
    QUERY_ID,
    QUERY,
    ROUND,
    column("response_id", pl.String, "{query_id}-{j}, j = 0 … m-1 within the query's group"),
    column("response", pl.String, "the response as sampled, without special tokens and a thinking block before it"),
    column("summary", pl.String, "text between the summary tags; null where unmatched", nullable=True),
    column("outline", pl.String, "text between the outline tags; null where unmatched", nullable=True),
    column("document", pl.String, "text between the answer tags; null where unmatched", nullable=True),
    column("matched", pl.Boolean, "whether the response has the tagged form (§3.3)"),
    column("finish_reason", pl.String, "stop (an end token was sampled) or length (cut at the limit)"),
    column("num_tokens", pl.Int32, "tokens that were sampled, a thinking block and the end token included"),
    column(
        "logprob",
        pl.Float64,
        "sum of the tokens' log-probabilities in nats under the policy, before temperature and top-p; null if unknown "
        "or where a thinking block was cut",
        nullable=True,
    ),
    column("sample_seed", pl.Int64, "seed of this response's random draws"),
    column("policy", pl.String, "model@revision that wrote the response"),
)


# Stage `criteria`.
CRITERIA_COLUMNS = (QUERY_ID, QUERY, LANGUAGE, ROUND, CRITERIA, CRITERIA_WRITER)

RUBRIC = "rubric"
"""The metric that a dataset has where `score.rubric` was true."""


def _metric(name: str, meaning: str) -> Column:
    """A float column that is null where the response is unmatched."""
    return column(name, pl.Float64, f"{meaning}; null where unmatched", nullable=True)


# The six raw similarities: first the summary's three, then the document's.
_SIMILARITIES = tuple(
    _metric(f"{kind}_{part}", f"BGE-M3 {label} similarity of query and {part} (eq. {equation})")
    for part in ("summary", "document")
    for kind, label, equation in (
        ("dense", "dense", 13),
        ("lexical", "lexical", 14),
        ("multivector", "multi-vector", 15),
    )
)
# Stage `score` adds these.
SCORE_COLUMNS = (
    column("length", pl.Int32, "L: tokens of the document, ≥ 1 (eq. 1); null where unmatched", nullable=True),
    _metric("diversity", "E: 100 · distinct n-grams / n-grams, 0 to 100 (eq. 2)"),
    _metric("ppl_general", "perplexity of the document under the general model, ≥ 1; null too for one token"),
    _metric("ppl_domain", "perplexity of the document under the domain model, ≥ 1; null too for one token"),
    _metric("professionalism", "P: w_G·ppl_general − w_D·ppl_domain (eq. 3)"),
    *_SIMILARITIES[:3],
    _metric("relevance_summary", "R_s: weighted sum of the summary's three similarities (eq. 4)"),
    *_SIMILARITIES[3:],
    _metric("relevance_document", "R_d: weighted sum of the document's three similarities (eq. 4)"),
    column(
        RUBRIC,
        pl.Float64,
        "mean of a judge's ratings of the document by the criteria of its query, 1 to 10; null where unmatched, and "
        "where no rating could be read",
        nullable=True,
        optional=True,
    ),
)


def _rank(metric: str, best: str = "high") -> Column:
    """The column of one metric's rank in its group; `best` is the end of the scale that gets rank 1."""
    return _metric(f"rank_{metric}", f"rank by {metric} in the group, 1 best ({best} is better), ties share the mean")


# Stage `calibrate` adds these.
WEIGHT_COLUMNS = (
    _rank("length"),
    _rank("diversity"),
    _rank("professionalism"),
    _rank("relevance_document"),
    _rank("relevance_summary"),
    _rank("ppl_domain", "low"),
    column(
        f"rank_{RUBRIC}",
        pl.Float64,
        "rank by rubric in the group, 1 best (high is better), ties share the mean; a response without a rating has "
        "the mean rank of the others; null where unmatched",
        nullable=True,
        optional=True,
    ),
    _metric("rank_sum", "rho: weighted sum of the ranks, low is better (eq. 5)"),
    _metric("reward", "z: −rho standardised in the group, 0 where its deviation is 0 (eq. 6–7)"),
    column("weight", pl.Float64, "W: signed weight of the row in the loss (eq. 8–9); −1 where unmatched"),
    column("label", pl.Boolean, "whether the row is positive, W ≥ 0 (eq. 10); False where unmatched"),
    column("prompt", MESSAGES, "the messages that were answered, TRL's conversational form"),
    column("completion", MESSAGES, "the response as one assistant message"),
)
# The datasets of `score` and `calibrate` keep all columns of their parent.
SCORES_COLUMNS = GROUPS_COLUMNS + SCORE_COLUMNS
WEIGHTS_COLUMNS = SCORES_COLUMNS + WEIGHT_COLUMNS

# The metrics of the rank sum (eq. 5), in the order of the rank columns; `RUBRIC` comes last where a dataset has it.
RANKED = ("length", "diversity", "professionalism", "relevance_document", "relevance_summary", "ppl_domain")
METRICS = tuple(column_.name for column_ in SCORE_COLUMNS)
