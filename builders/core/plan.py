"""The graph of what a build needs: which revisions stand above a target, what decides each, and whether it is stale.

A node is a stage in a round. Its fingerprint is the hash of everything that decides its data: pipeline, stage and
version, the settings that matter, prompts, the parents' content digests and the models. Batch sizes, devices and
numbers of workers are no part of it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any

from builders.core.models import LocalModel, ModelFinder
from builders.core.pipeline import Pipeline, tag_of
from builders.core.stage import At, Stage
from builders.settings.base import Settings, identities
from builders.store.manifest import Kind, Manifest, Parent, fingerprint_of, portable
from builders.store.store import Revision, Store
from scorers.errors import UserError


@dataclass(frozen=True, order=True)
class Node:
    """A stage in a round; round 0 for what is the same in all rounds."""

    stage: str
    round: int


@dataclass(frozen=True)
class Needs:
    """What a node is made from: parents by the name under which it reads them, and what fills each role: another node,
    or the name of a model that no stage makes."""

    parents: dict[str, Node]
    models: dict[str, Node | str]

    def nodes(self) -> set[Node]:
        """The nodes among them."""
        return {*self.parents.values(), *(found for found in self.models.values() if isinstance(found, Node))}


@dataclass(frozen=True)
class Inputs:
    """Everything that decides a node's result, resolved."""

    parents: dict[str, Revision]
    models: dict[str, LocalModel]
    records: list[Parent]
    recipe: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """Hash of the recipe."""
        return fingerprint_of(self.recipe)


def node_of(pipeline: Pipeline, stage: str, round_: int) -> Node:
    """A stage's node in a round.

    Raises:
        UserError: for a stage of a round where there is no round, as when the settings of a stage that is the same in
            all rounds name one that is not.
    """
    if not pipeline.stage(stage).per_round:
        return Node(stage, 0)
    if round_ < 1:
        raise UserError(
            f"stage {stage} is made anew in every round and cannot stand for what all rounds share; name another "
            "source or model in the configuration"
        )
    return Node(stage, round_)


def needs(pipeline: Pipeline, config: Settings, node: Node) -> Needs:
    """What one node is made from, under a configuration."""
    stage = pipeline.stage(node.stage)
    parents = {name: node_of(pipeline, name, node.round) for name in stage.parents}
    for name, wanted in (stage.also(config, node.round) if stage.also else {}).items():
        found = _resolve(pipeline, wanted, node.round, "dataset")
        if isinstance(found, Node):
            parents[name] = found
    models = {
        role: _resolve(pipeline, fill(config, node.round), node.round, "model") for role, fill in stage.roles.items()
    }
    return Needs(parents, models)


def _resolve(pipeline: Pipeline, wanted: "str | At", round_: int, kind: Kind) -> "Node | str":
    """The node that a setting's text or an `At` stands for; a text that names no stage of the kind stays a text."""
    if isinstance(wanted, At):
        return node_of(pipeline, wanted.stage, round_ if wanted.round is None else wanted.round)
    stage = pipeline.find(wanted)
    return wanted if stage is None or stage.kind != kind else node_of(pipeline, wanted, round_)


def model_node(pipeline: Pipeline, wanted: "str | At", round_: int) -> "Node | str":
    """The node that makes a model, or the name of one that no stage makes."""
    return _resolve(pipeline, wanted, round_, "model")


