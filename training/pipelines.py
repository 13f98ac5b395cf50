"""The literal tuple of pipelines, and the library's entry points: `load_config`, `plan`, `build`, `evaluate_policies`.

Each function looks up the pipeline that the configuration names and hands it to what all pipelines share. A new
pipeline is one more entry of `PIPELINES`.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from builders.cards.card import Page
from builders.core.costs import CostPlan, Rehearsed
from builders.core.evaluation_table import EvaluationTable
from builders.core.pipeline import Pipeline, pipeline_named
from builders.core.run import StagePlan, dry_run, run
from builders.core.runner import StageResult
from builders.report.page.opening import lineage_table, open_all
from builders.report.page.page import MAX_MB, Written, write_page
from builders.settings.base import Settings
from builders.settings.load import DEFAULT_PRESET, Configuration, preset_names, read_configuration
from builders.settings.write import write_config
from builders.store.manifest import Kind, Manifest
from builders.store.ref import ROUND_TAG
from builders.store.revision import Choice, Revision
from builders.store.store import Store
from scorers.errors import UserError, did_you_mean
from training.grace_kto.pipeline import GRACE_KTO
from training.rationalign.pipeline import RATIONALIGN
from training.writingbench.pipeline import WRITINGBENCH

PIPELINES = (GRACE_KTO, WRITINGBENCH, RATIONALIGN)


def load_config(source: str | None = None, overrides: Iterable[str] = (), store: str | None = None) -> Any:
    """Read a configuration: a preset or a YAML file, with overrides on top.

    Args:
        source: name of a preset, or path of a YAML file; None: `grace.yaml` in the working directory, else the preset
            `tiny`. Its `pipeline:` decides the settings class.
        overrides: `section.key=value` each, applied in order.
        store: folder of the local store; None: as the configuration says.

    Returns:
        Settings of the class that the pipeline names.

    Raises:
        UserError: an unknown preset, an unreadable file, an unknown key (with the close match) or a bad value.
    """
    return configuration(source, overrides, store).settings


def configuration(source: str | None = None, overrides: Iterable[str] = (), store: str | None = None) -> Configuration:
    """Read a configuration as `load_config` does, together with where each value comes from.

    Raises:
        UserError: as `load_config`.
    """
    classes = {pipeline.name: pipeline.settings for pipeline in PIPELINES}
    # Neither stages nor DeepSpeed's files that come with the package are looked for in a folder of the user's.
    names = {stage.name for pipeline in PIPELINES for stage in pipeline.stages}
    names |= {file.stem for file in (Path(__file__).parent / "zero").glob("*.json")}
    return read_configuration(source, classes, overrides, store, names)


def init_config(path: str, preset: str | None = None) -> Path:
    """Write a commented configuration file with the values of a preset.

    Args:
        path: the file to make.
        preset: name of the preset; None: `tiny`.

    Raises:
        UserError: an unknown preset, or the file cannot be made or exists already.
    """
    if not path.strip():
        raise UserError("no file is named; give one, such as grace.yaml")
    name = DEFAULT_PRESET if preset is None else preset
    if name not in preset_names():
        close = did_you_mean(name, preset_names())
        raise UserError(f"--config {name}: no preset{close}; a new file starts from one of {', '.join(preset_names())}")
    return write_config(path, name, load_config(name))


def pipeline_of(config: Settings) -> Pipeline:
    """The pipeline that a configuration names.

    Raises:
        UserError: the name is unknown.
    """
    found = pipeline_named(config.pipeline, PIPELINES)
    if found is None:
        raise UserError(f"pipeline: {config.pipeline} is unknown; pipelines: {', '.join(p.name for p in PIPELINES)}")
    return found


def summaries_of(config: Settings, datasets: Iterable[Revision]) -> tuple[str, ...]:
    """Return the numeric columns that the pipelines of some datasets compare; the configuration's where none says."""
    named = (pipeline_named(found.manifest.pipeline, PIPELINES) for found in datasets if found.manifest is not None)
    pipelines = [pipeline for pipeline in named if pipeline is not None] or [pipeline_of(config)]
    return tuple(dict.fromkeys(name for pipeline in pipelines for name in pipeline.summaries()))


def build(
    config: Settings,
    stage: str,
    *,
    round_: int = 1,
    start: str | None = None,
    subset: str | None = None,
    split: str | None = None,
    force: bool = False,
    require_pinned: bool = False,
) -> list[StageResult]:
    """Build whatever is missing or stale up to a stage, and nothing else; see `builders.core.run.run`.

    Args:
        config: settings of one pipeline, from `load_config`.
        stage: name of the last stage, of a dataset or of a model.
        round_: round to build, from 1.
        start: REF of a dataset that takes the place of the stages above it; None: start from the seeds.
        subset: configuration of `start` where it has several; None for its default.
        split: split of `start`; None for `train`, or the only one.
        force: build the target even where it is fresh; of a dataset also the datasets of its round.
        require_pinned: refuse a branch in `start` and in a source on the Hub; a tag or a commit is needed.

    Returns:
        One result per stage, in the order of building, the wanted stage last.

    Raises:
        UserError: for a user's mistake; nothing half-written is left in the store.
    """
    return run(
        pipeline_of(config),
        config,
        stage,
        round_=round_,
        start=start,
        choice=Choice(subset, split),
        force=force,
        require_pinned=require_pinned,
    )


