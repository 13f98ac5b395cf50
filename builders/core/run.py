"""The one place that turns a stage into shards and one immutable revision.

A stage is stale when its configuration, its version, its models or a parent's revision changed; its fingerprint is the
hash of these. The finished shard file is the marker of resume: a rerun checks the shards that are there and makes the
others, and yields the same bytes as an undisturbed run. The revision appears by one rename.
"""

import errno
import importlib.metadata
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from builders.cards.render import write_card
from builders.core.console import Progress
from builders.core.models import ModelNotReady, Models
from builders.core.stage import Context, Shard, Stage
from builders.grace_kto.columns import check_frame, require_columns
from builders.hub.refs import open_revision
from builders.settings.load import Config
from builders.store.manifest import Manifest, Model, Parent, Rows, Summary, content_digest, fingerprint_of, portable
from builders.store.shards import shard_counts, shard_is_whole, shard_rows, write_shard
from builders.store.store import Revision, Store, describe_files, round_tag
from scorers.errors import UserError
from training.pipelines import GRACE_KTO, STAGE_NAMES, stage_named, stage_of_dataset

MAX_SHARDS = 10_000  # the Hub takes no more entries in one folder


@dataclass(frozen=True)
class Inputs:
    """Everything that decides a stage's result, resolved."""

    parents: dict[str, Revision]
    models: dict[str, Model]
    recipe: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """Hash of the recipe."""
        return fingerprint_of(self.recipe)


@dataclass(frozen=True)
class StageResult:
    """What happened to one stage: the revision, whether it was built now, and how long that took."""

    stage: str
    revision: Revision
    built: bool
    reason: str
    seconds: float


@dataclass(frozen=True)
class StagePlan:
    """What a dry run says of one stage."""

    stage: str
    repo: str
    action: str
    reason: str


def repo_of(stage: Stage, config: Config) -> str:
    """Repository name of a stage's dataset in the store."""
    return f"{config.local_namespace}/{config.name}-{stage.dataset}"


def build(
    config: Config,
    target: str,
    *,
    round_: int = 1,
    start: str | None = None,
    force: bool = False,
    require_pinned: bool = False,
) -> list[StageResult]:
    """Build what is missing or stale up to a stage, and nothing else.

    Args:
        target: name of the last stage.
        round_: round of the semi-online loop.
        start: REF of a dataset that takes the place of the stages above; its stage follows from its columns.
        force: build even what is fresh.
        require_pinned: refuse a branch in `start`.

    Raises:
        UserError: for a user's mistake; nothing half-written is left in the store.
    """
    store = Store(Path(config.store))
    with store.lock():
        models = Models(config, store, round_)
        try:
            return list(_build_chain(config, store, models, chain(target, start, store, require_pinned), round_, force))
        finally:
            models.close_engine()


def _build_chain(
    config: Config,
    store: Store,
    models: Models,
    chained: tuple[list[Stage], dict[str, Revision]],
    round_: int,
    force: bool,
) -> Iterator[StageResult]:
    stages, given = chained
    for stage in stages:
        inputs = inputs_of(stage, config, store, round_, given)
        existing = store.find(repo_of(stage, config), tag_of(stage, round_))
        reason = "forced" if force else stale_reason(existing, stage, inputs)
        began = time.monotonic()
        if reason is None and existing is not None:
            given[stage.name] = existing
            yield StageResult(stage.name, existing, False, "fresh", 0.0)
            continue
        if "policy" not in stage.roles:
            models.close_engine()  # scoring needs the memory
        context = Context(config, store, round_, inputs.parents, models)
        given[stage.name] = _build_stage(stage, context, inputs)
        yield StageResult(stage.name, given[stage.name], True, reason or "missing", time.monotonic() - began)


def chain(
    target: str, start: str | None, store: Store, require_pinned: bool = False
) -> tuple[list[Stage], dict[str, Revision]]:
    """The stages to look at for a target, and the given dataset under the name of the stage it stands for."""
    last = stage_named(target)
    end = STAGE_NAMES.index(target) + 1
    if start is None:
        return list(GRACE_KTO[:end]), {}
    if last.parent is None:
        raise UserError(f"--from {start}: stage {target} starts from seed.source, not from a dataset")
    revision = open_revision(start, store, require_pinned=require_pinned)
    schema = revision.schema()
    origin = stage_of_dataset(set(schema.names()), last)
    if origin is None:
        raise UserError(
            f"--from {start}: none of its columns ({', '.join(schema.names())}) is one that a stage above {target} "
            f"adds; {target} takes a {stage_named(last.parent).dataset} dataset"
        )
    require_columns(schema, origin.columns, f"--from {start}")
    if revision.scan().select(pl.len()).collect().item() == 0:
        raise UserError(f"--from {start} is empty; at least one row is needed")
    return list(GRACE_KTO[STAGE_NAMES.index(origin.name) + 1 : end]), {origin.name: revision}


