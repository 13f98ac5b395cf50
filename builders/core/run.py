"""Building a stage or the models by role, with whatever they need above, or only saying what would be built."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from builders.core.continued import continued_ref, last_round
from builders.core.given import given_datasets
from builders.core.models import AnyModel, ModelFinder, served_by
from builders.core.nodes import Node, model_node, node_of
from builders.core.pipeline import Pipeline
from builders.core.plan import Graph
from builders.core.runner import Runner, StageResult, find_model, outlook
from builders.core.stage import At, Source
from builders.core.work import first_process
from builders.settings.base import Settings
from builders.store.revision import Choice
from builders.store.store import Store
from scorers.errors import UserError


@dataclass(frozen=True)
class StagePlan:
    """What a run would do for one stage and round.

    Attributes:
        stage: name of the stage.
        round: its round; 0 where all rounds share the result.
        repo: its repository in the store.
        action: `build` or `keep`.
        reason: why, in words.
    """

    stage: str
    round: int
    repo: str
    action: str
    reason: str


def run(
    pipeline: Pipeline,
    config: Settings,
    target: str,
    *,
    round_: int = 1,
    start: str | None = None,
    choice: Choice | None = None,
    force: bool = False,
    require_pinned: bool = False,
    sources: "dict[Node, Source | None] | None" = None,
) -> list[StageResult]:
    """Build a stage and whatever is missing or stale above it, and nothing else.

    Args:
        pipeline: the pipeline the stage belongs to.
        config: a configuration of this pipeline.
        target: name of the last stage, of a dataset or of a model.
        round_: round of the semi-online loop, from 1.
        start: REF of a dataset that takes the place of a stage above the target; which stage follows from its manifest,
            or else from its columns.
        choice: the subset and the split of `start`; None for the default subset and `train`.
        force: rebuild the target even where it is fresh; of a dataset also the datasets of its round.
        require_pinned: refuse a branch in `start` and where a stage reads a dataset from outside.
        sources: what earlier runs of one command read from outside, by node; new ones are added.

    Returns:
        One result per stage and round, kept ones included; the target's comes last.

    Raises:
        UserError: for a user's mistake; nothing half-written is left in the store.
    """
    store = Store(Path(config.store))
    node = node_of(pipeline, target, round_)
    given = given_datasets(pipeline, store, target, round_, start, choice or Choice(), require_pinned)
    # A pulled model that is to be trained anew needs what it is made from.
    anew = {node} if force and pipeline.stage(target).kind == "model" else set()
    if force and 0 < round_ <= last_round(config):
        raise UserError(
            f"--force makes round {round_} anew, which is of {config.continues}; leave continues out, or name a later "
            "round"
        )
    graph = Graph(pipeline, config, store, [node], given, anew, sources, require_pinned=require_pinned)
    forced = _forced(graph, node) if force else set()
    graph.require_readable(forced)
    # Of the processes that torchrun started, the first one alone writes to the store and holds its lock.
    with store.lock() if first_process() else contextlib.nullcontext() as lock:
        return Runner(graph, forced, lock).run([node])


def materialise(
    pipeline: Pipeline, config: Settings, wanted: Mapping[str, "str | At"], finder: ModelFinder | None = None
) -> tuple[dict[str, AnyModel], ModelFinder]:
    """Find models by role; those that stages make are built where they are missing or stale.

    Args:
        pipeline: the pipeline whose stages may make the models.
        config: a configuration of this pipeline.
        wanted: by role, the name of a model or of a stage, or an `At`.
        finder: a finder to go on with; None for a new one.

    Returns:
        The models on disk by role, and the finder that resolved them.

    Raises:
        UserError: for a name that no model has, and as `run`.
    """
    store = Store(Path(config.store))
    finder = finder or ModelFinder(store, served_by(config))
    # Round 0: no round is being built, so a stage that is made in every round has to come as an `At`.
    found = {role: model_node(pipeline, name, 0) for role, name in wanted.items()}
    nodes = [node for node in found.values() if isinstance(node, Node)]
    graph = Graph(pipeline, config, store, nodes, {})
    graph.require_readable()
    # What is not a node is the name of a model that no stage makes: a misspelt one is told before anything is built.
    models = {role: find_model(pipeline, finder, name) for role, name in found.items() if isinstance(name, str)}
    with store.lock() as lock:
        runner = Runner(graph, set(), lock)
        runner.run(nodes)
    return models | {
        role: finder.of(runner.made[node]) for role, node in found.items() if isinstance(node, Node)
    }, finder


def dry_run(
    pipeline: Pipeline,
    config: Settings,
    target: str,
    *,
    round_: int = 1,
    start: str | None = None,
    choice: Choice | None = None,
) -> list[StagePlan]:
    """Return what `run` would do and why, in the order of the work, without building anything."""
    store = Store(Path(config.store))
    graph = Graph(
        pipeline,
        config,
        store,
        [node_of(pipeline, target, round_)],
        given_datasets(pipeline, store, target, round_, start, choice or Choice()),
        fetch=False,
    )
    graph.require_readable()
    plans = []
    for node, reason in outlook(graph, ModelFinder(store, served_by(config))):
        stage = pipeline.stage(node.stage)
        action = "keep" if reason is None else "build"
        held = graph.held(node)
        if node in graph.awaited:
            repo = continued_ref(pipeline, config, node.stage, node.round).repo
            plans.append(StagePlan(stage.name, node.round, repo, "keep", f"of {config.continues}, pulled first"))
            continue
        said = reason or f"{graph.kept.get(node, 'fresh')} at {str(held and held.revision)[:12]}"
        repo = held.repo if held is not None and reason is None else pipeline.repo(stage, config)
        plans.append(StagePlan(stage.name, node.round, repo, action, said))
    return plans


def _forced(graph: Graph, target: Node) -> set[Node]:
    """Return the nodes that `force` rebuilds: the target, and above a dataset the datasets of its round or of no round.

    A model is trained again on the datasets that are there. Other models are kept, and so is what the user gave or
    pulled.
    """
    if graph.pipeline.stage(target.stage).kind == "model":
        return {target}
    datasets = {node for node in graph.needs if graph.pipeline.stage(node.stage).kind == "dataset"}
    return {target, *(node for node in datasets if node.round in (0, target.round))} - graph.given.keys()
