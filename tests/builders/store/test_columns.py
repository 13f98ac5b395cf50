"""The contract's checks: what a stage takes and what it may write."""

import polars as pl
import pytest
from datasets_factory import scores_frame

from builders.grace_kto.columns import GROUPS_COLUMNS, QUERIES_COLUMNS, SCORES_COLUMNS, SEED_COLUMNS, WEIGHTS_COLUMNS
from builders.store.columns import check_frame, column, frame_of, polars_schema, require_columns
from scorers.errors import UserError


def test_a_stage_only_adds_columns() -> None:
    assert SCORES_COLUMNS[: len(GROUPS_COLUMNS)] == GROUPS_COLUMNS
    assert WEIGHTS_COLUMNS[: len(SCORES_COLUMNS)] == SCORES_COLUMNS
    for columns in (SEED_COLUMNS, QUERIES_COLUMNS, WEIGHTS_COLUMNS):
        names = [column.name for column in columns]
        assert len(names) == len(set(names)) and all(column.meaning for column in columns)


def test_widths_of_numbers_and_further_columns_are_free() -> None:
    schema = dict(polars_schema(SCORES_COLUMNS)) | {
        "length": pl.Int64(),
        "round": pl.UInt8(),
        "ppl_domain": pl.Float32(),
        "mine": pl.Date(),
    }
    require_columns(pl.Schema(schema), SCORES_COLUMNS, "x")
    with pytest.raises(UserError, match="length"):
        require_columns(pl.Schema(schema | {"length": pl.Date()}), SCORES_COLUMNS, "x")


def test_a_column_of_nothing_but_nulls_fits_where_nulls_may_be() -> None:
    schema = dict(polars_schema(SCORES_COLUMNS)) | {"summary": pl.Null(), "logprob": pl.Null(), "length": pl.Null()}
    require_columns(pl.Schema(schema), SCORES_COLUMNS, "x")
    with pytest.raises(UserError, match=r"^x does not fit this stage: query is Null, not String; round is Null, not"):
        require_columns(pl.Schema(schema | {"query": pl.Null(), "round": pl.Null()}), SCORES_COLUMNS, "x")
    frame = scores_frame().with_columns(summary=None, logprob=None, length=None)
    assert frame.schema["summary"] == frame.schema["logprob"] == pl.Null
    check_frame(frame, SCORES_COLUMNS, "x")
    with pytest.raises(TypeError, match="are not the contract's"):
        check_frame(frame.with_columns(query=None), SCORES_COLUMNS, "x")


def test_integers_fit_where_floats_are_needed() -> None:
    weight = [column("weight", pl.Float64, "a weight"), column("round", pl.Int32, "a round")]
    require_columns(pl.Schema({"weight": pl.Int8(), "round": pl.Int64()}), weight, "x")
    with pytest.raises(UserError, match="round is Float64, not Int32"):
        require_columns(pl.Schema({"weight": pl.Float32(), "round": pl.Float64()}), weight, "x")


def test_missing_and_differing_columns_are_named_together() -> None:
    schema = dict(polars_schema(QUERIES_COLUMNS)) | {"round": pl.String(), "example_ids": pl.String()}
    del schema["query"], schema["generator"]
    with pytest.raises(UserError) as error:
        require_columns(pl.Schema(schema), QUERIES_COLUMNS, "ns/x@abc")
    assert str(error.value) == (
        "ns/x@abc does not fit this stage: missing query, generator; round is String, not Int32; example_ids is "
        "String, not List(String); it needs query_id, query, language, round, example_ids, generator"
    )


def test_a_frame_that_fits_passes() -> None:
    check_frame(scores_frame(), SCORES_COLUMNS, "stage score, shard 0")


@pytest.mark.parametrize(("value", "word"), [(float("nan"), "NaN"), (float("inf"), "inf"), (float("-inf"), "-inf")])
def test_a_value_that_is_not_finite_names_its_row(value: float, word: str) -> None:
    frame = scores_frame()
    values = frame["ppl_domain"].to_list()
    values[5] = value
    with pytest.raises(UserError) as error:
        check_frame(scores_frame(ppl_domain=values), SCORES_COLUMNS, "stage score, shard 3")
    assert f"stage score, shard 3: ppl_domain is {word} in response_id query1-1; " in str(error.value)


def test_a_null_where_none_may_be_names_its_row() -> None:
    frame = scores_frame(query=["a", None, None, *"bcdef"])
    with pytest.raises(UserError, match=r"query is null in response_id query0-1, a value is needed"):
        check_frame(frame, SCORES_COLUMNS, "stage score, shard 0")
    seeds = frame_of([dict.fromkeys((c.name for c in SEED_COLUMNS), "x") | {"language": None}], SEED_COLUMNS)
    with pytest.raises(UserError, match="language is null in query_id x"):
        check_frame(seeds, SEED_COLUMNS, "seed")


def test_other_columns_are_a_fault_of_the_program() -> None:
    with pytest.raises(TypeError, match="are not the contract's"):
        check_frame(scores_frame().drop("round"), SCORES_COLUMNS, "x")


@pytest.mark.parametrize("change", [{"round": "1"}, {"round": 1.5}, {"query": 3}])
def test_rows_of_another_type_are_refused(change: dict[str, object]) -> None:
    row = dict.fromkeys((c.name for c in QUERIES_COLUMNS), "x") | {"round": 1, "example_ids": ["a"]}
    assert frame_of([row], QUERIES_COLUMNS).rows() == [("x", "x", "x", 1, ["a"], "x")]
    with pytest.raises((TypeError, pl.exceptions.PolarsError)):
        frame_of([row | change], QUERIES_COLUMNS)
    del row["generator"]
    with pytest.raises(KeyError):
        frame_of([row], QUERIES_COLUMNS)
    assert frame_of([], QUERIES_COLUMNS).schema == polars_schema(QUERIES_COLUMNS)
