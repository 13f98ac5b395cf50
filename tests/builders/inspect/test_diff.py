"""`grace diff` against hand-computed statistics."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from datasets_factory import add_dataset, add_model, plain_frame, scores_frame, weights_frame
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from typer.testing import CliRunner

from builders.grace_kto.columns import METRICS, RUBRIC, SEED_COLUMNS
from builders.inspect import diff as module
from builders.inspect.diff import correlation, effective_sample_size, spearman_within, standardised_difference
from builders.store.revision import Revision
from builders.store.store import Store
from scorers.errors import UserError
from training.cli import app
from training.grace_kto.pipeline import GRACE_KTO

ALWAYS = [metric for metric in METRICS if metric != RUBRIC]

NUMBERS = st.lists(st.integers(-50, 50).map(float), min_size=2, max_size=20)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def weights(store: Store, lengths: list[list[int | None]], round_: int = 1, **columns: list[float]) -> Revision:
    frame = weights_frame(scores_frame(lengths)).with_columns(pl.Series(n, v) for n, v in columns.items())
    return add_dataset(store, "calibrate", frame, round_=round_)


def diff(a: Revision, b: Revision) -> dict[str, Any]:
    """The comparison in the columns that GRACE-KTO keeps statistics of."""
    return module.diff(a, b, GRACE_KTO.summaries())


def series(*values: float | None) -> pl.Series:
    return pl.Series(values, dtype=pl.Float64)


def test_effective_sample_size_by_hand() -> None:
    assert effective_sample_size(series(1, -1, 1, -1)) == 4  # equal magnitudes: every row counts
    assert effective_sample_size(series(1, -1, 2)) == pytest.approx(16 / 6)  # (1+1+2)² / (1+1+4)
    assert effective_sample_size(series(5, 0, 0)) == 1
    assert effective_sample_size(series(0, 0)) == 0


@given(NUMBERS)
def test_effective_sample_size_lies_between_one_and_the_rows(values: list[float]) -> None:
    size = effective_sample_size(series(*values))
    nonzero = sum(value != 0 for value in values)
    assert size == 0 if nonzero == 0 else 1 - 1e-9 <= size <= nonzero + 1e-9


def test_standardised_difference_by_hand() -> None:
    # Means 2 and 5, population variances 1 and 4 over 2 and 4 rows: s² = (2·1 + 4·4) / 6 = 3.
    assert standardised_difference(series(1, 3), series(3, 7, 3, 7)) == pytest.approx(3 / math.sqrt(3))
    assert standardised_difference(series(1, 3, None), series(1, 3)) == 0
    assert standardised_difference(series(2, 2), series(2)) == 0
    assert standardised_difference(series(2, 2), series(3)) is None
    assert standardised_difference(series(None), series(3)) is None


@given(NUMBERS, NUMBERS)
def test_standardised_difference_changes_sign_with_the_order(a: list[float], b: list[float]) -> None:
    there, back = standardised_difference(series(*a), series(*b)), standardised_difference(series(*b), series(*a))
    assert (there is None and back is None) or there == pytest.approx(-(back or 0.0), abs=1e-12)


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=2, max_size=20))
def test_correlation_equals_scipy(pairs: list[tuple[int, int]]) -> None:
    x, y = (pl.Series(values, dtype=pl.Float64) for values in zip(*pairs, strict=True))
    if x.n_unique() == 1 or y.n_unique() == 1:
        assert correlation(x, y) is None
        return
    assert correlation(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-9)
    assert correlation(x.rank(), y.rank()) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-9)


def test_spearman_within_queries_by_hand() -> None:
    # Query a rises with x (1), b falls (−1), c has one swap: 1 − 6·2/(3·8) = 0.5; d is constant and does not count.
    rows = pl.DataFrame(
        {
            "query_id": list("aabbcccdd"),
            "x": [1, 2, 11, 12, 1, 2, 3, 4, 4],
            "y": [0.1, 0.2, 9.0, 8.0, 2.0, 1.0, 3.0, 1.0, 2.0],
        }
    )
    queries, rho = spearman_within(rows, "x", "y")
    assert queries == 3
    assert rho == pytest.approx((1 - 1 + 0.5) / 3)
    assert spearman_within(rows.filter(pl.col("query_id") == "d"), "x", "y") == (0, None)


def test_two_rounds_of_weights(store: Store) -> None:
    first = weights(store, [[10, 20, None, 30], [40, 50, 60, 70]])
    second = weights(store, [[20, 30], [50, 60], [80, 90]], round_=2)
    result = diff(first, second)
    assert (result["a"]["rows"], result["b"]["rows"]) == (8, 6)
    assert (result["a"]["queries"], result["b"]["queries"], result["queries_in_common"]) == (2, 3, 2)
    assert list(result["metrics"]) == ["num_tokens", "logprob", *ALWAYS, "rank_sum", "reward", "weight"]
    length = result["metrics"]["length"]
    assert (length["a"]["mean"], length["a"]["null"], length["a"]["q50"]) == (40.0, 1, 40.0)
    assert length["a"]["q10"] == pytest.approx(16.0)  # 0.6 of the way from 10 to 20
    assert length["b"]["mean"] == 55.0
    pooled = (7 * 400 + 6 * np.var([20, 30, 50, 60, 80, 90])) / 13
    assert length["standardised_difference"] == pytest.approx(15 / math.sqrt(pooled))
    labels = first.scan().collect()["label"]
    assert result["a"]["labels"]["positive"] == labels.sum()
    assert result["a"]["labels"]["share"] == labels.sum() / 8
    w = first.scan().collect()["weight"].to_numpy()
    assert result["a"]["effective_sample_size"] == pytest.approx(np.abs(w).sum() ** 2 / (w**2).sum())
    scored = first.scan().filter(pl.col("reward").is_not_null()).collect()
    found = result["a"]["length_and_weight"]
    assert found["rows"] == 7
    assert found["pearson"] == pytest.approx(stats.pearsonr(scored["length"], scored["weight"]).statistic)
    assert found["spearman"] == pytest.approx(stats.spearmanr(scored["length"], scored["weight"]).statistic)


def test_equal_datasets_do_not_differ(store: Store) -> None:
    one = weights(store, [[10, 20, 30], [40, 50, 60]])
    result = diff(one, one)
    assert all(metric["standardised_difference"] == 0 for metric in result["metrics"].values())
    assert result["queries_in_common"] == 2


def test_a_reward_that_follows_length_is_warned_of(store: Store) -> None:
    lengths: list[list[int | None]] = [[10, 20, 30], [60, 50, 40]]
    even = weights(store, lengths, reward=[0.1, 0.3, 0.2, 0.2, 0.3, 0.1])  # 0.5 in both queries
    follows = weights(store, lengths, reward=[-1.0, 0.0, 1.0, 1.0, 0.0, -1.0])
    against = weights(store, lengths, reward=[1.0, 0.0, -1.0, -1.0, 0.0, 1.0])
    assert diff(even, even)["warnings"] == []
    (warning,) = diff(even, follows)["warnings"]
    assert "length alone explains the reward" in warning
    assert "longer" in warning
    assert "1.00 over 2 queries" in warning
    assert str(follows) in warning
    assert "shorter" in diff(against, even)["warnings"][0]


def test_datasets_of_different_stages_are_compared_in_what_they_share(store: Store) -> None:
    scores = add_dataset(store, "score", scores_frame([[10, 20], [30, 40]]))
    result = diff(scores, weights(store, [[10, 20], [30, 40]]))
    assert set(result["metrics"]) == {"num_tokens", "logprob", *ALWAYS}
    assert result["a"]["labels"] is None
    assert result["a"]["effective_sample_size"] is None
    assert result["b"]["labels"] is not None
    seeds = add_dataset(store, "seed", plain_frame(SEED_COLUMNS), round_=0)
    result = diff(seeds, scores)
    assert result["metrics"] == {}
    assert (result["a"]["queries"], result["queries_in_common"]) == (3, 0)


def test_the_columns_that_are_compared_are_the_pipelines(store: Store) -> None:
    first, second = weights(store, [[10, 20], [30, 50]]), weights(store, [[10, 20], [30, 40]], round_=2)
    result = module.diff(first, second, ("length", "query", "no such column"))
    assert set(result["metrics"]) == {"length"}  # text has no distribution
    # What is said of labels, weights and queries asks for no column of the list.
    whole = diff(first, second)
    nothing = module.diff(first, second, ())
    assert nothing["metrics"] == {}
    assert {key: nothing[key] for key in ("a", "b", "queries_in_common")} == {
        key: whole[key] for key in ("a", "b", "queries_in_common")
    }


def test_others_data_with_nan_counts_it_as_null(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "other.parquet"
    pl.DataFrame({"length": [1.0, math.nan, math.inf, 3.0], "diversity": ["a"] * 4}).write_parquet(path)
    other = Revision("other", "0" * 40, path, None)
    result = diff(other, weights(store, [[1, 3]]))
    assert set(result["metrics"]) == {"length"}
    assert (result["metrics"]["length"]["a"]["mean"], result["metrics"]["length"]["a"]["null"]) == (2.0, 2)
    assert result["queries_in_common"] is None


def test_nothing_to_compare(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "other.parquet"
    pl.DataFrame({"text": ["a"]}).write_parquet(path)
    other = Revision("other", "0" * 40, path, None)
    with pytest.raises(UserError, match=r"share no column to compare.*the first has text"):
        diff(other, weights(store, [[1, 3]]))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match="not readable as Parquet"):
        diff(Revision("broken", "0" * 40, tmp_path / "broken.parquet", None), other)
    with pytest.raises(UserError, match="no Parquet file in it"):
        diff(add_model(store, "local/demo-policy"), other)


@pytest.mark.parametrize(("key", "other"), [("text_id", "pair_id"), ("pair_id", "note")])
def test_texts_are_told_by_the_column_that_both_have(tmp_path: Path, key: str, other: str) -> None:
    def dataset(name: str, columns: dict[str, list[Any]]) -> Revision:
        pl.DataFrame(columns).write_parquet(tmp_path / f"{name}.parquet")
        return Revision(name, "0" * 40, tmp_path / f"{name}.parquet", None)

    a = dataset("a", {other: ["x", "y", "z"], key: ["1", "1", "2"], "num_tokens": [1, 2, 3]})
    b = dataset("b", {key: ["2", "3"], "num_tokens": [4, 5]})
    found = diff(a, b)
    assert (found["a"]["queries"], found["b"]["queries"], found["queries_in_common"]) == (2, 2, 1)
    assert found["a"]["length_and_reward"] is None


def test_the_command(store: Store) -> None:
    weights(store, [[10, 20, None], [30, 40, 50]])
    weights(store, [[10, 20, None], [60, 70, 90]], round_=2)
    args = [
        "diff",
        "local/demo-weights@round-001",
        "local/demo-weights",
        "--config",
        "tiny",
        "--store",
        str(store.root),
    ]
    table = CliRunner().invoke(app, args)
    assert table.exit_code == 0, table.output
    assert "queries in common: 2" in table.output
    assert "effective sample size" in table.output
    assert "relevance_document" in table.output
    value = json.loads(CliRunner().invoke(app, [*args, "--json"]).output.splitlines()[-1])
    assert value["metrics"]["length"]["b"]["mean"] == 50.0
    missing = CliRunner().invoke(app, [*args[:2], str(store.root / "none"), *args[3:]])
    assert missing.exit_code == 2


def test_datasets_that_share_no_metric_say_so(store: Store) -> None:
    seeds = add_dataset(store, "seed", plain_frame(SEED_COLUMNS), round_=0)
    scores = add_dataset(store, "score", scores_frame())
    found = diff(seeds, scores)
    assert found["metrics"] == {} and found["queries_in_common"] == 0
    (warning,) = found["warnings"]
    assert warning.startswith(f"the two share no metric, so none is compared: {seeds} has none; {scores} has ")
    assert "length" in warning
    args = ["diff", str(seeds), str(scores), "--store", str(store.root)]
    assert "warning: the two share no metric, so none is compared:" in CliRunner().invoke(app, args).output
    assert diff(scores, scores)["warnings"] == []
