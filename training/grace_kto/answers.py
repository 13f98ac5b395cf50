"""The dataset stage `answers`: what a policy answers to the held-out queries, with the metrics of stage `score`.

Every policy answers the same queries with the same seeds, and its answers are scored as the score stage scores
responses, so a row is one of `-scores`; in the generated world it has that world's own measures too. A query that
leaves no room for an answer counts as one whose answers do not match. `grace evaluate` builds one for each policy.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from builders.cards.card import Card
from builders.core import sources
from builders.core.draws import derive_seed, query_id
from builders.core.machine import local_engine, require_engine
from builders.core.models import LocalModel, load_engine_for, on_disk, require_policy
from builders.core.prompting import chat
from builders.core.replies import begins_in_block, replies_depend_on
from builders.core.stage import Context, FindModel, Shard, ShardResult, Source, Stage
from builders.core.tables import NoColumn, read_columns
from builders.engines import Completion, SamplingSettings
from builders.grace_kto import roles, sample
from builders.grace_kto.card import facts, recipe
from builders.grace_kto.columns import RUBRIC, SCORE_COLUMNS, SCORES_COLUMNS
from builders.grace_kto.languages import system_for
from builders.grace_kto.loading import load_scorers
from builders.grace_kto.messages import system_prompts
from builders.grace_kto.ready import score_ready, trial_prompts
from builders.grace_kto.sample import read_response, sampling_counts
from builders.grace_kto.score import score_documents
from builders.grace_kto.settings import EvaluateSettings, GraceKTOSettings
from builders.grace_kto.stages import scoring_depends_on
from builders.store.columns import Column, column, frame_of, polars_schema, present
from builders.store.revision import Choice, Revision
from builders.store.store import Store
from scorers.errors import UserError
from scorers.extraction import Extraction
from training.grace_kto.evaluation import COLUMNS, MEASURES

log = logging.getLogger(__name__)

FINISH_REASON = column(
    "finish_reason",
    pl.String,
    "stop (an end token was sampled) or length (cut at the limit); null where the query leaves no room for an answer",
    nullable=True,
)
ANSWERED = tuple(
    FINISH_REASON if c.name == "finish_reason" else c
    for c in SCORES_COLUMNS
    if c.name not in polars_schema(SCORE_COLUMNS)
)
"""The columns of a sampled response."""


def _measure(name: str, meaning: str) -> Column:
    """A share in [0, 1] that only answers to queries of the generated world have."""
    return column(
        name, pl.Float64, f"{meaning}, 0 to 1; null where there is none to count", nullable=True, optional=True
    )


ANSWERS_COLUMNS = (
    *ANSWERED,
    *(c for c in SCORE_COLUMNS if c.name != RUBRIC),
    _measure("grammaticality", "share of the document's sentences that the generated world's grammar knows"),
    _measure("duplicate_sentences", "share of the document's sentences that occurred earlier in it"),
    _measure("on_topic", "share of the document's topic terms that belong to the query's topic"),
    _measure("heading_coverage", "share of the query's sections that are headings of the document"),
)


def source_stage(config: GraceKTOSettings, round_: int) -> dict[str, str]:
    """Return the held-out source under the name `source`; it becomes a parent where it is the name of a stage."""
    return {"source": config.evaluate.source}


def source_of(config: GraceKTOSettings, require_pinned: bool = False) -> Source:
    """Return what the stage reads, see `builders.core.sources.source_of`."""
    settings = config.evaluate
    choice = Choice(settings.subset, settings.split)
    return sources.source_of(settings.source, Store(Path(config.store)), choice, require_pinned=require_pinned)


def queries_of(settings: EvaluateSettings, source: Path | pl.LazyFrame) -> list[str]:
    """Return the held-out queries: `queries` distinct texts of the source, after the first `skip`.

    Raises:
        UserError: the column is missing, or no query is left.
    """
    try:
        frames = list(read_columns(source, [settings.column], f"evaluate.source {settings.source}"))
    except NoColumn as error:
        raise UserError(f"{error}; set evaluate.column") from None
    texts = pl.concat([pl.DataFrame(schema={settings.column: pl.String}), *frames])[settings.column].str.strip_chars()
    # In the order of the source, so that `skip` and `queries` always mean the same texts.
    distinct = texts.filter(texts != "").unique(maintain_order=True)
    queries = distinct.slice(settings.skip, settings.queries).to_list()
    if not queries:
        raise UserError(
            f"evaluate.source {settings.source} holds no query after the first {settings.skip}; give another source "
            "or a smaller evaluate.skip"
        )
    return queries


def stem(config: GraceKTOSettings) -> str:
    """Return the beginning of the names of a policy's datasets: the run's name and the policy's label."""
    return config.name if config.evaluate.label is None else f"{config.name}-{config.evaluate.label}"


