"""Answers to held-out queries and their scores."""

import math

import polars as pl
import pytest

from scorers.errors import UserError
from training.grace_kto.answers import check_finite, world_columns


def test_the_worlds_measures_have_the_same_names_without_a_document() -> None:
    empty = world_columns([])
    some = world_columns([("Write about it.", "A sentence. A sentence.")])
    assert list(empty) == list(some) != []
    assert all(len(values) == 0 and values.mean() is None for values in empty.values())
    assert some["duplicate_sentences"].to_list() == [0.5] and some["on_topic"].to_list() == [None]


def test_a_metric_that_is_not_finite() -> None:
    check_finite({"P": pl.Series([1.0, None])}, "p")
    with pytest.raises(
        UserError, match=r"evaluation of round 2: P is inf for matched response 2, counted from 0; look"
    ):
        check_finite({"L": pl.Series([1.0]), "P": pl.Series([1.0, None, math.inf, math.nan])}, "round 2")
