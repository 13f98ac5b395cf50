"""`grace evaluate`: policies side by side on held-out queries (the paper's tables 1 and 4, figures 1 and 3).

Metrics are means over matched responses, so the matched share and the share cut at the length limit always stand beside
them. Rank 1 is best, the average rank is over L, E, P, R_s and R_d. In the generated world, measures that no reward
knows are printed too: grammaticality, duplicate sentences, on-topic share, heading coverage.
"""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import polars as pl

from builders.core.draws import derive_seed, query_id
from builders.core.models import LocalModel, ModelFinder, load_engine_for
from builders.core.pipeline import EvaluationTable
from builders.core.prompting import chat
from builders.core.run import materialise, run
from builders.core.stage import At, Context
from builders.engines import Completion, SamplingSettings
from builders.grace_kto import roles
from builders.grace_kto.loading import load_scorers
from builders.grace_kto.messages import system_prompt
from builders.grace_kto.score import score_documents
from builders.grace_kto.seed import read_table
from builders.grace_kto.settings import GraceKTOSettings
from builders.grace_kto.stages import SCORE
from builders.hub.refs import open_revision
from builders.settings.base import identity
from builders.store.files import write_text
from builders.store.manifest import fingerprint_of, read_manifest
from builders.store.store import Store, round_tag
from scorers.errors import UserError
from scorers.extraction import extract
from training.grace_kto.pipeline import GRACE_KTO
from training.grace_kto.policy import POLICY
from training.grace_kto.table import Evaluation, cautions, cells, draw, markdown_table, rank_policies, verdict

VERSION = 2