def plan(
    config: Settings,
    stage: str,
    *,
    round_: int = 1,
    start: str | None = None,
    subset: str | None = None,
    split: str | None = None,
) -> list[StagePlan]:
    """Tell what `build` would do with each stage and why, without doing it.

    Raises:
        UserError: as `build`.
    """
    return dry_run(pipeline_of(config), config, stage, round_=round_, start=start, choice=Choice(subset, split))


def evaluate_policies(config: Settings, references: Sequence[str], output: Path) -> EvaluationTable:
    """Compare policies on held-out queries, in the way of the configuration's pipeline.

    Args:
        config: settings of one pipeline, from `load_config`.
        references: REFs of policies; none for the first policy and every round's.
        output: folder to write the comparison into.

    Raises:
        UserError: the pipeline has no evaluation, or a policy or the held-out data is missing.
    """
    pipeline = pipeline_of(config)
    if pipeline.evaluate is None:
        raise UserError(f"pipeline {pipeline.name} has no `grace evaluate`; look at its datasets with `grace diff`")
    return pipeline.evaluate(config, references, output)


def benchmark(
    config: Settings,
    name: str,
    policies: Sequence[str],
    scores: Sequence[str],
    output: Path,
    responses: Sequence[str] = (),
) -> EvaluationTable:
    """Compare models on a benchmark that the configuration's pipeline knows.

    Args:
        config: settings of one pipeline, from `load_config`.
        name: of the benchmark, such as writingbench.
        policies: REFs of models that answer its queries and are rated.
        scores: files of scores in the benchmark's own format, of models that have been rated elsewhere.
        output: folder to write the comparison into.
        responses: files of responses in the benchmark's own format, of models that have answered elsewhere; they are
            rated here.

    Raises:
        UserError: the pipeline does not know the benchmark, or as that benchmark.
    """
    require_benchmark(config, name)
    return pipeline_of(config).benchmarks[name](config, policies, responses, scores, output)


def require_benchmark(config: Settings, name: str) -> None:
    """Check that a configuration's pipeline knows a benchmark.

    Raises:
        UserError: it does not; the message says which presets' pipeline does.
    """
    pipeline = pipeline_of(config)
    if name not in pipeline.benchmarks:
        known = sorted(found for one in PIPELINES for found in one.benchmarks)
        presets = sorted(one.preset for one in PIPELINES if name in one.benchmarks)
        way = (
            f"; --config {presets[0]} has"
            if presets
            else f"{did_you_mean(name, known)}; benchmarks: {', '.join(known)}"
        )
        raise UserError(f"pipeline {pipeline.name} has no benchmark {name}{way}")


def agreement(ratings: str, human: str, store: str) -> EvaluationTable:
    """Tell how often a judge's ratings order two responses as people do; see `training.agreement`.

    Args:
        ratings: REF of a dataset of ratings.
        human: file of people's preferences.
        store: folder of the local store.

    Raises:
        UserError: a file is missing, or does not fit the ratings.
    """
    from training import agreement as pairwise

    return pairwise.agreement(ratings, human, store)


def evaluate_contexts(
    config: Settings, references: Sequence[str], output: Path, windows: Sequence[int], methods: Sequence[str]
) -> EvaluationTable:
    """Compare one policy in several context windows, in the way of the configuration's pipeline.

    Args:
        config: settings of one pipeline, from `load_config`.
        references: REF of the policy; none for the newest.
        output: folder to write the comparison into.
        windows: context windows in tokens.
        methods: how a window above the model's own is reached: none, dynamic, yarn.

    Raises:
        UserError: the pipeline has no such evaluation, or as `evaluate_policies`.
    """
    pipeline = pipeline_of(config)
    if pipeline.evaluate_contexts is None:
        raise UserError(f"pipeline {pipeline.name} has no `grace evaluate --contexts`; leave the option out")
    return pipeline.evaluate_contexts(config, references, output, windows, methods)


def plan_costs(config: Settings) -> CostPlan:
    """Count what a configuration will cost, before anything is built; nothing is downloaded.

    Args:
        config: settings of one pipeline, from `load_config`; its section `plan` names machine and assumptions.

    Raises:
        UserError: the pipeline cannot be counted, a model's shape is not known here, or a part cannot fit the machine;
            the message says what would.
    """
    pipeline = pipeline_of(config)
    if pipeline.costs is None:
        raise UserError(f"pipeline {pipeline.name} has no `grace plan`; `build --dry-run` says what would be built")
    return pipeline.costs(config)


