"""`grace evaluate`: compare policies on held-out queries (GRACE-KTO, tables 1 and 4, figures 1 and 3).

Every policy answers the same held-out queries; the answers are scored as the score stage scores responses. Metrics are
means over matched responses, so the matched share and the share of responses cut at the length limit always stand
beside them. The average rank is over L, E, P, R_s and R_d, rank 1 is best. A row of the table, up to the shares:

    policy   L         E         P          R_s        R_d        avg. rank  matched  cut
    round 4  71.0 (1)  96.4 (5)  0.105 (3)  1.917 (1)  2.379 (1)  2.2        0.883    0.000

In the generated world, four measures that no reward contains are shown too: grammaticality, duplicate sentences,
on-topic share and heading coverage.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import count, islice
from pathlib import Path
from typing import Any

import polars as pl

from builders.core.continued import continued
from builders.core.evaluation_table import EvaluationTable
from builders.core.machine import local_engine, require_engine
from builders.core.models import LocalModel, ModelFinder, on_disk, require_distinct
from builders.core.run import materialise, run
from builders.core.sources import source_file
from builders.core.stage import Stage
from builders.grace_kto import roles
from builders.grace_kto.ready import score_ready
from builders.grace_kto.settings import GraceKTOSettings
from builders.grace_kto.stages import SCORE
from builders.hub.refs import open_revision
from builders.report.text_tables import write_tables
from builders.store.files import require_folder
from builders.store.manifest import has_manifest, read_manifest
from builders.store.names import naming_near
from builders.store.ref import LOCAL, is_commit, round_tag
from builders.store.revision import Choice, Revision
from builders.store.store import Store
from scorers.errors import UserError
from training.grace_kto.answers import ANSWERS, queries_of
from training.grace_kto.compared import WATCHED, comparison_of, ungraded
from training.grace_kto.evaluation import Evaluation, evaluation_of
from training.grace_kto.evaluations import EVALUATIONS
from training.grace_kto.figure import draw
from training.grace_kto.pairwise import compare_pairs
from training.grace_kto.pipeline import GRACE_KTO
from training.grace_kto.policy import POLICY
from training.grace_kto.table import (
    all_differences,
    cautions,
    progress,
    rank_policies,
    verdict,
)


def evaluate_policies(config: GraceKTOSettings, references: Sequence[str], output: Path) -> EvaluationTable:
    """Evaluate policies and write evaluation.json, .md, .csv, .tex, .png and .svg; with `pairwise` see `compare_pairs`.

    Args:
        config: the configuration; its `evaluate` section names the held-out queries.
        references: REFs of policies; none for the first policy and that of every round in the store.
        output: folder to write into; it is made where it is missing.

    Returns:
        The comparison as it is printed, and all of it for machines.

    Raises:
        UserError: a policy or the held-out source is missing, the engine asks a server, or a metric is not finite.
    """
    store = Store(Path(config.store))
    pairwise = config.evaluate.pairwise
    stage = EVALUATIONS if config.evaluate.judge and not pairwise else ANSWERS
    # Mistakes and what the machine lacks are told at once, before a model is made or answers.
    require_folder(output)
    require_engine("engines.policy", local_engine("engines.policy", config.engines.policy, "evaluate"))
    score_ready(config, lambda name: None)  # the models are found below
    if config.evaluate.judge or pairwise:
        roles.grader(config, 0)
    for text in references:
        require_reference(text, config, store)
    held_out_queries(config)
    models, finder = evaluation_models(config, first=not references, judge=stage is EVALUATIONS)
    policies = named_policies(config, store, finder, references, models.pop("first", None))
    require_distinct(policies, "grace evaluate")
    if pairwise and len(policies) < 2:
        raise UserError("grace evaluate --pairwise: one policy alone; give two or more")
    answers = answers_of(config, policies, models, stage)
    if pairwise:
        return compare_pairs(config, answers, dataset_names([name for name, _ in policies]), output)
    evaluations = [evaluation_of(name, revision.scan().collect()) for name, revision in answers]
    ranks, average = rank_policies(evaluations)
    records = [
        _record(evaluation, evaluations[0]) | {"ranks": rank, "average_rank": mean, "dataset": str(revision)}
        for evaluation, rank, mean, (_, revision) in zip(evaluations, ranks, average, answers, strict=True)
    ]
    datasets = [revision for _, revision in answers]
    warned = [*ungraded(evaluations, datasets), *cautions(config, evaluations)]
    found = comparison_of(evaluations, datasets, warned)
    files = write_tables(output, "evaluation", found.header, found.rows, record=records, lines=found.lines)
    if len(evaluations) > 1:
        every, judged = all_differences(evaluations)
        files += write_tables(output, "differences", every.header, every.rows, record=judged)
    return replace(
        found,
        public={"policies": records, "verdict": verdict(evaluations), "cautions": warned, "path": str(output)},
        files=(*files, *draw(evaluations, output / "evaluation")),
    )


def answers_of(
    config: GraceKTOSettings,
    policies: Sequence[tuple[str, LocalModel]],
    scorers: Mapping[str, LocalModel],
    stage: Stage,
    suffix: str = "",
) -> list[tuple[str, Revision]]:
    """Return each policy's answers to the held-out queries, new ones where the store does not have them.

    The dataset of a policy is named by the run and by what the table calls the policy, such as `tiny-round-1-answers`,
    with `-after-N` where `evaluate.skip` is N.

    Args:
        config: the configuration.
        policies: names and models.
        scorers: the models of the score stage, by role; `judge` where a stage makes the judge.
        stage: `answers`, or `evaluations` for graded ones.
        suffix: end of each policy's name.
    """
    store = Store(Path(config.store))
    # Found already, wherever the configuration says they come from.
    fixed = {role: name_of(scorers[role], store) for role in ("general", "domain", "relevance")}
    fixed |= dict.fromkeys(("policy", "base"), name_of(scorers["tokenizer"], store))
    fixed |= {"judge": name_of(scorers["judge"], store)} if "judge" in scorers else {}
    after = f"-after-{config.evaluate.skip}" if config.evaluate.skip else ""
    found = []
    for (name, policy), part in zip(policies, dataset_names([name for name, _ in policies]), strict=True):
        models = config.models.model_copy(update={**fixed, "evaluated": name_of(policy, store)})
        evaluate = config.evaluate.model_copy(update={"label": f"{part}{suffix}{after}"})
        own = config.model_copy(update={"models": models, "evaluate": evaluate, "continues": None})
        found.append((name, run(GRACE_KTO, own, stage.name)[-1].revision))
    return found


def dataset_names(names: Sequence[str]) -> list[str]:
    """Return what names of policies are in names of datasets; the same one is not given twice.

    >>> dataset_names(["first", "round 1", "local/tiny-policy@round-002", "/models/writer", "/old/writer"])
    ['first', 'round-1', 'tiny-policy-round-002', 'writer', 'writer-2']
    """
    found: list[str] = []
    for name in names:
        text = Path(name).name if Path(name).is_absolute() or Path(name).is_dir() else name.removeprefix(f"{LOCAL}/")
        slug = re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.") or "policy"
        numbered = (f"{slug}-{number}" for number in count(2))
        found.append(next(one for one in (slug, *islice(numbered, len(names))) if one not in found))
    return found


def name_of(policy: LocalModel, store: Store) -> str:
    """Return a name by which a model is found: its revision, or the folder of one that neither store nor Hub has."""
    folder = policy.adapter or policy.path
    held = store.find(policy.record.id, policy.record.revision, "model")
    ours = has_manifest(folder) or not is_commit(policy.record.revision)
    return str(folder) if held is None and ours else str(policy.record)


def learned(config: GraceKTOSettings, round_: int) -> list[str]:
    """What the policy of a round has learned: the first `loop.held_out` queries of `grace evaluate`, and cautions.

    Returns:
        Lines for the log; one that says why where there are no held-out queries, since a loop can do without them.
    """
    few = config.evaluate.model_copy(update={"queries": config.loop.held_out, "responses": 1})
    config = config.model_copy(update={"evaluate": few})
    try:
        queries = held_out_queries(config)
    except UserError as error:
        return [f"nothing is shown of what it learned: {error}; or set loop.held_out: 0"]
    models, finder = evaluation_models(config)
    first, *rounds = named_policies(config, Store(Path(config.store)), finder, (), models.pop("first"))
    policies = [first, *((name, policy) for name, policy in rounds if name == round_name(round_))]
    found = answers_of(config, policies, models, ANSWERS, suffix=WATCHED)
    evaluations = [evaluation_of(name, own.scan().collect()) for name, own in found]
    cautious = [f"caution: {line}" for line in cautions(config, evaluations)]
    return [f"{len(queries)} held-out queries, from the first policy: {progress(evaluations)}", *cautious]


def _record(evaluation: Evaluation, first: Evaluation) -> dict[str, Any]:
    """An evaluation for machines: what it is over, each estimate, and its change from the first policy."""
    return {
        "name": evaluation.name,
        "policy": evaluation.policy,
        "queries": evaluation.queries,
        "responses": evaluation.columns["matched"].shape[1],
        "estimates": {label: asdict(found) for label, found in evaluation.estimates.items()},
        "changes": {label: asdict(change) for label, change in evaluation.change_from(first).items()},
        "changes_at_equal_length": {
            label: asdict(change) for label, change in evaluation.change_at_equal_length(first).items()
        },
    }


def evaluation_models(
    config: GraceKTOSettings, *, first: bool = True, judge: bool = False, only: Collection[str] = tuple(SCORE.roles)
) -> tuple[dict[str, LocalModel], ModelFinder]:
    """The models that an evaluation needs; models that are made by stages are built where they are missing.

    Args:
        config: the configuration.
        first: whether the first policy is needed too.
        judge: whether the judge is needed too, where a stage makes it; any other is found when it is asked.
        only: roles of the score stage whose models are needed.

    Returns:
        The scorers by role, with `first` and `judge` also these; and the finder that knows them.
    """
    scorers = {role: fill for role, fill in SCORE.roles.items() if role in only}
    fills = {**scorers, **({"first": roles.first_policy} if first else {})}
    if judge and GRACE_KTO.find(roles.grader(config, 0)) is not None:
        fills["judge"] = roles.grader
    wanted: dict[str, Any] = {role: fill(config, 1) for role, fill in fills.items()}
    models, finder = materialise(GRACE_KTO, config, wanted)
    return {role: on_disk(model, "evaluate") for role, model in models.items()}, finder


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
    return queries_of(settings, source)


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
            found.append((round_name(round_), finder.of(revision)))
    return found


def round_name(round_: int) -> str:
    """The name of a round's policy in the table."""
    return f"round {round_}"


def require_reference(text: str, config: GraceKTOSettings, store: Store) -> None:
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
        return on_disk(materialise(GRACE_KTO, config, {text: text}, finder)[0][text], "evaluate")
    if Path(text).is_dir() and read_manifest(Path(text)) is None:
        return finder.find(text)
    return finder.of(open_revision(text, store, "model"))