def stages_for(config: Config, target: str, start: str | None = None, *, require_pinned: bool = False) -> list[Stage]:
    """The stages that a build looks at."""
    return chain(target, start, Store(Path(config.store)), require_pinned)[0]


def tag_of(stage: Stage, round_: int) -> str:
    """The ref under which a stage's revision of a round is kept; the seeds are the same for all rounds."""
    return round_tag(round_ if stage.per_round else 0)


def inputs_of(stage: Stage, config: Config, store: Store, round_: int, given: dict[str, Revision]) -> Inputs:
    """Resolve a stage's parents and models.

    Raises:
        ModelNotReady: where a model is still to be made.
    """
    parents = {stage.parent: given[stage.parent]} if stage.parent else {}
    parents |= stage.extra_inputs(config, store, round_)
    finder = Models(config, store, round_)
    models = {role: finder.find(role).record for role in stage.roles}
    sections = {name: portable(getattr(config, name).model_dump()) for name in stage.sections}
    recipe = {
        "stage": stage.name,
        "version": stage.version,
        "configuration": sections,
        "prompts": stage.prompts(config, parents),
        "random_seed": config.random_seed,
        "round": round_ if stage.per_round else 0,
        "parents": {name: [parent.repo, parent.revision] for name, parent in parents.items()},
        "models": {role: [model.id, model.revision] for role, model in models.items()},
        "source": stage.source(config, store) if stage.source else None,
    }
    return Inputs(parents, models, recipe)


def stale_reason(existing: Revision | None, stage: Stage, inputs: Inputs) -> str | None:
    """Why a stage has to be built, in words; None where it is fresh."""
    if existing is None or existing.manifest is None:
        return "missing"
    manifest = existing.manifest
    if manifest.fingerprint == inputs.fingerprint:
        return None
    if manifest.stage_version != stage.version:
        return f"stage version {manifest.stage_version} → {stage.version}"
    changed = [
        f"{section}.{key}"
        for section, values in inputs.recipe["configuration"].items()
        for key, value in values.items()
        if manifest.configuration.get(section, {}).get(key) != value
    ]
    if changed:
        return f"configuration changed: {', '.join(changed)}"
    old = {parent.stage: parent.revision for parent in manifest.parents}
    moved = [name for name, parent in inputs.parents.items() if old.get(name) != parent.revision]
    if moved:
        return f"parent changed: {', '.join(moved)}"
    swapped = [role for role, model in inputs.models.items() if manifest.models.get(role) != model]
    return f"model changed: {', '.join(swapped)}" if swapped else "source, prompt or seed changed"


def dry_run(config: Config, target: str, *, round_: int = 1, start: str | None = None) -> list[StagePlan]:
    """What `build` would do and why, without doing it."""
    store = Store(Path(config.store))
    stages, given = chain(target, start, store)
    plans: list[StagePlan] = []
    waiting = None
    for stage in stages:
        repo = repo_of(stage, config)
        existing = store.find(repo, tag_of(stage, round_))
        reason: str | None = f"{waiting} is built first"
        if waiting is None:
            try:
                reason = stale_reason(existing, stage, inputs_of(stage, config, store, round_, given))
            except ModelNotReady as error:
                reason = str(error)
        if reason is None and existing is not None:
            given[stage.name] = existing
            plans.append(StagePlan(stage.name, repo, "keep", f"fresh at {existing.revision[:12]}"))
        else:
            waiting = stage.name
            plans.append(StagePlan(stage.name, repo, "build", reason or "missing"))
    return plans


def _build_stage(stage: Stage, context: Context, inputs: Inputs) -> Revision:
    config, store = context.config, context.store
    repo = repo_of(stage, config)
    context.work = store.work_path(repo, inputs.fingerprint)
    context.work.mkdir(parents=True, exist_ok=True)
    shards = stage.plan(context)
    if not 1 <= len(shards) < MAX_SHARDS:
        raise UserError(
            f"stage {stage.name}: {len(shards)} shards; between 1 and {MAX_SHARDS - 1} are possible: "
            "seed.shard_rows, generate.shard_queries and sample.shard_queries set their size; or look at its parent"
        )
    with Progress(stage.name, len(shards)) as progress:
        for shard in shards:
            path = _shard_path(context.work, shard)
            if not shard_is_whole(path):
                _forget_following(stage, context.work, shard)
                _build_shard(stage, context, shard, path)
            progress.advance(shard_rows(path), shard_counts(path).get("tokens", 0))
    paths = [_shard_path(context.work, shard) for shard in shards]
    revision = _assemble(stage, context, inputs, paths)
    shutil.rmtree(context.work)
    return revision


