"""A second pipeline, as small as a pipeline can be: numbers ─ [fold-1 … fold-3] ─ totals.

Each fold model holds the sum of the numbers outside its fold; `totals` adds up the sums of all folds.
"""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import polars as pl
from pydantic import Field
from safetensors.numpy import load_file, save_file

from builders.cards.card import Card
from builders.core.pipeline import Pipeline
from builders.core.stage import Context, Shard, ShardResult, Stage, Trained
from builders.settings.base import EXECUTION, Section, Settings
from builders.store.check import Finding
from builders.store.columns import column
from builders.store.manifest import Manifest

FOLDS = (1, 2, 3)


class NumberSettings(Section):
    """How many numbers there are."""

    rows: int = Field(30, ge=1, description="numbers")
    shard_rows: int = Field(7, ge=1, description="numbers per shard")
    batch_size: Annotated[int, EXECUTION] = Field(2, description="changes nothing")


class ToySettings(Settings):
    """The toy's configuration."""

    pipeline: str = "toy"
    numbers: NumberSettings = NumberSettings()


NUMBERS = (column("number", pl.Int64, "a number"), column("fold", pl.Int32, "its fold, from 1"))
TOTALS = (*NUMBERS, column("total", pl.Float64, "sum of what the models of all folds hold"))


def plan_numbers(context: Context[ToySettings]) -> list[Shard]:
    settings = context.config.numbers
    starts = range(0, settings.rows, settings.shard_rows)
    return [Shard(i, (s, min(s + settings.shard_rows, settings.rows))) for i, s in enumerate(starts)]


def build_numbers(context: Context[ToySettings], shard: Shard) -> ShardResult:
    numbers = list(range(*shard.spec))
    frame = pl.DataFrame({"number": numbers, "fold": [n % len(FOLDS) + 1 for n in numbers]})
    return ShardResult(frame.cast({"number": pl.Int64, "fold": pl.Int32}), {"read": frame.height})


def train_fold(fold: int, context: Context[ToySettings], output: Path) -> Trained:
    rows = context.inputs["numbers"].scan().filter(pl.col("fold") != fold).collect()
    output.mkdir(parents=True)
    save_file({"sum": np.array([rows["number"].sum()], np.float32)}, output / "model.safetensors")
    (output / "config.json").write_text(json.dumps({"fold": fold}))
    (output / "tokenizer_config.json").write_text("{}")
    return Trained(rows=rows.height, results={"sum": float(rows["number"].sum())})


def plan_totals(context: Context[ToySettings]) -> list[Shard]:
    return [Shard(index, str(path)) for index, path in enumerate(context.inputs["numbers"].data_files())]


def build_totals(context: Context[ToySettings], shard: Shard) -> ShardResult:
    models = [context.inputs[f"fold-{fold}"].path for fold in FOLDS]
    total = sum(float(load_file(path / "model.safetensors")["sum"][0]) for path in models)
    frame = pl.read_parquet(shard.spec).with_columns(pl.lit(total).alias("total"))
    return ShardResult(frame, {"read": frame.height})


def check_totals(manifest: Manifest, files: Mapping[str, Path], sound: bool) -> list[Finding]:
    rows = pl.concat([pl.read_parquet(path) for path in files.values()])
    expected = float((len(FOLDS) - 1) * rows["number"].sum())
    wrong = rows.filter(pl.col("total") != expected)
    return [Finding("data/", "total", str(value), str(expected)) for value in wrong["total"].unique()]


TOY = Pipeline(
    name="toy",
    settings=ToySettings,
    stages=(
        Stage(
            name="numbers", kind="dataset", suffix="numbers", version=1, sections=("numbers",), per_round=False,
            columns=NUMBERS, plan=plan_numbers, build=build_numbers, card=Card("_dataset.md.jinja"),
        ),
        *(
            Stage(
                name=f"fold-{fold}", kind="model", suffix=f"fold-{fold}", version=1, parents=("numbers",),
                per_round=False, train=partial(train_fold, fold), card=Card("_model.md.jinja", tags=("fold",)),
            )
            for fold in FOLDS
        ),
        Stage(
            name="totals", kind="dataset", suffix="totals", version=1, columns=TOTALS, per_round=False,
            parents=("numbers", *(f"fold-{fold}" for fold in FOLDS)), plan=plan_totals, build=build_totals,
            check=check_totals, summaries=("total",), card=Card("_dataset.md.jinja", tags=("totals",)),
        ),
    ),
    last="totals",
    preset="tiny",
)  # fmt: skip


def toy_config(store: Path, **changes: Any) -> ToySettings:
    """The toy's configuration on a store."""
    return ToySettings(name="demo", store=str(store), **changes)