class Graph:
    """The nodes above some targets.

    `given` are revisions that take the place of a node and of everything above it: the user's, and `pulled` ones, which
    the store holds as somebody published them.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        config: Settings,
        store: Store,
        targets: Iterable[Node],
        given: Mapping[Node, Revision],
    ) -> None:
        self.pipeline = pipeline
        self.config = config
        self.store = store
        self.given = dict(given)
        self.pulled: set[Node] = set()
        self.needs: dict[Node, Needs] = {}
        waiting = list(targets)
        while waiting:
            node = waiting.pop()
            if node not in self.needs:
                self.needs[node] = self._needs(node)
                waiting += sorted(self.needs[node].nodes())

    def _needs(self, node: Node) -> Needs:
        if node in self.given:
            return Needs({}, {})
        existing = self.existing(node)
        # What was pulled names parents that need not be here, so it is compared by its own settings alone.
        if existing is not None and not existing.made_here and not self.changed_settings(existing, node):
            self.given[node] = existing
            self.pulled.add(node)
            return Needs({}, {})
        return needs(self.pipeline, self.config, node)

    def existing(self, node: Node) -> Revision | None:
        """The store's revision of a node, fresh or stale."""
        stage = self.pipeline.stage(node.stage)
        return self.store.find(self.pipeline.repo(stage, self.config), tag_of(stage, node.round), stage.kind)

    def changed_settings(self, revision: Revision, node: Node) -> list[str]:
        """Settings and stage version in which a revision differs from what would be built now."""
        manifest = revision.manifest
        stage = self.pipeline.stage(node.stage)
        if manifest is None:
            return ["manifest"]
        if manifest.stage_version != stage.version:
            return [f"stage version {manifest.stage_version} → {stage.version}"]
        return changed(manifest, configuration_of(stage, self.config))

    def order(self) -> TopologicalSorter[Node]:
        """The nodes, each after those it is made from.

        Raises:
            UserError: where a setting makes a stage its own parent.
        """
        # Sorted, so that equal graphs are worked on in an equal order.
        sorter: TopologicalSorter[Node] = TopologicalSorter(
            {node: sorted(found.nodes()) for node, found in sorted(self.needs.items())}
        )
        try:
            sorter.prepare()
        except CycleError as error:
            circle = " ← ".join(f"{node.stage}" for node in error.args[1])
            raise UserError(f"the configuration makes a stage its own parent: {circle}; look at models:") from None
        return sorter

    def sorted(self) -> list[Node]:
        """The nodes in one order, each after those it is made from."""
        sorter = self.order()
        nodes = []
        while sorter.is_active():
            for node in sorter.get_ready():
                nodes.append(node)
                sorter.done(node)
        return nodes

    def inputs(self, node: Node, made: Mapping[Node, Revision], finder: ModelFinder) -> Inputs:
        """Everything that decides a node, from the revisions of the nodes above it.

        Raises:
            UserError: for a model or a source that is missing.
        """
        stage = self.pipeline.stage(node.stage)
        found = self.needs[node]
        parents = {name: made[above] for name, above in found.parents.items()}
        models = {role: _local(wanted, made, finder) for role, wanted in found.models.items()}
        recipe = {
            "pipeline": self.pipeline.name,
            "stage": stage.name,
            "kind": stage.kind,
            "version": stage.version,
            "round": node.round,
            "configuration": configuration_of(stage, self.config),
            "prompts": stage.prompts(self.config, parents) if stage.prompts else {},
            "parents": {name: parent.digest for name, parent in parents.items()},
            "models": {role: [model.record.id, model.record.revision] for role, model in models.items()},
            "source": stage.source(self.config) if stage.source and "source" not in parents else None,
        }
        return Inputs(parents, models, self._records(found, made), recipe)

    def _records(self, found: Needs, made: Mapping[Node, Revision]) -> list[Parent]:
        """Parents and models that stages made, each once, as the manifest names them."""
        above = [*found.parents.values(), *(wanted for wanted in found.models.values() if isinstance(wanted, Node))]
        records = []
        for node in dict.fromkeys(above):
            revision = made[node]
            kind = self.pipeline.stage(node.stage).kind
            round_ = revision.manifest.round if revision.manifest else None
            records.append(
                Parent(
                    stage=node.stage,
                    kind=kind,
                    round=round_,
                    repo=revision.repo,
                    revision=revision.revision,
                    digest=revision.digest,
                )
            )
        return records

    def stale_reason(self, node: Node, inputs: Inputs) -> str | None:
        """Why a node has to be built, in words; None where it is fresh."""
        existing = self.existing(node)
        if existing is None or existing.manifest is None:
            return "missing"
        manifest = existing.manifest
        if manifest.fingerprint == inputs.fingerprint:
            return None
        if settings := self.changed_settings(existing, node):
            version = settings[0].startswith("stage version")
            return settings[0] if version else f"configuration changed: {', '.join(settings)}"
        old = {(parent.stage, parent.digest) for parent in manifest.parents}
        moved = [p.stage for p in inputs.records if (p.stage, p.digest) not in old]
        if moved:
            return f"parent changed: {', '.join(moved)}"
        swapped = [role for role, model in inputs.models.items() if manifest.models.get(role) != model.record]
        return f"model changed: {', '.join(swapped)}" if swapped else "source, prompt or manifest format changed"


def _local(wanted: "Node | str", made: Mapping[Node, Revision], finder: ModelFinder) -> LocalModel:
    return finder.of(made[wanted]) if isinstance(wanted, Node) else finder.find(wanted)


def configuration_of(stage: Stage, config: Settings) -> dict[str, Any]:
    """The settings that decide a stage's data, without folders of the machine."""
    configuration: dict[str, Any] = portable(identities(config, stage.sections))
    return configuration


def changed(manifest: Manifest, configuration: Mapping[str, Any]) -> list[str]:
    """Names of the settings in which a manifest differs from a configuration."""
    names = []
    for section, values in configuration.items():
        if section not in manifest.configuration:  # an older manifest that does not say
            continue
        before = manifest.configuration[section]
        if not isinstance(values, dict):
            names += [section] if before != values else []
            continue
        old = before if isinstance(before, dict) else {}
        names += [f"{section}.{key}" for key, value in values.items() if old.get(key) != value]
    return names


def origin_of(pipeline: Pipeline, revision: Revision, target: Stage) -> Stage | None:
    """The stage that a dataset given by the user stands for: the one its manifest names, else a guess.

    Guess the stage of a foreign dataset from its columns: the last stage above `target` that introduces one of them.
    """
    above = [stage for stage in pipeline.upto(target) if stage is not target and stage.kind == "dataset"]
    if revision.manifest is not None and revision.manifest.pipeline == pipeline.name:
        named = next((stage for stage in above if stage.name == revision.manifest.stage), None)
        if named is not None:
            return named
    columns = set(revision.schema().names())
    return next((stage for stage in above if _introduced(pipeline, stage) & columns), None)


def _introduced(pipeline: Pipeline, stage: Stage) -> set[str]:
    """Columns that a stage has and none of its dataset parents."""
    inherited = {column.name for parent in stage.parents for column in pipeline.stage(parent).columns}
    return {column.name for column in stage.columns} - inherited
