"""Nodes of a build graph, a stage in a round each, and what each of them is made from under a configuration."""

from collections.abc import Container, Sequence
from dataclasses import dataclass

from builders.core.pipeline import Pipeline
from builders.core.stage import At
from builders.settings.base import Settings
from builders.store.manifest import Kind
from scorers.errors import UserError


@dataclass(frozen=True, order=True)
class Node:
    """A stage in a round; round 0 for a stage whose result all rounds share."""

    stage: str
    round: int


@dataclass(frozen=True)
class Needs:
    """What a node is made from.

    Attributes:
        parents: parent nodes by the name under which the stage reads them.
        models: by role, the node that makes the model, or the name of a model that no stage makes.
    """

    parents: dict[str, Node]
    models: dict[str, Node | str]

    def nodes(self) -> set[Node]:
        """Return the nodes among the parents and the models."""
        return {*self.parents.values(), *(found for found in self.models.values() if isinstance(found, Node))}


def node_of(pipeline: Pipeline, stage: str, round_: int) -> Node:
    """Return a stage's node in a round; round 0 for a stage whose result all rounds share.

    Raises:
        UserError: for a stage that is made anew in every round where `round_` is 0, as when the settings of a stage
            that all rounds share name it.
    """
    if not pipeline.stage(stage).per_round:
        return Node(stage, 0)
    if round_ < 1:
        raise UserError(
            f"stage {stage} is made anew in every round and cannot stand for what all rounds share; name another "
            "source or model in the configuration"
        )
    return Node(stage, round_)


def needs(pipeline: Pipeline, config: Settings, node: Node, given: Container[Node] = ()) -> Needs:
    """Return what one node is made from under a configuration.

    Args:
        pipeline: the pipeline of the stage.
        config: the configuration.
        node: the stage in its round.
        given: nodes whose revisions are in hand; one that can take a parent's place does.
    """
    stage = pipeline.stage(node.stage)
    parents = {name: node_of(pipeline, name, node.round) for name in stage.parents}
    for name, wanted in (stage.also(config, node.round) if stage.also else {}).items():
        found = _resolve(pipeline, wanted, node.round, "dataset")
        # A text that names no dataset stage (a file, a Hub dataset) is no parent: the stage reads it itself.
        if isinstance(found, Node):
            parents[name] = found
    for name, other in stage.instead.items():
        if (found := node_of(pipeline, other, node.round)) in given:
            parents[name] = found
    models = {
        role: _resolve(pipeline, wanted, node.round, "model")
        for name, fill in stage.roles.items()
        for role, wanted in _filled(name, fill(config, node.round)).items()
    }
    return Needs(parents, models)


def _filled(role: str, found: "str | At | Sequence[str]") -> "dict[str, str | At]":
    """Return the models of a role by name: `policy-1`, `policy-2`, … where there may be several."""
    if isinstance(found, str | At):
        return {role: found}
    return {f"{role}-{number}": name for number, name in enumerate(found, 1)}


def _resolve(pipeline: Pipeline, wanted: "str | At", round_: int, kind: Kind) -> "Node | str":
    """Return the node that an `At` or a setting's text refers to.

    A text that names no stage of this kind is returned as it is.
    """
    if isinstance(wanted, At):
        return node_of(pipeline, wanted.stage, round_ if wanted.round is None else wanted.round)
    stage = pipeline.find(wanted)
    return wanted if stage is None or stage.kind != kind else node_of(pipeline, wanted, round_)


def model_node(pipeline: Pipeline, wanted: "str | At", round_: int) -> "Node | str":
    """Return the node that makes a model, or the name of a model that no stage makes."""
    return _resolve(pipeline, wanted, round_, "model")
