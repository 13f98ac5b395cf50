"""Stage `score`: the raw metrics of every matched response (eq. 1–4); null, never 0, on unmatched rows.

One row is the parent's with, for example::

    {"length": 61, "diversity": 97.4, "ppl_general": 8.1, "ppl_domain": 7.6, "professionalism": 0.5,
     "dense_summary": 0.71, "lexical_summary": 0.2, "multivector_summary": 0.64, "relevance_summary": 1.41,
     "dense_document": 0.69, "lexical_document": 0.31, "multivector_document": 0.7, "relevance_document": 0.5}

With `score.rubric` there is one metric more, `rubric`, the mean of the ratings that the stage `rate` has of the
document.
"""

import logging
from collections.abc import Mapping

import polars as pl

from builders.core.stage import At, Context, Shard, ShardResult
from builders.grace_kto.columns import GROUPS_COLUMNS, RUBRIC, SCORE_COLUMNS, SCORES_COLUMNS
from builders.grace_kto.loading import Scorers, load_scorers
from builders.grace_kto.messages import system_prompts
from builders.grace_kto.pieces import pieces_of, read_piece
from builders.grace_kto.rows import check_texts
from builders.grace_kto.settings import GraceKTOSettings, RelevanceWeights, ScoreSettings
from builders.store.columns import polars_schema, present, require_columns
from builders.store.revision import Revision
from scorers.diversity import diversity
from scorers.errors import UserError
from scorers.length import lengths
from scorers.perplexity import Ids
from scorers.professionalism import professionalism
from scorers.relevance import RelevanceScores, combine

log = logging.getLogger(__name__)

ScoreContext = Context[GraceKTOSettings]
READ = polars_schema(GROUPS_COLUMNS)
# Of a shard's values. Its token ids take some ten times as much, and the multi-vectors of its queries lie on the GPU.
SHARD_BYTES = 64 * 2**20


def plan(context: ScoreContext) -> list[Shard]:
    """Plan one shard per file of the parent; files beyond `SHARD_BYTES` are cut into pieces.

    Raises:
        UserError: for a parent without the columns of `groups`, and for ratings of which none has a score.
    """
    parent = context.inputs["sample"]
    require_columns(parent.schema(), GROUPS_COLUMNS, str(parent))
    if (rated := context.inputs.get("rate")) is not None:
        check_ratings(rated)
    # A response is scored without the others of its group, which may stand in other files.
    pieces = pieces_of(parent.data_files(), READ, context.work / "pieces", piece_bytes=SHARD_BYTES, whole_groups=False)
    return [Shard(index, piece) for index, piece in enumerate(pieces)]


def build(context: ScoreContext, shard: Shard) -> ShardResult:
    """Score the matched rows of one piece; the metrics of the other rows are null."""
    parent = read_piece(shard.spec, READ).with_row_index("row")  # in a foreign dataset response_id may not be unique
    matched = parent.filter("matched")
    check_texts(matched, "score")
    scorers = load_scorers(context)
    # The scorer lives on from shard to shard and counts over all of them.
    cut_before = scorers.relevance.truncated
    scores = score_documents(
        matched["query"].to_list(),
        matched["summary"].to_list(),
        matched["document"].to_list(),
        scorers,
        context.config.score,
    )
    # A left join: unmatched rows keep their place and get null.
    scored = with_rubric(matched.select("row", "response_id").hstack(scores), context.inputs.get("rate"))
    frame = parent.join(scored.drop("response_id"), on="row", how="left", maintain_order="left")
    counts = {
        "read": parent.height,
        "scored": matched.height,
        "texts cut for relevance": scorers.relevance.truncated - cut_before,
    }
    return ShardResult(frame.select(c.name for c in present(SCORES_COLUMNS, frame.columns)), counts)


def ratings(config: GraceKTOSettings, round_: int) -> Mapping[str, At]:
    """Return the ratings that are read, where there are to be any."""
    return {"rate": At("rate")} if config.score.rubric else {}