def _shard_path(work: Path, shard: Shard) -> Path:
    return work / f"shard-{shard.index:05d}.parquet"


def _forget_following(stage: Stage, work: Path, shard: Shard) -> None:
    """Where shards build on the ones before, a damaged one takes those after it along."""
    if not stage.sequential:
        return
    for path in work.glob("shard-*.parquet"):
        if path.name >= _shard_path(work, shard).name:
            path.unlink()


def _build_shard(stage: Stage, context: Context, shard: Shard, path: Path) -> None:
    result = stage.build(context, shard)
    check_frame(result.frame, stage.columns, f"stage {stage.name}, shard {shard.index}")
    write_shard(result.frame, stage.columns, path, result.counts)


def _assemble(stage: Stage, context: Context, inputs: Inputs, paths: list[Path]) -> Revision:
    """Link the shards into one folder with manifest and card, and move it into the store."""
    staged = context.work / "snapshot"
    shutil.rmtree(staged, ignore_errors=True)
    (staged / "data").mkdir(parents=True)
    rows = {}
    for index, path in enumerate(paths):
        name = f"data/train-{index:05d}-of-{len(paths):05d}.parquet"
        _link(path, staged / name)
        rows[name] = shard_rows(path)
    manifest = _manifest(stage, context, inputs, staged, rows, paths)
    write_card(manifest, staged, context.store, license=context.config.publish.license)
    return context.store.add(staged, manifest, ["main", tag_of(stage, context.round)])


def _link(path: Path, target: Path) -> None:
    """A hard link, or a copy where the file system has no links."""
    try:
        os.link(path, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
            raise
        shutil.copyfile(path, target)


def _manifest(
    stage: Stage, context: Context, inputs: Inputs, staged: Path, rows: dict[str, int], paths: list[Path]
) -> Manifest:
    counts: Counter[str] = Counter()
    for path in paths:
        counts.update(shard_counts(path))
    files = describe_files(staged, [staged / name for name in rows], rows)
    dropped = {key.removeprefix("dropped."): n for key, n in counts.items() if key.startswith("dropped.")}
    return Manifest(
        stage=stage.name,
        stage_version=stage.version,
        code_version=importlib.metadata.version("grace-data"),
        repo=repo_of(stage, context.config),
        round=inputs.recipe["round"],
        fingerprint=inputs.fingerprint,
        random_seed=context.config.random_seed,
        configuration=inputs.recipe["configuration"],
        prompts=inputs.recipe["prompts"],
        parents=[
            Parent(stage=name, repo=parent.repo, revision=parent.revision, digest=parent.digest)
            for name, parent in inputs.parents.items()
        ],
        models=inputs.models,
        rows=Rows(read=counts["read"], written=sum(rows.values()), dropped=dict(sorted(dropped.items()))),
        counts={k: n for k, n in sorted(counts.items()) if k != "read" and not k.startswith("dropped.")},
        metrics=summarise([staged / name for name in rows], stage.summaries),
        files=files,
        digest=content_digest(files),
    )


def summarise(files: list[Path], columns: Iterable[str]) -> dict[str, Summary]:
    """Distribution of numeric columns, one column in memory at a time; a column without values is left out."""
    summaries = {}
    for column in columns:
        values = pl.scan_parquet(files, glob=False).select(column).collect()[column].cast(pl.Float64)
        present = values.drop_nulls().sort()
        if present.is_empty():
            continue
        quantiles = {
            name: float(present.quantile(q, "linear") or 0.0)
            for name, q in (("q10", 0.1), ("q25", 0.25), ("median", 0.5), ("q75", 0.75), ("q90", 0.9))
        }
        summaries[column] = Summary(
            count=len(present),
            null=values.null_count(),
            mean=float(present.mean() or 0.0),  # type: ignore[arg-type]
            std=float(present.std(ddof=0) or 0.0),  # type: ignore[arg-type]
            min=float(present[0]),
            max=float(present[-1]),
            **quantiles,
        )
    return summaries
