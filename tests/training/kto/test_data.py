"""What KTO requires of its rows, and what it adds where a dataset lacks it."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from scorers.errors import UserError
from training.kto.data import complete_rows, count_rows, one_sided, require_values, with_ids


def weights_frame(**changes: Any) -> Any:
    rows = {
        "query_id": ["a", "a", "b"],
        "response_id": ["a-0", "a-1", "b-0"],
        "prompt": [[{"role": "user", "content": text}] for text in ("x", "x", "y")],
        "completion": [[{"role": "assistant", "content": text}] for text in ("1", "2", "3")],
        "label": [True, False, True],
        "weight": [1.5, -1.0, 0.0],
    }
    return pl.DataFrame(rows | changes)


def test_ids_are_made_where_absent() -> None:
    frame = with_ids(weights_frame().drop("query_id", "response_id"), first_row=5)
    first, second, third = frame["query_id"]
    assert first == second != third
    assert frame["response_id"].to_list() == ["row 5", "row 6", "row 7"]
    assert with_ids(weights_frame()).equals(weights_frame())


def test_a_plain_dataset_gets_what_the_loss_needs() -> None:
    """Unlike in a weights dataset, rows with equal prompts are queries of their own."""
    from datasets import Dataset

    plain = Dataset.from_dict({"prompt": ["x", "x", "y"], "completion": ["1", "2", "3"], "label": [True, False, True]})
    rows = complete_rows(plain, "eval")
    assert rows["weight"][:] == [1, -1, 1]
    assert rows["query_id"][:] == rows["response_id"][:] == ["eval row 0", "eval row 1", "eval row 2"]
    assert rows.select_columns(plain.column_names)[:] == plain[:]


def test_what_a_dataset_has_is_kept() -> None:
    from datasets import Dataset

    dataset = Dataset.from_polars(weights_frame())
    assert complete_rows(dataset, "train")[:] == dataset[:]
    cut = dataset.select([2, 0])  # by row numbers, which Arrow's table below does not know of
    assert complete_rows(cut.remove_columns("weight"), "train")["weight"][:] == [1, 1]


def test_one_label_is_a_warning() -> None:
    assert one_sided(weights_frame()["label"]) == []
    labels = weights_frame(label=[False] * 3)["label"]
    assert one_sided(labels) == ["all 3 rows are negative: both class weights are 1 and nothing pulls the other way"]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (weights_frame().drop("label", "weight"), "missing label, weight"),
        (weights_frame(label=["yes", "no", "no"]), "label is String, not Boolean"),
        (weights_frame(prompt=["x", "x", "y"]), "prompt is String, not List"),
        (weights_frame().head(0), "has 0 rows"),
        (weights_frame(weight=[1.0, float("nan"), 0.0]), r"weight of a-1 is nan \(1 rows like it\)"),
        (weights_frame(weight=[1.0, 0.0, float("-inf")]), "weight of b-0 is -inf"),
        (weights_frame(label=[True, None, True]), "column label is null in a-1"),
        (weights_frame(completion=weights_frame()["completion"].list.head(0)), "completion of a-0 has no message"),
    ],
)
def test_bad_datasets_are_named(frame: Any, message: Any) -> None:
    with pytest.raises(UserError, match=message):
        assert count_rows(frame) == 3
        require_values(frame)


def test_files_that_are_not_parquet(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    file.write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match=r"cannot read .*x\.parquet"):
        count_rows([file])
    with pytest.raises(UserError, match="no Parquet file"):
        count_rows([])