def rehearse(config: Settings, *, random_weights: bool = False) -> Sequence[Rehearsed]:
    """Run the whole loop once, small, in a throw-away store, and measure every part.

    Args:
        config: settings of one pipeline, from `load_config`.
        random_weights: make models of the same shapes with random weights, so that nothing is downloaded.

    Raises:
        UserError: the pipeline has no rehearsal, and whatever would end the full run.
    """
    pipeline = pipeline_of(config)
    if pipeline.rehearse is None:
        raise UserError(f"pipeline {pipeline.name} has no `grace rehearse`; `build --dry-run` says what would be built")
    return pipeline.rehearse(config, random_weights)


def whole_run(config: Settings) -> list[Revision]:
    """List what the store holds of a configuration's run: seeds first, then round after round, in the pipeline's order.

    The generated world, which several runs may share, is not listed; it is among what the others were made from.

    Raises:
        UserError: the store holds nothing of this run.
    """
    pipeline, store = pipeline_of(config), Store(Path(config.store))
    found: list[tuple[int, int, Revision]] = []
    for place, stage in enumerate(pipeline.stages):
        repo = pipeline.repo(stage, config)
        tags = store.refs(repo, stage.kind) if stage.stem is None else {}
        for tag in tags:
            if ROUND_TAG.fullmatch(tag) and (revision := store.find(repo, tag, stage.kind)) is not None:
                found.append((int(tag[6:]), place, revision))
    if not found:
        # Built before a namespace to publish to was set; `push REF` takes such a revision there too.
        if config.namespace is not None:
            return whole_run(config.model_copy(update={"namespace": None}))
        raise UserError(f"store {store.root}: holds nothing of {config.name}; `build` and `grace loop` make it")
    return [revision for _, _, revision in sorted(found, key=lambda item: item[:2])]


def report(
    config: Settings,
    references: Sequence[str],
    output: Path,
    max_mb: float = MAX_MB,
    *,
    subset: str | None = None,
    split: str | None = None,
) -> Written:
    """Write one HTML page of published or local revisions, with a browser of their groups; see `builders.report.page`.

    Args:
        config: settings of any pipeline, from `load_config`, for the folder of the local store.
        references: REFs of datasets and models; the groups of several datasets stand side by side.
        output: the file.
        max_mb: megabytes that the page may have; beyond that whole groups are left out, and counted.
        subset: configuration of datasets of other people that have several; None for their default.
        split: their split; None for `train`, or the only one.

    Raises:
        UserError: a REF stands for nothing, stands there twice, or has no text to show; the output is a folder.
    """
    store = Store(Path(config.store))
    revisions = open_all(references, store, Choice(subset, split))
    stages = [(pipeline_named(m.pipeline, PIPELINES), m.stage) for one in revisions if (m := one.manifest) is not None]
    found = [pipeline.find(name) for pipeline, name in stages if pipeline is not None]
    meanings = {column.name: column.meaning for stage in found if stage is not None for column in stage.columns}
    lineage = [table for one in zip(references, revisions, strict=True) if (table := lineage_table(*one, store))]
    pipelines = dict.fromkeys(pipeline.name for pipeline, _ in stages if pipeline is not None)
    asked = (p.compared(revisions) for p in PIPELINES if p.name in pipelines and p.compared is not None)
    comparisons = [found for found in asked if found is not None]
    tables = [table for found in comparisons for table in (found, *found.beside)]
    from builders.report.pictures import pictures_of

    drawn = [(named, picture) for named, one in zip(references, revisions, strict=True) for picture in pictures_of(one)]
    pictures = [picture for found in comparisons for picture in found.pictures]
    pictures += [(f"{picture.title}, {named}", picture.svg) for named, picture in drawn]
    return write_page(
        output,
        revisions,
        store,
        meanings=meanings,
        tables=tables,
        lineage=lineage,
        pictures=pictures,
        max_mb=max_mb,
    )


def page_of(manifest: Manifest) -> Page:
    """The description of the stage that made a revision, which its card is rendered from together with the manifest.

    Raises:
        UserError: the revision comes from an unknown pipeline or stage.
    """
    found = pipeline_named(manifest.pipeline, PIPELINES)
    if found is None:
        known = ", ".join(pipeline.name for pipeline in PIPELINES)
        raise UserError(f"{manifest.repo}: pipeline {manifest.pipeline} is unknown; pipelines: {known}")
    return found.page(manifest)


def require_kind(config: Settings, stage: str, kind: Kind) -> None:
    """Check that a stage yields the kind that a command makes: datasets for `build`, models for `train`.

    Raises:
        UserError: the stage yields the other kind, or is unknown.
    """
    pipeline = pipeline_of(config)
    found = pipeline.stage(stage)
    if found.kind != kind:
        names = ", ".join(s.name for s in pipeline.stages if s.kind == kind)
        # The other command, which can make this stage.
        command = "train" if found.kind == "model" else "build"
        raise UserError(f"--stage {stage} yields a {found.kind}: `{command} --stage {stage}` makes it; here: {names}")