log = logging.getLogger(__name__)

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
        references: REFs of policies; none for the first policy and every round's that is there.
        output: folder to write into.

    Raises:
        UserError: for a policy or a held-out source that is missing.
    """
    store = Store(Path(config.store))
    queries = held_out_queries(config)
    models, finder = evaluation_models(config, first=not references)
    policies = named_policies(config, store, finder, references, models.pop("first", None))
    context = Context(config, store, 1, {}, models)
    try:
        evaluations = [_cached(context, name, policy, queries) for name, policy in policies]
    finally:
        context.loaded.keep(())
    ranks, average = rank_policies(evaluations)
    records = [
        asdict(evaluation) | {"ranks": rank, "average_rank": mean}
        for evaluation, rank, mean in zip(evaluations, ranks, average, strict=True)
    ]
    header, rows = cells(evaluations, ranks, average)
    said, warned = verdict(evaluations), cautions(config, evaluations)
    lines = [said, *(f"Caution: {line}." for line in warned)]
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
    """The models that score answers, by role, and with `first` the first policy; made where they are missing."""
    fills = {**SCORE.roles, **({"first": roles.first_policy} if first else {})}
    wanted: dict[str, str | At] = {role: fill(config, 1) for role, fill in fills.items()}
    return materialise(GRACE_KTO, config, wanted)


def held_out_queries(config: GraceKTOSettings) -> list[str]:
    """`evaluate.queries` queries of the held-out source, after `evaluate.skip` others.

    Raises:
        UserError: where the source or its column is missing, or no query is left.
    """
    settings = config.evaluate
    if GRACE_KTO.find(settings.source) is not None:
        frame = run(GRACE_KTO, config, settings.source)[-1].revision.scan().collect()
    else:
        frame = read_table(settings.source, settings.split)
    if settings.column not in frame.columns:
        raise UserError(
            f"evaluate.source {settings.source}: no column {settings.column}; it has {', '.join(frame.columns)}; "
            "set evaluate.column"
        )
    texts = frame[settings.column].cast(pl.String).str.strip_chars()
    distinct = texts.filter(texts != "").unique(maintain_order=True)
    queries = distinct.slice(settings.skip, settings.queries).to_list()
    if not queries:
        raise UserError(f"evaluate.source {settings.source} holds no query after the first {settings.skip}")
    return queries


def named_policies(
    config: GraceKTOSettings, store: Store, finder: ModelFinder, references: Sequence[str], first: LocalModel | None
) -> list[tuple[str, LocalModel]]:
    """Policies with the names they have in the table."""
    if references:
        return [(text, _named(text, config, store, finder)) for text in references]
    found = [] if first is None else [("first", first)]
    for round_ in range(1, config.loop.rounds + 1):
        revision = store.find(GRACE_KTO.repo(POLICY, config), round_tag(round_), "model")
        if revision is not None:
            found.append((f"round {round_}", finder.of(revision)))
    return found


def _named(text: str, config: GraceKTOSettings, store: Store, finder: ModelFinder) -> LocalModel:
    """A policy by REF, the name of a model stage, or any model folder, such as one that another program wrote."""
    stage = GRACE_KTO.find(text)
    if stage is not None and stage.kind == "model":
        return materialise(GRACE_KTO, config, {text: text}, finder)[0][text]
    if Path(text).is_dir() and read_manifest(Path(text)) is None:
        return finder.find(text)
    return finder.of(open_revision(text, store, "model"))


def _cached(context: Context[GraceKTOSettings], name: str, policy: LocalModel, queries: list[str]) -> Evaluation:
    """An evaluation, kept in the store under everything that decides it."""
    config = context.config
    sections = {"evaluate": config.evaluate, "sample": config.sample, "score": config.score}
    key = fingerprint_of(
        {
            "version": VERSION,
            "policy": str(policy.record),
            "scorers": {role: str(model.record) for role, model in context.models.items()},
            "configuration": {name: identity(section) for name, section in sections.items()},
            "engine": identity(config.engines.policy),
            "system_prompt": system_prompt(config),
            "random_seed": config.random_seed,
            "threads": config.threads,
            "queries": queries,
        }
    )
    path = context.store.root / ".evaluations" / f"{key[:32]}.json"
    if path.is_file():
        return Evaluation(**{**json.loads(path.read_text(encoding="utf-8")), "name": name})
    log.info("evaluate: %s, %s", name, policy.record)
    evaluation = evaluate(context, name, policy, queries)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(asdict(evaluation)))
    return evaluation


def evaluate(context: Context[GraceKTOSettings], name: str, policy: LocalModel, queries: list[str]) -> Evaluation:
    """Answer the queries once each and score what matched."""
    config = context.config
    completions = answer_queries(config, policy, queries)
    parts = [extract(completion.text) for completion in completions]
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
    if GRACE_KTO.find(config.evaluate.source) is not None:
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


def answer_queries(config: GraceKTOSettings, policy: LocalModel, queries: list[str]) -> list[Completion]:
    """One answer to each query, sampled as `evaluate` says."""
    settings = config.evaluate
    engine = load_engine_for(config.engines.policy, policy)
    try:
        return engine.generate(
            [chat(query, system=system_prompt(config)) for query in queries],
            [derive_seed(config.random_seed, "evaluate", query_id(query)) for query in queries],
            SamplingSettings(
                max_new_tokens=config.sample.max_new_tokens, temperature=settings.temperature, top_p=settings.top_p
            ),
        )
    finally:
        engine.close()


def world_columns(documents: Sequence[tuple[str, str]]) -> dict[str, pl.Series]:
    """The generated world's own measures, which no reward knows."""
    from training.world.texts import measures

    rows = [measures(query, document) for query, document in documents]
    names = list(measures("", ""))  # without a document too, so that every policy has the same columns
    return {name: pl.Series([row[name] for row in rows], dtype=pl.Float64) for name in names}


def check_finite(columns: Mapping[str, pl.Series], policy: str) -> None:
    """Raise UserError for a metric that is NaN or infinite, naming the matched response."""
    for label, values in columns.items():
        bad = ~values.is_finite().fill_null(True)
        if bad.any():
            raise UserError(
                f"evaluation of {policy}: {label} is {values.filter(bad)[0]} for matched response {bad.arg_true()[0]}, "
                "counted from 0; look at the model that scored it"
            )


def _mean(values: pl.Series) -> float | None:
    mean = values.mean()
    return float(mean) if isinstance(mean, float) else None


def _standard_error(values: pl.Series) -> float | None:
    present = values.drop_nulls()
    deviation = present.std()
    return float(deviation) / math.sqrt(len(present)) if isinstance(deviation, float) else None
