"""What the columns of datasets are to a reader."""

import polars as pl
import pytest

from builders.report.page.layout import layout_of
from builders.store.columns import MESSAGES, polars_schema
from scorers.errors import UserError
from training.pipelines import PIPELINES

CHAT = pl.List(pl.Struct({"content": pl.String, "role": pl.String, "name": pl.String}))
STAGES = [
    pytest.param(stage, id=f"{p.name} {stage.name}") for p in PIPELINES for stage in p.stages if stage.kind == "dataset"
]
KINDS = {
    "sample": "responses", "score": "responses", "calibrate": "responses", "format": "responses",
    "respond": "responses",
    "select": "responses", "rate": "ratings", "critique": "ratings", "prefer": "preferences", "contest": "preferences",
    "pairs": "edits", "explain": "edits", "seed": "rows", "generate": "rows", "criteria": "rows",
}  # fmt: skip


@pytest.mark.parametrize("stage", STAGES)
def test_every_dataset_of_the_pipelines_has_a_layout(stage: object) -> None:
    schema = polars_schema(stage.columns)  # type: ignore[attr-defined]
    found = layout_of(schema, "dataset x", known=True)
    name = stage.name  # type: ignore[attr-defined]
    assert found.kind == KINDS.get(name, found.kind)
    assert set(found.read) <= set(schema.names()) and found.query in {*schema.names(), None}


def test_a_weights_dataset() -> None:
    stage = PIPELINES[0].stage("calibrate")
    found = layout_of(polars_schema(stage.columns), "dataset x", known=True)
    assert (found.query, found.texts, found.base) == ("query", ("response",), None)
    assert {"reward", "weight", "length", "rank_sum"} <= set(found.metrics)
    assert found.ranks["length"] == "rank_length" and "rank_length" not in found.metrics
    assert "rank_sum" not in found.ranks.values()
    assert not {"document", "completion", "prompt"} & set(found.read)


def test_sides_of_a_preference_share_a_metric() -> None:
    stage = PIPELINES[2].stage("prefer")
    found = layout_of(polars_schema(stage.columns), "dataset x", known=True)
    assert found.metrics == ("reward",) and found.columns["reward"] == ("reward_chosen", "reward_rejected")
    assert found.texts == ("suggestion_chosen", "suggestion_rejected") and found.base == "source"


@pytest.mark.parametrize(
    ("columns", "kind"),
    [
        ({"prompt": pl.String, "completion": pl.String, "label": pl.Boolean}, "responses"),
        ({"query": pl.String, "response": pl.String, "image": pl.Binary}, "responses"),
        ({"prompt": CHAT, "completion": CHAT}, "responses"),
        ({"prompt": MESSAGES, "chosen": MESSAGES, "rejected": MESSAGES}, "preferences"),
        ({"chosen": CHAT, "rejected": CHAT, "score_chosen": pl.Float64, "score_rejected": pl.Float64}, "preferences"),
    ],
)
def test_foreign_datasets(columns: dict[str, pl.DataType], kind: str) -> None:
    found = layout_of(pl.Schema(columns), "dataset x", known=False)
    assert found.kind == kind and "image" not in found.read


@pytest.mark.parametrize(
    "columns",
    [
        {"text": pl.String},
        {"prompt": pl.String},
        {"prompt": pl.Int64, "response": pl.String},
        {"chosen": pl.String},
        {},
    ],
)
def test_a_foreign_dataset_without_texts_is_refused_in_one_line(columns: dict[str, pl.DataType]) -> None:
    with pytest.raises(UserError) as error:
        layout_of(pl.Schema(columns), "dataset alice/x@abc", known=False)
    has = ", ".join(columns) or "no column"
    if columns.get("prompt") == pl.Int64:  # as where a file has texts in some rows and messages in others
        has += ", of which prompt not of texts alone, nor of messages alone"
    assert str(error.value) == (
        "dataset alice/x@abc: has no text to show: it needs query or prompt with response or completion, or chosen and "
        f"rejected; it has {has}; rename what fits, or name another dataset"
    )
