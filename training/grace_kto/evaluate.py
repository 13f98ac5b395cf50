"""`grace evaluate`: compare policies on held-out queries (GRACE-KTO, tables 1 and 4, figures 1 and 3).

Every policy answers the same held-out queries once; the answers are scored as the score stage scores responses. Metrics
are means over matched responses, so the matched share and the share of responses cut at the length limit always stand
beside them. The average rank is over L, E, P, R_s and R_d, rank 1 is best. A row of the table, up to the shares:

    policy   L         E         P          R_s        R_d        avg. rank  matched  cut
    round 4  71.0 (1)  96.4 (5)  0.105 (3)  1.917 (1)  2.379 (1)  2.2        0.883    0.000

In the generated world, four measures that no reward contains are shown too: grammaticality, duplicate sentences,
on-topic share and heading coverage.
"""

import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import polars as pl

from builders.core.continued import continued
from builders.core.draws import derive_seed, query_id
from builders.core.machine import require_engine
from builders.core.models import LocalModel, ModelFinder, load_engine_for
from builders.core.pipeline import EvaluationTable
from builders.core.prompting import chat
from builders.core.run import materialise, run
from builders.core.stage import At, Context
from builders.core.tables import NoColumn, read_columns
from builders.engines import Completion, SamplingSettings
from builders.grace_kto import roles
from builders.grace_kto.languages import system_for
from builders.grace_kto.loading import load_scorers
from builders.grace_kto.messages import system_prompts
from builders.grace_kto.ready import score_ready
from builders.grace_kto.sample import begins_in_block, read_response
from builders.grace_kto.score import score_documents
from builders.grace_kto.seed import source_file
from builders.grace_kto.settings import GraceKTOSettings
from builders.grace_kto.stages import SCORE
from builders.hub.refs import open_revision
from builders.settings.base import identity
from builders.store.files import write_text
from builders.store.manifest import fingerprint_of, read_manifest
from builders.store.names import naming_near
from builders.store.ref import round_tag
from builders.store.revision import Choice
from builders.store.store import Store
from scorers.errors import UserError
from training.grace_kto.pipeline import GRACE_KTO
from training.grace_kto.policy import POLICY
from training.grace_kto.table import Evaluation, cautions, cells, draw, markdown_table, rank_policies, verdict

# Part of an evaluation's key in the store: raise it when the same inputs give other results.
VERSION = 2

log = logging.getLogger(__name__)

# The paper's symbols, and the columns of the score stage that they stand for.
COLUMNS = {
    "L": "length",
    "E": "diversity",
    "P": "professionalism",
    "R_s": "relevance_summary",
    "R_d": "relevance_document",
    "ppl_D": "ppl_domain",
}


def evaluate_policies(config: GraceKTOSettings, references: Sequence[str], output: Path) -> EvaluationTable:
    """Evaluate policies and write evaluation.json, evaluation.md and evaluation.png.

    Args:
        config: the configuration; its `evaluate` section names the held-out queries.
        references: REFs of policies; none for the first policy and that of every round in the store.
        output: folder to write into; it is made where it is missing.

    Returns:
        The comparison as it is printed, and all of it for machines.

    Raises:
        UserError: a policy or the held-out source is missing, or a metric is not finite.
    """
    store = Store(Path(config.store))
    # Mistakes and what the machine lacks are told at once, before a model is made or answers.
    require_folder(output)
    require_engine("engines.policy", config.engines.policy)
    score_ready(config, lambda name: None)  # the models are found below
    for text in references:
        _require_policy(text, config, store)
    queries = held_out_queries(config)
    models, finder = evaluation_models(config, first=not references)
    policies = named_policies(config, store, finder, references, models.pop("first", None))
    context = Context(config, store, 1, {}, models)
    try:
        evaluations = [_cached(context, name, policy, queries) for name, policy in policies]
    finally:
        # Free the scorers also where a policy fails.
        context.loaded.keep(())
    ranks, average = rank_policies(evaluations)
    records = [
        asdict(evaluation) | {"ranks": rank, "average_rank": mean}
        for evaluation, rank, mean in zip(evaluations, ranks, average, strict=True)
    ]
    header, rows = cells(evaluations, ranks, average)
    said, warned = verdict(evaluations), cautions(config, evaluations)
    lines = [said, *(f"Caution: {line}." for line in warned)]
    # Written last: a failure leaves an earlier comparison in the folder as it was.
    output.mkdir(parents=True, exist_ok=True)
    write_text(output / "evaluation.json", json.dumps(records, indent=1) + "\n")
    write_text(output / "evaluation.md", "\n".join([markdown_table(header, rows), *lines]) + "\n")
    draw(evaluations, output / "evaluation.png")
    return EvaluationTable(
        title=f"{len(queries)} held-out queries, means over matched responses (rank)",
        header=header,
        rows=rows,
        lines=lines,
        public={"policies": records, "verdict": said, "cautions": warned, "path": str(output)},
    )


