"""Pipelines: a literal tuple of stages, a settings class, and what a round is.

A pipeline is plain data. The runner, the cards, the inspections and the command line are handed one and know none by
name; see docs/architecture.md.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builders.cards.card import Page
from builders.core.costs import CostPlan, Rehearsed
from builders.core.evaluation_table import EvaluationTable
from builders.core.stage import Stage
from builders.settings.base import Settings
from builders.store.manifest import Manifest
from builders.store.ref import round_tag
from builders.store.revision import Revision
from scorers.errors import UserError, did_you_mean


def one_round(config: Any) -> int:
    """Return 1, the number of rounds of a pipeline without a loop."""
    return 1


@dataclass(frozen=True)
class Pipeline:
    """A pipeline as plain data.

    Attributes:
        name: the value of `pipeline:` in a configuration, and of the manifests' field.
        settings: class of its configuration.
        stages: all stages in topological order.
        last: name of the stage with which a round ends.
        preset: a preset of this pipeline, on which the configuration printed on a card is based.
        rounds: returns the number of rounds of a configuration.
        round_line: returns the sentence printed about a finished round, from the round's manifests.
        watch: yields the lines printed after a round, about what was made in it and what its model has learned so far;
            raises a UserError where the loop should stop.
        compared: returns the comparison that some of its datasets hold, such as answers of several policies to the same
            queries; None where they hold none.
        evaluate: compares policies, given as REFs, and writes its files into a folder.
        evaluate_contexts: compares the context windows and methods of one policy in the same way.
        benchmarks: by name, compares models on a benchmark: models that answer, given as REFs, files of responses and
            files of scores; it writes its files into a folder.
        costs: counts what a configuration will cost, before anything is built.
        rehearse: runs everything once, small, and measures it; with True, on models with random weights.
    """

    name: str
    settings: type[Settings]
    stages: tuple[Stage, ...]
    last: str
    preset: str
    rounds: Callable[[Any], int] = one_round
    round_line: Callable[[Sequence[Manifest]], str] | None = None
    watch: Callable[[Any, int, Mapping[str, Revision]], Iterable[str]] | None = None
    compared: Callable[[Sequence[Revision]], EvaluationTable | None] | None = None
    evaluate: Callable[[Any, Sequence[str], Path], EvaluationTable] | None = None
    evaluate_contexts: Callable[[Any, Sequence[str], Path, Sequence[int], Sequence[str]], EvaluationTable] | None = None
    benchmarks: Mapping[str, Callable[[Any, Sequence[str], Sequence[str], Sequence[str], Path], EvaluationTable]] = (
        field(default_factory=dict)
    )
    costs: Callable[[Any], CostPlan] | None = None
    rehearse: Callable[[Any, bool], Sequence[Rehearsed]] | None = None

    def find(self, name: str) -> Stage | None:
        """Return a stage by name; None where the pipeline has no such stage."""
        return next((stage for stage in self.stages if stage.name == name), None)

    def stage(self, name: str) -> Stage:
        """Return a stage by name.

        Raises:
            UserError: for an unknown name; the message suggests the closest one.
        """
        found = self.find(name)
        if found is None:
            names = [stage.name for stage in self.stages]
            raise UserError(f"--stage {name}: unknown{did_you_mean(name, names)}; stages: {', '.join(names)}")
        return found

    def repo(self, stage: Stage, config: Settings) -> str:
        """Return the name of a stage's repository in the store, `namespace/stem-suffix`."""
        if stage.stem is not None:  # shared by the runs of a store, whatever namespace they publish to
            return f"local/{stage.stem(config)}-{stage.suffix}"
        return f"{config.local_namespace}/{config.name}-{stage.suffix}"

    def summaries(self) -> tuple[str, ...]:
        """Return the numeric columns whose distribution some stage's manifest keeps, each once."""
        return tuple(dict.fromkeys(name for stage in self.stages for name in stage.summaries))

    def upto(self, target: Stage) -> Iterator[Stage]:
        """Yield the target and the stages that its `parents` lead to, nearest first."""
        waiting = [target]
        seen = set()
        while waiting:
            # From the front: breadth first, so a nearer stage comes before a farther one.
            stage = waiting.pop(0)
            if stage.name not in seen:
                seen.add(stage.name)
                yield stage
                waiting += [self.stage(name) for name in stage.parents]

    def page(self, manifest: Manifest) -> Page:
        """Return what a card needs to know of the stage that made a revision, and of the stages around it.

        Raises:
            UserError: for a manifest of a stage that this pipeline does not have.
        """
        stage = self.find(manifest.stage)
        if stage is None:
            known = ", ".join(stage.name for stage in self.stages)
            raise UserError(f"{manifest.repo}: pipeline {self.name} has no stage {manifest.stage}; stages: {known}")
        # The parent that the card's command names, or what took its place; models follow from the configuration.
        starts = next((p for p in stage.parents if self.stage(p).kind == "dataset"), None)
        instead = stage.instead.get(starts or "")
        if any(parent.stage == instead for parent in manifest.parents):
            starts = instead
        # The card's next step: the first dataset stage whose first parent is this stage, on the way to the last stage
        # where there is one.
        below = [s for s in self.stages if s.kind == "dataset" and s.parents[:1] == (stage.name,)]
        way = {s.name for s in self.upto(self.stage(self.last))}
        below.sort(key=lambda s: s.name not in way)
        following = below[0] if below and stage.kind == "dataset" else None
        return Page(
            card=stage.card,
            suffix=stage.suffix,
            command=command_of(stage, self, manifest.round),
            preset=self.preset,
            columns=stage.columns,
            parent=starts,
            following=None if following is None else f"build --stage {following.name}",
        )


def command_of(stage: Stage, pipeline: Pipeline, round_: int) -> str:
    """Return the command that builds a stage: `build` for a dataset, `train` for a model."""
    if stage.kind == "dataset":
        command = f"build --stage {stage.name}"
    else:
        command = "train" if stage.name == pipeline.last else f"train --stage {stage.name}"
    return f"{command} --round {round_}" if round_ else command


def tag_of(stage: Stage, round_: int) -> str:
    """Return the tag of a stage's revision in a round; `round-000` for a stage whose result all rounds share."""
    return round_tag(round_ if stage.per_round else 0)


def pipeline_named(name: str, pipelines: Sequence[Pipeline]) -> Pipeline | None:
    """Return a pipeline by name; None for a name that is not among them, as in a foreign manifest."""
    return next((pipeline for pipeline in pipelines if pipeline.name == name), None)
