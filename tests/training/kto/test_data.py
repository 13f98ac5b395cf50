"""Reading a weights dataset, the order of rows, and the pairs for the KL estimate."""

from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scorers.errors import UserError
from training.kto.data import complete_rows, load_weights_dataset, mismatched_partner, order_rows


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


def test_loads_the_columns_trl_reads_and_the_weight(tmp_path: Path) -> None:
    file = tmp_path / "train-00000-of-00001.parquet"
    weights_frame(reward=[0.1, 0.2, 0.3]).write_parquet(file)
    dataset, warnings = load_weights_dataset([file])
    assert dataset.column_names == ["prompt", "completion", "label", "weight", "query_id", "response_id"]
    assert dataset[0]["prompt"] == [{"role": "user", "content": "x"}]
    assert dataset["weight"][:] == [1.5, -1.0, 0.0]
    assert warnings == []


def test_ids_are_made_where_absent() -> None:
    dataset, _ = load_weights_dataset(weights_frame().drop("query_id", "response_id"))
    first, second, third = dataset["query_id"][:]
    assert first == second != third
    assert dataset["response_id"][:] == ["row 0", "row 1", "row 2"]


def test_a_plain_dataset_gets_what_the_loss_needs() -> None:
    """Unlike in a weights dataset, rows with equal prompts are queries of their own."""
    from datasets import Dataset

    plain = Dataset.from_dict({"prompt": ["x", "x", "y"], "completion": ["1", "2", "3"], "label": [True, False, True]})
    rows = complete_rows(plain, "eval")
    assert rows["weight"][:] == [1, -1, 1]
    assert rows["query_id"][:] == rows["response_id"][:] == ["eval row 0", "eval row 1", "eval row 2"]
    assert rows.select_columns(plain.column_names)[:] == plain[:]


def test_what_a_dataset_has_is_kept() -> None:
    dataset, _ = load_weights_dataset(weights_frame())
    assert complete_rows(dataset, "train")[:] == dataset[:]
    cut = dataset.select([2, 0])  # by row numbers, which Arrow's table below does not know of
    assert complete_rows(cut.remove_columns("weight"), "train")["weight"][:] == [1, 1]


def test_one_label_is_a_warning() -> None:
    _, warnings = load_weights_dataset(weights_frame(label=[False] * 3))
    assert warnings == ["all 3 rows are negative: both class weights are 1 and nothing pulls the other way"]


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
        load_weights_dataset(frame)


def test_files_that_are_not_parquet(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    file.write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match=r"cannot read .*x\.parquet"):
        load_weights_dataset([file])
    with pytest.raises(UserError, match="no Parquet file"):
        load_weights_dataset([])


query_lists = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=60)


@given(query_lists, st.integers(1, 12), st.integers(0, 3))
@settings(max_examples=200)
def test_a_batch_repeats_a_query_only_when_no_other_has_rows_left(queries: Any, batch_size: int, seed: int) -> None:
    order = order_rows(queries, batch_size, seed)
    assert sorted(order) == list(range(len(queries)))
    left = Counter(queries)
    for start in range(0, len(queries), batch_size):
        batch = Counter(queries[row] for row in order[start : start + batch_size])
        size = sum(batch.values())
        # as many distinct queries as possible: all that have rows left, or one a row
        assert len(batch) == min(size, len(left))
        left -= batch


def test_the_order_is_deterministic_and_mixed() -> None:
    queries = [f"q{i // 8}" for i in range(256)]
    first = order_rows(queries, 16, 0)
    assert (first == order_rows(queries, 16, 0)).all()
    assert (first != order_rows(queries, 16, 1)).any()
    batches = {frozenset(queries[row] for row in first[start : start + 16]) for start in range(0, 256, 16)}
    assert len(batches) > 8  # not the same company every time
    assert all(len(batch) == 16 for batch in batches)


@given(query_lists, st.integers(1, 12))
@settings(max_examples=200)
def test_partners_are_of_another_query_and_in_the_batch_where_possible(queries: Any, batch_size: int) -> None:
    if len(set(queries)) == 1:
        with pytest.raises(UserError, match="belong to query"):
            mismatched_partner(queries, batch_size)
        return
    partner = mismatched_partner(queries, batch_size)
    for row, other in enumerate(partner):
        assert queries[row] != queries[other]
        start = row - row % batch_size
        stop = min(start + batch_size, len(queries))
        rotated = stop - 1 if row == start else row - 1
        if queries[rotated] != queries[row]:
            assert other == rotated
        else:
            following = (k % len(queries) for k in range(row + 1, row + 1 + len(queries)))
            assert other == next(k for k in following if queries[k] != queries[row])


def test_distinct_queries_rotate_as_in_trl() -> None:
    assert mismatched_partner(list("abcdefg"), 3).tolist() == [2, 0, 1, 5, 3, 4, 0]