def prompts(config: GraceKTOSettings, inputs: Mapping[str, Revision]) -> dict[str, str]:
    """Return the system prompts that ask for the tagged form, by name; empty for none."""
    return system_prompts(config, None)


def ready(config: GraceKTOSettings, find: FindModel) -> None:
    """Check what answering and scoring need of machine and models.

    Raises:
        UserError: as `require_engine`, `score_ready` and `require_policy`.
    """
    engine = local_engine("engines.policy", config.engines.policy, "evaluate")
    require_engine("engines.policy", engine)
    score_ready(config, find)
    found = find(roles.evaluated(config, 0))
    if found is not None:
        require_policy(engine, on_disk(found, "evaluate"), trial_prompts(config, system=True))


def plan(context: Context[GraceKTOSettings]) -> list[Shard]:
    """Plan one shard: policy and scorers take turns in memory."""
    return [Shard(0, None)]


def build(context: Context[GraceKTOSettings], shard: Shard) -> ShardResult:
    """Let the policy answer every query and score the answers that match.

    Raises:
        UserError: no query leaves room for an answer, or a metric is NaN or infinite.
    """
    config, policy = context.config, context.local("evaluated")
    parent = context.inputs.get("source")
    queries = queries_of(config.evaluate, Path(config.evaluate.source) if parent is None else parent.scan())
    log.info("evaluate: %s", policy.record)
    answers = frame_of(answer_rows(config, policy, queries), ANSWERED)
    matched = answers.with_row_index("row").filter("matched")
    asked, summaries, documents = (matched[name].to_list() for name in ("query", "summary", "document"))
    scores = score_documents(asked, summaries, documents, load_scorers(context), config.score)
    if config.score.engine == "vllm":
        # The next policy needs the GPU's memory; and in one process vLLM's models end together.
        context.loaded.keep([context.models["relevance"]])
    require_finite({label: scores[name] for label, name in COLUMNS.items()}, str(policy.record))
    # A source that is a stage is the generated world's: its own measures can read the queries.
    if config.evaluate.source.startswith("world:"):
        scores = scores.hstack(world_measures(asked, documents))
    frame = answers.with_row_index("row").join(
        matched.select("row").hstack(scores), on="row", how="left", maintain_order="left"
    )
    counts = {"read": len(queries), **sampling_counts(answers)}
    return ShardResult(frame.select(c.name for c in present(ANSWERS_COLUMNS, frame.columns)), counts)


def answer_rows(config: GraceKTOSettings, policy: LocalModel, queries: Sequence[str]) -> list[dict[str, object]]:
    """Sample answers as `answer_queries`, take each apart, and return them as rows with the columns `ANSWERED`."""
    completions, opened = answer_queries(config, policy, queries)
    asked = [(query, number) for query in queries for number in range(config.evaluate.responses)]
    rows: list[dict[str, object]] = []
    for (query, number), completion in zip(asked, completions, strict=True):
        response, parts, thought = read_response(
            "" if completion is None else completion.text, config.sample.thinking_tags, opened=opened
        )
        rows.append(
            {
                "query_id": query_id(query),
                "query": query,
                "round": 0,
                "response_id": f"{query_id(query)}-{number}",
                "response": response,
                "summary": parts and parts.summary,
                "outline": parts and parts.outline,
                "document": parts and parts.document,
                "matched": parts is not None,
                "finish_reason": completion and completion.finish_reason,
                "num_tokens": 0 if completion is None else completion.num_tokens,
                "logprob": None if completion is None or thought == "cut" else completion.logprob,
                "sample_seed": derive_seed(config.random_seed, *_draw(query, number)),
                "policy": str(policy.record),
            }
        )
    return rows


def read_answers(
    config: GraceKTOSettings, policy: LocalModel, queries: Sequence[str]
) -> tuple[list[Completion | None], list[Extraction | None]]:
    """Sample answers as `answer_queries`, and take each apart; None for one without the tagged form."""
    completions, opened = answer_queries(config, policy, queries)
    tags = config.sample.thinking_tags
    return completions, [
        None if completion is None else read_response(completion.text, tags, opened=opened)[1]
        for completion in completions
    ]