def evaluation_models(config: GraceKTOSettings, *, first: bool = True) -> tuple[dict[str, LocalModel], ModelFinder]:
    """The models that an evaluation needs; models that are made by stages are built where they are missing.

    Args:
        config: the configuration.
        first: whether the first policy is needed too.

    Returns:
        The scorers by role, with `first` also the first policy; and the finder that knows them.
    """
    fills = {**SCORE.roles, **({"first": roles.first_policy} if first else {})}
    wanted: dict[str, str | At] = {role: fill(config, 1) for role, fill in fills.items()}
    return materialise(GRACE_KTO, config, wanted)


def held_out_queries(config: GraceKTOSettings) -> list[str]:
    """The held-out queries: `evaluate.queries` distinct texts of the held-out source, after the first `evaluate.skip`.

    The source is a dataset stage of the pipeline, such as `world:heldout`, or a table of the user's.

    Raises:
        UserError: the source or its column is missing, or no query is left.
    """
    settings = config.evaluate
    if GRACE_KTO.find(settings.source) is not None:
        source: Path | pl.LazyFrame = run(GRACE_KTO, config, settings.source)[-1].revision.scan()
    elif (file := source_file(settings.source)) is not None:
        source = file
    else:
        choice = Choice(settings.subset, settings.split)
        source = open_revision(settings.source, Store(Path(config.store)), "dataset", choice=choice).scan()
    try:
        frames = list(read_columns(source, [settings.column], f"evaluate.source {settings.source}"))
    except NoColumn as error:
        raise UserError(f"{error}; set evaluate.column") from None
    texts = pl.concat(frames)[settings.column].str.strip_chars()
    # In the order of the source, so that `skip` and `queries` always mean the same texts.
    distinct = texts.filter(texts != "").unique(maintain_order=True)
    queries = distinct.slice(settings.skip, settings.queries).to_list()
    if not queries:
        raise UserError(f"evaluate.source {settings.source} holds no query after the first {settings.skip}")
    return queries


def named_policies(
    config: GraceKTOSettings, store: Store, finder: ModelFinder, references: Sequence[str], first: LocalModel | None
) -> list[tuple[str, LocalModel]]:
    """The policies to compare, with their names in the table.

    Args:
        config: the configuration.
        store: the local store.
        finder: finds models by name.
        references: REFs of policies; none for the first policy and that of every round in the store.
        first: the first policy; None where it is not asked for.

    Raises:
        UserError: a REF stands for nothing.
    """
    if references:
        return [(text, _named(text, config, store, finder)) for text in references]
    found = [] if first is None else [("first", first)]
    for round_ in range(1, config.loop.rounds + 1):
        revision = continued(GRACE_KTO, config, store, POLICY.name, round_) or store.find(
            GRACE_KTO.repo(POLICY, config), round_tag(round_), "model"
        )
        if revision is not None:
            found.append((f"round {round_}", finder.of(revision)))
    return found


def require_folder(output: Path) -> None:
    """Check that a folder can be written into, or made.

    Raises:
        UserError: a file stands in its place, or in the place of a folder above it.
    """
    for path in (output, *output.parents):
        if path.is_dir():
            return
        if os.path.lexists(path):
            raise UserError(f"--output {output}: {path} is a file, a folder is needed; give another name")


def _require_policy(text: str, config: GraceKTOSettings, store: Store) -> None:
    """Check that a name stands for a policy that can be opened: a model stage, a folder, a revision.

    Raises:
        UserError: neither the store nor the Hub has it, or it is no model; the message names what is near.
    """
    stage = GRACE_KTO.find(text)
    if stage is not None and stage.kind == "model":
        if stage.per_round:
            example = f"{GRACE_KTO.repo(stage, config)}@{round_tag(1)}"
            raise UserError(
                f"policy {text}: each round has its own; give one of them, such as {example}, or none for all"
            )
        return
    if text and Path(text).is_dir() and read_manifest(Path(text)) is None:
        ModelFinder(store).find(text)
        return
    if Path(text).is_file():
        raise UserError(f"policy {text}: is a file; give the folder of a model, or namespace/name[@revision]")
    models = [stage.name for stage in GRACE_KTO.stages if stage.kind == "model"]
    with naming_near(text, store, ("model",), models):
        revision = open_revision(text, store, "model")
    if revision.manifest is not None and revision.manifest.kind != "model":
        raise UserError(f"policy {text}: is a {revision.manifest.kind}; give a model")


def _named(text: str, config: GraceKTOSettings, store: Store, finder: ModelFinder) -> LocalModel:
    """A policy by REF, by the name of a model stage, or as any model folder, also one that another program wrote."""
    stage = GRACE_KTO.find(text)
    if stage is not None and stage.kind == "model":
        return materialise(GRACE_KTO, config, {text: text}, finder)[0][text]
    if Path(text).is_dir() and read_manifest(Path(text)) is None:
        return finder.find(text)
    return finder.of(open_revision(text, store, "model"))


