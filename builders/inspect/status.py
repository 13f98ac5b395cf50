"""`grace status`: what the store holds of a configuration, and what is still missing."""

from dataclasses import dataclass
from pathlib import Path

from builders.core.pipeline import Pipeline
from builders.core.plan import Graph, node_of
from builders.settings.base import Settings
from builders.store.store import Store


@dataclass(frozen=True)
class Status:
    """One revision that the rounds of a configuration have made or will make; the rest is null where it is missing."""

    round: int
    stage: str
    kind: str
    state: str
    rows: int | None
    revision: str | None
    digest: str | None


def status(pipeline: Pipeline, config: Settings) -> list[Status]:
    """One row for each stage and round that the last round stands on, in the order in which they are built."""
    store = Store(Path(config.store))
    targets = [node_of(pipeline, pipeline.last, round_) for round_ in range(1, pipeline.rounds(config) + 1)]
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
