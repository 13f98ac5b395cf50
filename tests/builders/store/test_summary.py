"""Distributions of columns, by hand and against numpy."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.store.summary import summarise


def test_a_column_over_two_files_by_hand(tmp_path: Path) -> None:
    files = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    pl.DataFrame({"x": [4, None, 1], "empty": [None] * 3}, schema={"x": pl.Int32, "empty": pl.Float64}).write_parquet(
        files[0]
    )
    pl.DataFrame({"x": [3, 2, None], "empty": [None] * 3}, schema={"x": pl.Int32, "empty": pl.Float64}).write_parquet(
        files[1]
    )
    found = summarise(files, ["x", "empty"])
    assert set(found) == {"x"}  # what has no value has no distribution
    assert found["x"].model_dump() == pytest.approx(
        {
            "count": 4,
            "null": 2,
            "mean": 2.5,
            "std": 1.25**0.5,  # of the population: (2.25 + 0.25 + 0.25 + 2.25) / 4
            "min": 1,
            "q10": 1.3,
            "q25": 1.75,
            "median": 2.5,
            "q75": 3.25,
            "q90": 3.7,
            "max": 4,
        }
    )


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_equals_numpy(tmp_path_factory: pytest.TempPathFactory, values: list[float]) -> None:
    path = tmp_path_factory.mktemp("summary") / "a.parquet"
    pl.DataFrame({"x": values}).write_parquet(path)
    found = summarise([path], ["x"])["x"]
    quantiles = np.quantile(values, (0.1, 0.25, 0.5, 0.75, 0.9))
    assert [found.q10, found.q25, found.median, found.q75, found.q90] == pytest.approx(list(quantiles), abs=1e-6)
    assert (found.mean, found.std) == pytest.approx((np.mean(values), np.std(values)), abs=1e-6)
    assert (found.min, found.max, found.count, found.null) == (min(values), max(values), len(values), 0)
