"""Assembling a revision: its files, manifest and card in one folder, moved into the store by one rename.

Work folder and store lie on the same file system, so a reader of the store sees the whole revision or none of it.
"""

import importlib.metadata
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from builders.cards.render import write_card
from builders.core.nodes import Node
from builders.core.pipeline import tag_of
from builders.core.plan import Graph, Inputs
from builders.core.stage import Stage, Trained
from builders.settings.base import executions
from builders.store.files import ADAPTER_CONFIG, link
from builders.store.manifest import (
    FILE_NAME,
    TRAINING_LOG,
    TRAINING_STATE,
    DataFile,
    Manifest,
    Rows,
    content_digest,
    describe_files,
    portable,
)
from builders.store.revision import Revision
from builders.store.shards import shard_counts, shard_rows, shard_sha256
from builders.store.summary import summarise
from scorers.errors import UserError

# What a model's folder has to hold: one file of each kind, at least.
MODEL_FILES = {
    "configuration": ("config.json", ADAPTER_CONFIG),
    "weights": ("*.safetensors",),
    "tokenizer": ("tokenizer_config.json",),
}
SPLIT = "split"  # the column that says which split of its dataset a row belongs to
DISTRIBUTION = "grace-data"  # the installed package whose version a manifest records as code_version


def add_dataset(graph: Graph, node: Node, inputs: Inputs, work: Path, shards: list[Path]) -> Revision:
    """Add a dataset revision to the store from its finished shards.

    Args:
        graph: the graph that is being built, with its pipeline, configuration and store.
        node: stage and round of the dataset.
        inputs: the node's resolved inputs, recorded in the manifest.
        work: the build's working folder; the revision is assembled in its subfolder `snapshot`.
        shards: the finished shard files in order; they become `data/train-00000-of-0000N.parquet` and so on, or those
            of the split that their column `split` names, which is the same in all rows of a file.
    """
    stage = graph.pipeline.stage(node.stage)
    staged = work / "snapshot"
    # A killed run may have left a half-filled folder.
    shutil.rmtree(staged, ignore_errors=True)
    (staged / "data").mkdir(parents=True)
    listed = []
    counts: Counter[str] = Counter()
    for shard, name in zip(shards, file_names(stage, shards), strict=True):
        # Linked, not moved: until the revision is in the store the shards are what a rerun resumes from.
        link(shard, staged / name)
        size = shard.stat().st_size
        listed.append(DataFile(path=name, size=size, sha256=shard_sha256(shard), rows=shard_rows(shard)))
        counts.update(shard_counts(shard))
    files = [staged / file.path for file in listed]
    written = sum(file.rows or 0 for file in listed)
    # Drops by reason have a place of their own in the manifest; every other count of the stage goes to `counts`.
    dropped = {key.removeprefix("dropped."): n for key, n in counts.items() if key.startswith("dropped.")}
    return _add(
        graph,
        node,
        inputs,
        staged,
        rows=Rows(read=counts["read"], written=written, dropped=dict(sorted(dropped.items()))),
        counts={k: n for k, n in sorted(counts.items()) if k != "read" and not k.startswith("dropped.")},
        metrics=summarise(files, stage.summaries),
        files=listed,
    )


def file_names(stage: Stage, shards: Sequence[Path]) -> list[str]:
    """Return the names of a dataset's files, which tell `datasets` their split."""
    splits = ["train"] * len(shards)
    if any(column.name == SPLIT for column in stage.columns):
        splits = [pl.scan_parquet(shard, glob=False).select(SPLIT).head(1).collect().item() for shard in shards]
    seen: Counter[str] = Counter()
    names = []
    for split in splits:
        names.append(f"data/{split}-{seen[split]:05d}-of-{splits.count(split):05d}.parquet")
        seen[split] += 1
    return names


def add_model(graph: Graph, node: Node, inputs: Inputs, folder: Path, trained: Trained) -> Revision:
    """Add a model revision to the store from a finished folder, which is moved.

    Args:
        graph: the graph that is being built, with its pipeline, configuration and store.
        node: stage and round of the model.
        inputs: the node's resolved inputs, recorded in the manifest.
        folder: the model's files as the training wrote them.
        trained: rows, results and counts for the manifest.
    """
    _require_model(folder, node.stage)
    # Manifest and card are written below and are not files of the model.
    made = (FILE_NAME, "README.md")
    found = sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in made)
    state = [p for p in found if p.is_relative_to(folder / TRAINING_STATE)]
    logs = [p for p in found if p.name == TRAINING_LOG and p not in state]
    return _add(
        graph,
        node,
        inputs,
        folder,
        rows=Rows(read=trained.rows, written=trained.rows),  # a model has no rows of its own: those it was trained on
        counts=dict(trained.counts),
        results=dict(trained.results),
        files=describe_files(folder, [p for p in found if p not in (*state, *logs)]),
        training_state=describe_files(folder, state) or None,
        training_log=describe_files(folder, logs) or None,
    )


def _require_model(folder: Path, stage: str) -> None:
    """Check that a trained model is whole before it is moved into the store, from where others load it.

    One that has a model, or an adapter, for each kind of text has these in folders.

    Raises:
        UserError: for a folder without configuration, weights or tokenizer.
    """
    for what, patterns in MODEL_FILES.items():
        if not any(path.is_file() for name in patterns for path in (*folder.glob(name), *folder.glob(f"*/{name}"))):
            raise UserError(
                f"stage {stage}: its training left no {what} ({' or '.join(patterns)}) in {folder}; nothing was added "
                "to the store: see that no other program writes there, and run the command again"
            )


def _require_listed(folder: Path, manifest: Manifest) -> None:
    """Check that the files a manifest lists are still there, with the sizes they had when they were hashed.

    Raises:
        UserError: naming the first that is not.
    """
    for file in [*manifest.files, *manifest.apart]:
        path = folder / file.path
        if not path.is_file() or path.stat().st_size != file.size:
            raise UserError(
                f"{path} changed while it was added to the store; nothing was added: see that no other program writes "
                "there, and run the command again"
            )


def _add(graph: Graph, node: Node, inputs: Inputs, folder: Path, **content: Any) -> Revision:
    """Write manifest and card into a folder and move it into the store."""
    pipeline, config = graph.pipeline, graph.config
    stage = pipeline.stage(node.stage)
    execution = executions(config, stage.sections)
    # The round before is another run's: the card's configuration has to name that.
    if config.continues is not None:
        execution["continues"] = config.continues
    manifest = Manifest(
        pipeline=pipeline.name,
        kind=stage.kind,
        stage=stage.name,
        stage_version=stage.version,
        code_version=importlib.metadata.version(DISTRIBUTION),
        repo=pipeline.repo(stage, config),
        round=node.round,
        fingerprint=inputs.fingerprint,
        random_seed=config.random_seed,
        configuration=inputs.recipe["configuration"],
        execution=portable(execution),
        bytes_depend_on=list(stage.bytes_depend_on(config)) if stage.bytes_depend_on else [],
        prompts=inputs.recipe["prompts"],
        parents=inputs.records,
        models={role: model.record for role, model in inputs.models.items()},
        digest=content_digest(content["files"]),
        **content,
    )
    # The manifest is whole by now, so the card can be rendered from it; `add` writes manifest.json beside it.
    write_card(manifest, folder, pipeline.page(manifest), graph.store, license=config.publish.license)
    _require_listed(folder, manifest)
    return graph.store.add(folder, manifest, ["main", tag_of(stage, node.round)])
