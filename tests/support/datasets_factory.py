"""Small datasets and models in a store, written by the product's own writers, with true manifests and digests."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from builders.core.prompting import answer_column, chat_column
from builders.grace_kto.calibrate import add_rewards, add_weights
from builders.grace_kto.settings import RankCoefficients
from builders.settings.base import identity
from builders.store.columns import Column, frame_of, polars_schema, present
from builders.store.manifest import Manifest, Model, Parent, Rows, content_digest, describe_files
from builders.store.ref import round_tag
from builders.store.revision import Revision
from builders.store.shards import write_shard
from builders.store.store import Store
from scorers.criteria import FIELDS
from scorers.weighting import totals_of
from training.grace_kto.pipeline import GRACE_KTO

LENGTHS = ((40, 55, 61, None), (70, 52, 52, 90))  # tokens of the responses to each query; None is unmatched


def scores_frame(lengths: Sequence[Sequence[int | None]] = LENGTHS, **columns: Sequence[object]) -> pl.DataFrame:
    """A scores dataset: one query for each inner sequence, one response for each length; `columns` replace values.

    It lacks the optional columns, which `columns` may add.
    """
    rows: list[dict[str, object]] = []
    for group, members in enumerate(lengths):
        for j, length in enumerate(members):
            rows.append(_scores_row(f"query{group}", j, length, len(rows)))
    contract = GRACE_KTO.stage("score").columns
    frame = frame_of(rows, present(contract, ()))
    types = polars_schema(contract)
    return frame.with_columns(pl.Series(name, values, types[name]) for name, values in columns.items())


def _scores_row(query_id: str, j: int, length: int | None, index: int) -> dict[str, object]:
    texts = dict.fromkeys(("summary", "outline", "document"), None if length is None else f"text {index}")
    row: dict[str, object] = {
        "query_id": query_id,
        "query": f"Please write about {query_id}.",
        "round": 1,
        "response_id": f"{query_id}-{j}",
        "response": f"response {index}",
        "matched": length is not None,
        "finish_reason": "stop",
        "num_tokens": 100 + index,
        "logprob": -50.0 - index,
        "sample_seed": index,
        "policy": "local/demo-sft@main",
        "length": length,
        **texts,
    }
    metrics = [
        c.name for c in present(GRACE_KTO.stage("score").columns, ()) if c.dtype.is_float() and c.name != "logprob"
    ]
    for place, name in enumerate(metrics):
        row[name] = None if length is None else 1.0 + ((index + 1) * (place + 3)) % 7
    return row


def weights_frame(
    scores: pl.DataFrame, coefficients: RankCoefficients | None = None, *, binary: bool = False
) -> pl.DataFrame:
    """The calibrated dataset of a whole scores dataset."""
    rewards = add_rewards(scores, coefficients or RankCoefficients())
    weights = add_weights(rewards, totals_of(rewards["reward"]), binary=binary)
    weights = weights.with_columns(chat_column("query").alias("prompt"), answer_column("response").alias("completion"))
    return weights.select(c.name for c in present(GRACE_KTO.stage("calibrate").columns, weights.columns))


def plain_frame(columns: Sequence[Column], rows: int = 3) -> pl.DataFrame:
    """Rows of any stage's columns, with values of the right types and no meaning."""
    values: dict[type[pl.DataType], Any] = {pl.String: "text", pl.Boolean: True, pl.Float64: 1.5, pl.List: ["a"]}

    def value(column: Column, row: int) -> Any:
        if column.name == "criteria":
            return [dict.fromkeys(FIELDS, "text")]
        return f"q{row}" if column.name == "query_id" else values.get(type(column.dtype), row)

    return frame_of(
        [{c.name: value(c, i) for c in columns} for i in range(rows)],
        columns,
    )