def _cached(context: Context[GraceKTOSettings], name: str, policy: LocalModel, queries: list[str]) -> Evaluation:
    """An evaluation from the store, or a new one that is kept there under everything that decides it."""
    config = context.config
    sections = {"evaluate": config.evaluate, "sample": config.sample, "score": config.score}
    key = fingerprint_of(
        {
            "version": VERSION,
            "policy": str(policy.record),
            "scorers": {role: str(model.record) for role, model in context.models.items()},
            "configuration": {name: identity(section) for name, section in sections.items()},
            "engine": identity(config.engines.policy),
            "system_prompts": system_prompts(config, None),
            "random_seed": config.random_seed,
            "threads": config.threads,
            "queries": queries,
        }
    )
    path = context.store.root / ".evaluations" / f"{key[:32]}.json"
    if path.is_file():
        # The name is no part of the key: one policy may be `first` here and a REF there.
        return Evaluation(**{**json.loads(path.read_text(encoding="utf-8")), "name": name})
    log.info("evaluate: %s, %s", name, policy.record)
    evaluation = evaluate(context, name, policy, queries)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(asdict(evaluation)))
    return evaluation


def evaluate(context: Context[GraceKTOSettings], name: str, policy: LocalModel, queries: list[str]) -> Evaluation:
    """Let a policy answer every query once and score the answers that match.

    Args:
        context: the configuration and the models of the score stage.
        name: the policy's name in the table.
        policy: the policy.
        queries: held-out queries.

    Returns:
        Means and standard errors over the matched answers, and the matched and cut shares of all answers.

    Raises:
        UserError: a metric is NaN or infinite.
    """
    config = context.config
    completions, opened = answer_queries(config, policy, queries)
    tags = config.sample.thinking_tags
    parts = [read_response(completion.text, tags, opened=opened)[1] for completion in completions]
    matched = [(query, part) for query, part in zip(queries, parts, strict=True) if part is not None]
    scores = score_documents(
        [query for query, _ in matched],
        [part.summary for _, part in matched],
        [part.document for _, part in matched],
        load_scorers(context),
        config.score,
    )
    columns = {label: scores[column].cast(pl.Float64) for label, column in COLUMNS.items()}
    check_finite(columns, name)
    # A source that is a stage is the generated world's: its own measures can read the queries.
    if config.evaluate.source.startswith("world:"):
        columns |= world_columns([(query, part.document) for query, part in matched])
    return Evaluation(
        name=name,
        policy=str(policy.record),
        queries=len(queries),
        matched=len(matched) / len(queries),
        cut=sum(completion.finish_reason == "length" for completion in completions) / len(queries),
        means={label: _mean(values) for label, values in columns.items()},
        errors={label: _standard_error(values) for label, values in columns.items()},
    )


def answer_queries(config: GraceKTOSettings, policy: LocalModel, queries: list[str]) -> tuple[list[Completion], bool]:
    """Sample one answer per query, with the temperature and top-p of `evaluate`.

    Each draw is seeded with its query, so that an answer does not depend on the other queries.

    Returns:
        One completion per query, in order, and whether each begins inside a thinking block that the template opens.
    """
    settings = config.evaluate
    engine = load_engine_for(config.engines.policy, policy)
    system = system_prompts(config, None)
    messages = [chat(query, system=system_for(query, system)) for query in queries]
    try:
        completions = engine.generate(
            messages,
            [derive_seed(config.random_seed, "evaluate", query_id(query)) for query in queries],
            SamplingSettings(
                max_new_tokens=config.sample.max_new_tokens, temperature=settings.temperature, top_p=settings.top_p
            ),
        )
        return completions, begins_in_block(engine, messages, config)
    finally:
        # Only one policy is in memory at a time; the scorers need the room.
        engine.close()


def world_columns(documents: Sequence[tuple[str, str]]) -> dict[str, pl.Series]:
    """The generated world's own measures, which no reward contains.

    Args:
        documents: matched answers as (query, document).

    Returns:
        One column per measure, a value per document; null where a measure does not apply.
    """
    from training.world.measures import measures

    rows = [measures(query, document) for query, document in documents]
    names = list(measures("", ""))  # a policy without any matched answer has the same columns
    return {name: pl.Series([row[name] for row in rows], dtype=pl.Float64) for name in names}


def check_finite(columns: Mapping[str, pl.Series], policy: str) -> None:
    """Check metrics for NaN and infinity; nulls are allowed.

    Raises:
        UserError: a value is not finite; the message names the metric and the matched response.
    """
    for label, values in columns.items():
        bad = ~values.is_finite().fill_null(True)
        if bad.any():
            raise UserError(
                f"evaluation of {policy}: {label} is {values.filter(bad)[0]} for matched response {bad.arg_true()[0]}, "
                "counted from 0; look at the model that scored it"
            )


def _mean(values: pl.Series) -> float | None:
    """The mean of the values that are not null; None where there are none."""
    mean = values.mean()
    return float(mean) if isinstance(mean, float) else None


def _standard_error(values: pl.Series) -> float | None:
    """The standard error of the mean, sample deviation / √n; None for fewer than two values."""
    present = values.drop_nulls()
    deviation = present.std()
    return float(deviation) / math.sqrt(len(present)) if isinstance(deviation, float) else None