def answer_queries(
    config: GraceKTOSettings, policy: LocalModel, queries: Sequence[str]
) -> tuple[list[Completion | None], bool]:
    """Sample `evaluate.responses` answers per query, with the temperature and top-p of `evaluate`.

    Each draw is seeded with its query and its number, so that an answer does not depend on the other queries.

    Returns:
        The completions, those of one query together; None for a query that leaves no room for one. And whether each
        begins inside a thinking block that the template opens.
    """
    settings = config.evaluate
    engine = load_engine_for(config.engines.policy, policy, config.adapter_rank("policy"))
    system = system_prompts(config, None)
    try:
        room = [query for query in queries if sample.fits(engine, query, config)]
        if len(room) < len(queries):
            log.warning(
                "evaluate: %d of %d held-out queries count as not matched: they leave no room for sample.max_new_tokens"
                " %d in the policy's context window of %d tokens",
                *(len(queries) - len(room), len(queries), config.sample.max_new_tokens, engine.context_window),
            )
        if not room:
            raise sample.nothing_fits(engine, config, f"evaluate: none of {len(queries)} held-out queries")
        messages = [chat(query, system=system_for(query, system)) for query in room]
        numbers = range(settings.responses)
        completions = engine.generate(
            [message for message in messages for _ in numbers],
            [derive_seed(config.random_seed, *_draw(query, number)) for query in room for number in numbers],
            SamplingSettings(
                max_new_tokens=config.sample.max_new_tokens,
                temperature=settings.temperature,
                top_p=settings.top_p,
                stop=config.sample.stop,
            ),
        )
        tags, template_kwargs = config.sample.thinking_tags, config.engines.policy.chat_template_kwargs
        opened = begins_in_block(engine, messages, tags, template_kwargs)
    finally:
        # Only one policy is in memory at a time; the scorers need the room.
        engine.close()
    answered = iter(completions)
    fitting = set(room)
    return [next(answered) if query in fitting else None for query in queries for _ in numbers], opened


def _draw(query: str, number: int) -> tuple[str | int, ...]:
    """What an answer's seed follows from; the first answer's does not say its number, and so is that of one alone."""
    return ("evaluate", query_id(query), *((number,) if number else ()))


def world_measures(queries: Sequence[str], documents: Sequence[str]) -> pl.DataFrame:
    """Return the generated world's own measures, which no reward contains.

    Args:
        queries: of matched answers.
        documents: theirs.

    Returns:
        One column per measure, a value per document; null where a measure does not apply.
    """
    from training.world.measures import measures

    rows = [measures(query, document) for query, document in zip(queries, documents, strict=True)]
    return pl.DataFrame(
        {name: [row[name] for row in rows] for name in MEASURES}, schema=dict.fromkeys(MEASURES, pl.Float64)
    )


def require_finite(metrics: Mapping[str, pl.Series], policy: str) -> None:
    """Check metrics, by label, for NaN and infinity; nulls are allowed.

    Raises:
        UserError: a value is not finite; the message names the metric and the matched response.
    """
    for label, values in metrics.items():
        bad = ~values.is_finite().fill_null(True)
        if bad.any():
            raise UserError(
                f"evaluation of {policy}: {label} is {values.filter(bad)[0]} for matched response {bad.arg_true()[0]}, "
                "counted from 0; look at the model that scored it"
            )


ANSWERS = Stage(
    name="answers",
    kind="dataset",
    suffix="answers",
    version=1,
    also=source_stage,
    # The evaluated policy comes last: it may be an adapter of a folder that the others name.
    roles={
        "tokenizer": roles.tokenizer,
        "general": roles.general,
        "domain": roles.domain,
        "relevance": roles.relevance,
        "evaluated": roles.evaluated,
    },
    sections=("evaluate", "sample", "score", "engines.policy", "random_seed", "threads"),
    per_round=False,
    stem=stem,
    source=source_of,
    prompts=prompts,
    ready=ready,
    bytes_depend_on=lambda config: tuple(
        dict.fromkeys((*replies_depend_on(config, "policy"), *scoring_depends_on(config)))
    ),
    columns=ANSWERS_COLUMNS,
    plan=plan,
    build=build,
    summaries=tuple(COLUMNS.values()),
    card=Card(
        "grace_kto/answers.md.jinja",
        tags=("evaluation", "synthetic"),
        written=True,
        annotated=True,
        read="queries read",
        facts=facts,
        recipe=recipe,
        example="matched",
    ),
)
