"""A dataset that the user gives, in place of a stage or as a source: which stage it stands for, and whether it fits."""

import logging
from dataclasses import replace

import polars as pl

from builders.core.nodes import Node, node_of
from builders.core.pipeline import Pipeline
from builders.core.plan import SOURCE, Inputs
from builders.core.stage import Stage
from builders.hub.refs import open_revision
from builders.store.columns import require_columns
from builders.store.manifest import Parent
from builders.store.names import naming_near
from builders.store.ref import is_local
from builders.store.revision import Choice, Revision
from builders.store.store import Store
from scorers.errors import UserError

log = logging.getLogger(__name__)


def given_datasets(
    pipeline: Pipeline,
    store: Store,
    target: str,
    round_: int,
    start: str | None,
    choice: Choice,
    require_pinned: bool = False,
) -> dict[Node, Revision]:
    """Open the dataset of `start` and return it under the node whose place it takes; empty without `start`."""
    last = pipeline.stage(target)
    if start is None:
        if choice != Choice():
            raise UserError("--subset and --split choose a part of the dataset to start from; give that dataset too")
        return {}
    if not last.parents:
        raise UserError(f"dataset {start}: stage {target} reads its source, not another stage's dataset")
    with naming_near(start, store, ("dataset",)):
        revision = open_revision(start, store, "dataset", require_pinned=require_pinned, choice=choice)
    schema = revision.schema()
    origin = _origin(pipeline, last, revision, start)
    needed = last.reads if last.reads and origin.name == last.parents[0] else origin.columns
    require_columns(schema, needed, f"dataset {start}")
    if revision.scan().select(pl.len()).collect().item() == 0:
        raise UserError(f"dataset {start} is empty; at least one row is needed")
    # It takes part in this round, whichever round its manifest names.
    made_for = revision.manifest.round if revision.manifest is not None else 0
    if made_for not in (0, round_):
        log.warning("dataset %s was made for round %d and is used in round %d", start, made_for, round_)
    found = {node_of(pipeline, origin.name, round_): revision}
    # A target with several parents takes the others that the dataset itself was made from, where it does not add them:
    # ratings belong to the criteria that their responses were written under.
    made_from = revision.manifest.parents if revision.manifest is not None and origin.name in last.parents else ()
    for parent in made_from:
        if parent.stage in last.parents and parent.kind == "dataset":
            other = store.find(parent.repo, parent.revision, "dataset")
            if other is None and not is_local(parent.repo):
                other = open_revision(f"{parent.repo}@{parent.revision}", store, "dataset")
            if other is not None:
                found.setdefault(node_of(pipeline, parent.stage, round_), other)
    return found


def with_source(inputs: Inputs, store: Store) -> Inputs:
    """Return a node's inputs with the dataset that it reads from outside: fetched, and one of its parents."""
    source = inputs.source
    if source is None or source.ref is None:
        return inputs
    revision = open_revision(str(source.ref), store, "dataset", choice=source.choice)
    parents = {**inputs.parents, SOURCE: revision}
    # A folder of the user's that says nothing of its origin is no lineage, as a file is none.
    if source.ref.path is not None and revision.manifest is None:
        return replace(inputs, parents=parents)
    record = Parent(
        stage=SOURCE,
        kind="dataset",
        repo=revision.repo,
        revision=revision.revision,
        digest=revision.digest,
        subset=revision.part.subset,
        split=revision.part.split,
    )
    return replace(inputs, parents=parents, records=[*inputs.records, record])


def _origin(pipeline: Pipeline, target: Stage, revision: Revision, start: str) -> Stage:
    """Find the stage whose place a given dataset takes.

    Raises:
        UserError: no stage above the target has such a dataset, or a training is given one of a stage further up.
    """
    origin = origin_of(pipeline, revision, target)
    nearest = pipeline.stage(target.parents[0])
    if origin is None and revision.manifest is not None and revision.manifest.pipeline == pipeline.name:
        above = [stage.name for stage in pipeline.upto(target) if stage is not target and stage.kind == "dataset"]
        raise UserError(
            f"dataset {start}: it is of stage {revision.manifest.stage}; {target.name} starts from one of "
            f"{', '.join([*reversed(above), *target.instead.values()])}"
        )
    if origin is None:
        raise UserError(
            f"dataset {start}: none of its columns ({', '.join(revision.schema().names())}) is one that a stage above "
            f"{target.name} adds; {target.name} takes a {nearest.suffix} dataset"
        )
    if target.kind == "model" and origin.name not in (*target.parents, *target.instead.values()):
        raise UserError(
            f"dataset {start}: it is of stage {origin.name}, and {target.name} trains on a {nearest.suffix} dataset; "
            f"`build --stage {nearest.name} --from {start}` makes one"
        )
    return origin


def origin_of(pipeline: Pipeline, revision: Revision, target: Stage) -> Stage | None:
    """Find the stage whose place a dataset given by the user takes; None where no stage fits.

    That is the stage its manifest names, if it stands above `target` or can take a parent's place. For a foreign
    dataset it is guessed from the columns: the last stage above `target` that introduces one of them.
    """
    # Nearest stage first, so the first match below is the last stage.
    above = [stage for stage in pipeline.upto(target) if stage is not target and stage.kind == "dataset"]
    if revision.manifest is not None and revision.manifest.pipeline == pipeline.name:
        # What it is need not be guessed; a later stage's rows would pass for an earlier one's by their columns.
        known = [*above, *(pipeline.stage(name) for name in target.instead.values())]
        return next((stage for stage in known if stage.name == revision.manifest.stage), None)
    columns = set(revision.schema().names())
    return next((stage for stage in above if _introduced(pipeline, stage) & columns), None)


def _introduced(pipeline: Pipeline, stage: Stage) -> set[str]:
    """Return the names of the columns that a stage adds to those of its parents."""
    inherited = {column.name for parent in stage.parents for column in pipeline.stage(parent).columns}
    return {column.name for column in stage.columns} - inherited
