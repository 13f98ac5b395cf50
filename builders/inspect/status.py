"""`grace status`: which revisions of a configuration the store holds, which are damaged, and which are missing."""

from dataclasses import dataclass, field
from pathlib import Path

from builders.core.nodes import Node, node_of
from builders.core.pipeline import Pipeline, tag_of
from builders.core.plan import Graph
from builders.settings.base import Settings
from builders.store.check import first_fault
from builders.store.revision import Revision
from builders.store.store import Move, Store


@dataclass(frozen=True)
class Status:
    """One revision that the rounds of a configuration have made or will make.

    Attributes:
        round: its round; 0 where all rounds share it.
        stage: its stage.
        kind: `dataset` or `model`.
        state: `built`, `damaged` or `missing`; `unpulled` for one of a run that this one continues.
        rows: rows written; null where it is missing or its manifest cannot be read.
        revision: `repo@revision`; null where it is missing.
        digest: its content digest; null as `rows` is.
        fault: what is wrong with a damaged one, by its manifest and the names and sizes of its files; else null.
        earlier: what its tag stood for before, the newest first, see `Move`.
    """

    round: int
    stage: str
    kind: str
    state: str
    rows: int | None
    revision: str | None
    digest: str | None
    fault: str | None = None
    earlier: list[Move] = field(default_factory=list)


def status(pipeline: Pipeline, config: Settings) -> list[Status]:
    """Return one row per stage and round that the last round depends on, in the order of the work."""
    store = Store(Path(config.store))
    targets = [node_of(pipeline, pipeline.last, round_) for round_ in range(1, pipeline.rounds(config) + 1)]
    # The graph alone, nothing is resolved: status tells what exists, not whether it is fresh.
    graph = Graph(pipeline, config, store, targets, {}, fetch=False)
    order = {stage.name: place for place, stage in enumerate(pipeline.stages)}
    return [_status(graph, node) for node in sorted(graph.needs, key=lambda node: (node.round, order[node.stage]))]


def _status(graph: Graph, node: Node) -> Status:
    """Return the row of one stage and round."""
    stage = graph.pipeline.stage(node.stage)
    tag = tag_of(stage, node.round)
    revision = graph.held(node)
    repo = revision.repo if revision else graph.pipeline.repo(stage, graph.config)
    manifest = revision.manifest if revision else None
    fault = graph.broken.get(node) or _fault(revision)
    named = revision.revision if revision else graph.store.refs(repo, stage.kind).get(tag) if fault else None
    return Status(
        round=node.round,
        stage=node.stage,
        kind=stage.kind,
        state=_state(graph, node, revision, fault),
        rows=manifest.rows.written if manifest else None,
        revision=f"{repo}@{named}" if named else None,
        digest=manifest.digest if manifest else None,
        fault=fault,
        earlier=[move for move in graph.store.moves(repo, stage.kind) if move.ref == tag],
    )


def _state(graph: Graph, node: Node, revision: Revision | None, fault: str | None) -> str:
    """Return the state of one stage and round."""
    if fault or revision:
        return "damaged" if fault else "built"
    return "unpulled" if node in graph.awaited else "missing"


def _fault(revision: Revision | None) -> str | None:
    """Say what is wrong with a revision, as far as names and sizes of its files tell; None where nothing is."""
    # Nothing is hashed: status answers at once, and `grace verify` looks at every byte.
    if revision is None or revision.manifest is None:
        return None
    return first_fault(revision.manifest, revision.path, contents=False)
