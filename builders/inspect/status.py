"""`grace status`: which revisions of a configuration the store holds, and which are still missing."""

from dataclasses import dataclass
from pathlib import Path

from builders.core.pipeline import Pipeline
from builders.core.plan import Graph, node_of
from builders.settings.base import Settings
from builders.store.store import Store


@dataclass(frozen=True)
class Status:
    """One revision that the rounds of a configuration have made or will make.

    Attributes:
        round: its round; 0 where all rounds share it.
        stage: its stage.
        kind: `dataset` or `model`.
        state: `built` or `missing`.
        rows: rows written; null, as the next two, where it is missing.
        revision: `repo@revision`.
        digest: its content digest.
    """

    round: int
    stage: str
    kind: str
    state: str
    rows: int | None
    revision: str | None
    digest: str | None


def status(pipeline: Pipeline, config: Settings) -> list[Status]:
    """Return one row per stage and round that the last round depends on, in the order of the work."""
    store = Store(Path(config.store))
    targets = [node_of(pipeline, pipeline.last, round_) for round_ in range(1, pipeline.rounds(config) + 1)]
    # The graph alone, nothing is resolved: status tells what exists, not whether it is fresh.
    graph = Graph(pipeline, config, store, targets, {})
    order = {stage.name: place for place, stage in enumerate(pipeline.stages)}
    rows = []
    for node in sorted(graph.needs, key=lambda node: (node.round, order[node.stage])):
        revision = graph.existing(node)
        manifest = revision.manifest if revision else None
        rows.append(
            Status(
                round=node.round,
                stage=node.stage,
                kind=pipeline.stage(node.stage).kind,
                state="built" if revision else "missing",
                rows=manifest.rows.written if manifest else None,
                revision=str(revision) if revision else None,
                digest=revision.digest if revision else None,
            )
        )
    return rows