def check_ratings(rated: Revision) -> None:
    """Check that there are ratings to rank by, and say how many could not be read.

    Raises:
        UserError: there is none.
    """
    rows, scored = rated.scan().select(pl.len(), pl.col("score").count().alias("scored")).collect().row(0)
    if not scored:
        raise UserError(
            f"{rated}: none of {rows} ratings has a score, so that score.rubric would count for nothing; look at the "
            "judge's replies (models.judge, rate.prompt) and at the criteria, or set score.rubric to false"
        )
    if scored < rows:
        log.warning("score: %d of %d ratings could not be read; they count neither for nor against a document",
                    rows - scored, rows)  # fmt: skip


def with_rubric(scores: pl.DataFrame, ratings: Revision | None) -> pl.DataFrame:
    """Add the column `rubric`: the mean of all ratings of a response, null without one; nothing without ratings."""
    if ratings is None:
        return scores
    own = pl.col("response_id").is_in(scores["response_id"].unique().to_list())
    means = (
        ratings.scan().filter(own).group_by("response_id").agg(pl.col("score").cast(pl.Float64).mean().alias(RUBRIC))
    )
    return scores.join(means.collect(), on="response_id", how="left", maintain_order="left")


def score_documents(
    queries: list[str], summaries: list[str], documents: list[str], scorers: Scorers, settings: ScoreSettings
) -> pl.DataFrame:
    """Compute all metrics of matched responses.

    Args:
        queries: the query of each response.
        summaries: the summary of each response.
        documents: the document of each response.
        scorers: the loaded models.
        settings: n of the n-grams, weights of the sums.

    Returns:
        One row per response, in the order given, with the columns `SCORE_COLUMNS` but for `rubric`.
    """
    token_ids = scorers.tokenizer(documents, add_special_tokens=False)["input_ids"] if documents else []
    known: dict[str, Ids] = {}  # language models of one tokenizer family share the tokens
    general = scorers.general.score(documents, known)
    domain = scorers.domain.score(documents, known)
    known.clear()
    # Types are stated, since polars cannot infer them from empty or all-null columns.
    frame = pl.DataFrame(
        {
            "length": lengths(token_ids),
            "diversity": diversity(token_ids, settings.ngram),
            "ppl_general": general,
            "ppl_domain": domain,
            "professionalism": professionalism(general, domain, settings.general_weight, settings.domain_weight),
        },
        schema_overrides={
            "length": pl.Int32,
            "diversity": pl.Float64,
            "ppl_general": pl.Float64,
            "ppl_domain": pl.Float64,
            "professionalism": pl.Float64,
        },
    )
    # Summaries and documents in one call, so that equal queries are embedded once.
    both = scorers.relevance.score(queries * 2, summaries + documents)
    similarities = pl.DataFrame(both._asdict(), schema=dict.fromkeys(both._fields, pl.Float64))
    # The first half of the pairs has the summaries, the second the documents.
    half = len(queries)
    frame = frame.hstack(relevance_columns(similarities[:half], "summary", settings.summary_relevance))
    frame = frame.hstack(relevance_columns(similarities[half:], "document", settings.document_relevance))
    columns = present(SCORE_COLUMNS, frame.columns)
    return frame.select(c.name for c in columns).cast(polars_schema(columns))


def relevance_columns(similarities: pl.DataFrame, part: str, weights: RelevanceWeights) -> pl.DataFrame:
    """Return the three similarities of one part and their weighted sum (eq. 4).

    The sum is not divided by the sum of the weights.

    Args:
        similarities: columns dense, lexical and multivector.
        part: `summary` or `document`, which ends the columns' names.
        weights: the weight of each similarity.
    """
    dense, lexical, multivector = (pl.col(kind) for kind in RelevanceScores._fields)
    relevance = combine(dense, lexical, multivector, (weights.dense, weights.lexical, weights.multivector))
    renamed = (similarity.name.suffix(f"_{part}") for similarity in (dense, lexical, multivector))
    return similarities.select(*renamed, relevance.alias(f"relevance_{part}"))


def prompts(config: GraceKTOSettings, inputs: Mapping[str, Revision]) -> dict[str, str]:
    """Return the system prompt under which the responses were sampled, as the groups' manifest has it."""
    return system_prompts(config, inputs["sample"].manifest)
