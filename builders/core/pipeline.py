"""A pipeline: a literal graph of stages, a settings class, and what a round is."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builders.cards.card import Page
from builders.core.stage import Stage
from builders.settings.base import Settings
from builders.store.manifest import Manifest
from builders.store.store import round_tag
from scorers.errors import UserError, did_you_mean


def one_round(config: Any) -> int:
    """Number of rounds of a pipeline that has no loop."""
    return 1


@dataclass(frozen=True)
class EvaluationTable:
    """An evaluation as it is printed: a title, a table, lines below it; and `public`, all of it for machines."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    lines: Sequence[str]
    public: dict[str, Any]


@dataclass(frozen=True)
class Pipeline:
    """Stages in topological order.

    `last` is the stage that a round ends with, `rounds` the number of rounds of a configuration, `round_line` what is
    said of a finished round, from its manifests. `evaluate` compares policies by their REFs and writes its files into a
    folder. `preset` is a preset of this pipeline, on which a card's configuration is based.
    """

    name: str
    settings: type[Settings]
    stages: tuple[Stage, ...]
    last: str
    preset: str
    rounds: Callable[[Any], int] = one_round
    round_line: Callable[[Sequence[Manifest]], str] | None = None
    evaluate: Callable[[Any, Sequence[str], Path], EvaluationTable] | None = None

    def find(self, name: str) -> Stage | None:
        """A stage by name; None where there is none."""
        return next((stage for stage in self.stages if stage.name == name), None)

    def stage(self, name: str) -> Stage:
        """A stage by name.

        Raises:
            UserError: for an unknown name, with the close match.
        """
        found = self.find(name)
        if found is None:
            names = [stage.name for stage in self.stages]
            raise UserError(f"--stage {name}: unknown{did_you_mean(name, names)}; stages: {', '.join(names)}")
        return found

    def repo(self, stage: Stage, config: Settings) -> str:
        """Name of a stage's repository in the store."""
        stem = config.name if stage.stem is None else stage.stem(config)
        return f"{config.local_namespace}/{stem}-{stage.suffix}"

    def summaries(self) -> tuple[str, ...]:
        """The numeric columns whose distribution any stage keeps, each once."""
        return tuple(dict.fromkeys(name for stage in self.stages for name in stage.summaries))

    def upto(self, target: Stage) -> Iterator[Stage]:
        """The target and the stages its `parents` lead to, the nearest first."""
        waiting = [target]
        seen = set()
        while waiting:
            stage = waiting.pop(0)
            if stage.name not in seen:
                seen.add(stage.name)
                yield stage
                waiting += [self.stage(name) for name in stage.parents]

    def page(self, manifest: Manifest) -> Page:
        """What a card needs to know of the stage that made a revision.

        Raises:
            UserError: for a stage that this pipeline has not.
        """
        stage = self.find(manifest.stage)
        if stage is None:
            known = ", ".join(stage.name for stage in self.stages)
            raise UserError(f"{manifest.repo}: pipeline {self.name} has no stage {manifest.stage}; stages: {known}")
        starts = next((p for p in stage.parents if self.stage(p).kind == "dataset"), None)
        below = [s for s in self.stages if s.kind == "dataset" and s.parents[:1] == (stage.name,)]
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
    """The command that builds a stage: `build` for a dataset, `train` for a model."""
    if stage.kind == "dataset":
        command = f"build --stage {stage.name}"
    else:
        command = "train" if stage.name == pipeline.last else f"train --stage {stage.name}"
    return f"{command} --round {round_}" if round_ else command


def tag_of(stage: Stage, round_: int) -> str:
    """The ref under which a stage's revision of a round is kept; round 0 for what is the same in all rounds."""
    return round_tag(round_ if stage.per_round else 0)


def pipeline_named(name: str, pipelines: Sequence[Pipeline]) -> Pipeline | None:
    """A pipeline by name; None where there is none, as for a manifest of somebody else's."""
    return next((pipeline for pipeline in pipelines if pipeline.name == name), None)
