"""The literal tuple of pipelines, and the library's way in: `load_config`, `build`, `plan`."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from builders.cards.card import Page
from builders.core.pipeline import EvaluationTable, Pipeline, pipeline_named
from builders.core.run import StagePlan, StageResult, dry_run, run
from builders.settings.base import Settings
from builders.settings.load import load_settings
from builders.store.manifest import Kind, Manifest
from scorers.errors import UserError
from training.grace_kto.pipeline import GRACE_KTO

PIPELINES = (GRACE_KTO,)


def load_config(source: str | None = None, overrides: Iterable[str] = (), store: str | None = None) -> Any:
    """Read a preset or a YAML file, with `section.key=value` on top; the pipeline it names decides its sections.

    Raises:
        UserError: for an unknown preset, an unreadable file, an unknown key (with the close match) or a bad value.
    """
    return load_settings(source, {pipeline.name: pipeline.settings for pipeline in PIPELINES}, overrides, store)


def pipeline_of(config: Settings) -> Pipeline:
    """The pipeline that a configuration names."""
    found = pipeline_named(config.pipeline, PIPELINES)
    if found is None:
        raise UserError(f"pipeline: {config.pipeline} is unknown; pipelines: {', '.join(p.name for p in PIPELINES)}")
    return found


def build(
    config: Settings,
    stage: str,
    *,
    round_: int = 1,
    start: str | None = None,
    force: bool = False,
    require_pinned: bool = False,
) -> list[StageResult]:
    """Build what is missing or stale up to a stage, of a dataset or of a model; see `builders.core.run.run`."""
    return run(
        pipeline_of(config), config, stage, round_=round_, start=start, force=force, require_pinned=require_pinned
    )


def plan(config: Settings, stage: str, *, round_: int = 1, start: str | None = None) -> list[StagePlan]:
    """What `build` would do and why, without doing it."""
    return dry_run(pipeline_of(config), config, stage, round_=round_, start=start)


def evaluate_policies(config: Settings, references: Sequence[str], output: Path) -> EvaluationTable:
    """Compare policies as the pipeline of a configuration does.

    Raises:
        UserError: for a pipeline that has no evaluation, and for a policy or held-out data that is missing.
    """
    pipeline = pipeline_of(config)
    if pipeline.evaluate is None:
        raise UserError(f"pipeline {pipeline.name} has no `grace evaluate`; look at its datasets with `grace diff`")
    return pipeline.evaluate(config, references, output)


def page_of(manifest: Manifest) -> Page:
    """What the card of a revision shows beyond its manifest.

    Raises:
        UserError: for a revision of an unknown pipeline or stage.
    """
    found = pipeline_named(manifest.pipeline, PIPELINES)
    if found is None:
        known = ", ".join(pipeline.name for pipeline in PIPELINES)
        raise UserError(f"{manifest.repo}: pipeline {manifest.pipeline} is unknown; pipelines: {known}")
    return found.page(manifest)


def require_kind(config: Settings, stage: str, kind: Kind) -> None:
    """Refuse a model stage for `build` and a dataset stage for `train`.

    Raises:
        UserError: also for an unknown stage.
    """
    pipeline = pipeline_of(config)
    found = pipeline.stage(stage)
    if found.kind != kind:
        names = ", ".join(s.name for s in pipeline.stages if s.kind == kind)
        command = "train" if found.kind == "model" else "build"
        raise UserError(f"--stage {stage} yields a {found.kind}: `{command} --stage {stage}` makes it; here: {names}")