def write_data(frame: pl.DataFrame, columns: Sequence[Column], path: Path) -> None:
    """Write one data file as a stage does, without the mark beside it that serves resuming only."""
    write_shard(frame, present(columns, frame.columns), path, {"read": frame.height})
    path.with_suffix(".sha256").unlink(missing_ok=True)


def add_dataset(
    store: Store,
    stage_name: str,
    frame: pl.DataFrame,
    *,
    shards: Sequence[int] | None = None,
    repo: str | None = None,
    round_: int = 1,
    parents: Sequence[Revision | Parent] = (),
    **changes: Any,
) -> Revision:
    """Write a frame as a stage's dataset and add it to the store.

    Args:
        shards: rows of each shard; None puts all rows into one.
        changes: fields of the manifest that replace the true ones.
    """
    stage = GRACE_KTO.stage(stage_name)
    sizes = shards or [frame.height]
    staged = store.root / ".staged"
    (staged / "data").mkdir(parents=True)
    rows, start = {}, 0
    for index, size in enumerate(sizes):
        name = f"data/train-{index:05d}-of-{len(sizes):05d}.parquet"
        write_data(frame.slice(start, size), stage.columns, staged / name)
        rows[name], start = size, start + size
    configuration = {"calibrate": {"coefficients": identity(RankCoefficients()), "binary": False}}
    fields = {
        "stage": stage_name,
        "stage_version": stage.version,
        "repo": repo or f"local/demo-{stage.suffix}",
        "round": round_,
        "configuration": configuration if stage_name == "calibrate" else {},
        "rows": Rows(read=frame.height, written=frame.height),
    }
    return _add(store, staged, [staged / name for name in rows], rows, parents, fields | changes)


def add_model(
    store: Store,
    repo: str,
    *,
    round_: int = 1,
    parents: Sequence[Revision | Parent] = (),
    folder: Path | None = None,
    **changes: Any,
) -> Revision:
    """Add a model to the store: a folder's, or else two small files that no library could load."""
    staged = store.root / ".staged"
    if folder is None:
        staged.mkdir(parents=True)
        (staged / "config.json").write_text("{}", encoding="utf-8")
        (staged / "model.safetensors").write_bytes(f"{repo} {round_}".encode())
    else:
        shutil.copytree(folder, staged)
    stage = "policy" if round_ else "sft"
    fields = {"kind": "model", "stage": stage, "repo": repo, "round": round_, "configuration": {}}
    fields["rows"] = Rows(read=8, written=8)
    return _add(store, staged, sorted(staged.iterdir()), {}, parents, fields | changes)


def model_of(revision: Revision) -> Model:
    """A model revision as another manifest names it."""
    return Model(id=revision.repo, revision=revision.revision)


def _add(
    store: Store,
    staged: Path,
    paths: list[Path],
    rows: dict[str, int],
    parents: Sequence[Revision | Parent],
    fields: dict[str, Any],
) -> Revision:
    files = describe_files(staged, paths, rows)
    made: dict[str, Any] = {
        "pipeline": "grace-kto",
        "stage_version": 1,
        "code_version": "0.1.0",
        "fingerprint": "0" * 64,
        "random_seed": 0,
        "parents": [_parent(parent) for parent in parents],
        "files": files,
        "digest": content_digest(files),
    }
    (staged / "README.md").write_text("# A card\n", encoding="utf-8")
    manifest = Manifest(**(made | fields))
    return store.add(staged, manifest, ["main", round_tag(manifest.round)])


def _parent(parent: Revision | Parent) -> Parent:
    if isinstance(parent, Parent):
        return parent
    stage, kind, round_ = "seed", "dataset", None
    if parent.manifest is not None:
        stage, kind, round_ = parent.manifest.stage, parent.manifest.kind, parent.manifest.round
    return Parent.model_validate(
        {
            "stage": stage,
            "kind": kind,
            "round": round_,
            "repo": parent.repo,
            "revision": parent.revision,
            "digest": parent.digest,
        }
    )
