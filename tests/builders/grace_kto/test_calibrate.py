"""Calibration against hand-computed cases and an independent exact computation."""

import math
import random
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets_factory import scores_frame
from hypothesis import given, settings
from hypothesis import strategies as st
from real_configs import config_on
from tolerances import sum64

from builders.grace_kto.calibrate import add_rewards, add_weights, calibrate_frame
from builders.grace_kto.columns import RANKED
from builders.grace_kto.settings import RankCoefficients
from builders.inspect.verify import verify
from scorers.errors import UserError
from scorers.ranking import TOLERANCE
from scorers.weighting import Totals, totals_of
from training.pipelines import PIPELINES, build

COEFFICIENTS = RankCoefficients()
EXACT = dict(
    zip(RANKED, (Fraction(1), Fraction(1), Fraction(1), Fraction(4, 5), Fraction(1, 5), Fraction(1)), strict=True)
)

Row = dict[str, object]


def frame_from(groups: Sequence[Sequence[Sequence[float] | None]]) -> pl.DataFrame:
    """Groups of rows; a row is its six metrics in RANKED order, or None for an unmatched response."""
    rows = [
        {"query_id": f"q{g}", "matched": metrics is not None}
        | (dict.fromkeys(RANKED) if metrics is None else dict(zip(RANKED, metrics, strict=True)))
        for g, group in enumerate(groups)
        for metrics in group
    ]
    types = {"query_id": pl.String, "matched": pl.Boolean} | dict.fromkeys(RANKED, pl.Float64)
    return pl.DataFrame(rows, schema=types)


def calibrate(frame: pl.DataFrame) -> pl.DataFrame:
    rewards = add_rewards(frame, COEFFICIENTS)
    return add_weights(rewards, totals_of(rewards["reward"]))


def mean_rank(values: list[float], value: float, descending: bool) -> Fraction:
    """Rank by counting: one plus those strictly better, plus half of the other ties."""
    better = sum(v > value if descending else v < value for v in values)
    ties = sum(v == value for v in values)
    return Fraction(better + 1) + Fraction(ties - 1, 2)


def independent(groups: list[list[list[float] | None]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rank sums, rewards and weights: exact rank sums, then numpy; NaN where unmatched (weight −1)."""
    rhos: list[float] = []
    rewards: list[float] = []
    for group in groups:
        matched = [row for row in group if row is not None]
        exact = {}
        for index, row in enumerate(group):
            if row is not None:
                exact[index] = sum(
                    EXACT[m] * mean_rank([r[k] for r in matched], row[k], m != "ppl_domain")
                    for k, m in enumerate(RANKED)
                )
        mean = sum(exact.values()) / len(exact) if exact else Fraction(0)
        variance = sum((rho - mean) ** 2 for rho in exact.values()) / len(exact) if exact else Fraction(0)
        for index in range(len(group)):
            rhos.append(float(exact[index]) if index in exact else math.nan)
            if index not in exact:
                rewards.append(math.nan)
            else:
                rewards.append(float(mean - exact[index]) / math.sqrt(variance) if variance else 0.0)
    z = np.array(rewards)
    weights = np.full(len(z), -1.0)
    positive, negative = z >= 0, z < 0
    if z[positive].sum() > 0:
        weights[positive] = z[positive] * positive.sum() / z[positive].sum()
    else:
        weights[positive] = 0.0
    if negative.any():
        weights[negative] = -z[negative] * negative.sum() / z[negative].sum()
    return np.array(rhos), z, weights


def random_groups(seed: int, count: int) -> list[list[list[float] | None]]:
    """Groups with ties, whole tied groups, and 0, 1 or 8 matched rows among them."""
    rng = random.Random(seed)
    groups: list[list[list[float] | None]] = []
    for g in range(count):
        kind = g % 6
        if kind == 0:
            groups.append([None] * 8)
        elif kind == 1:
            groups.append([None] * 7 + [[rng.random() for _ in RANKED]])
        elif kind == 2:
            groups.append([[1.0] * 6] * 8)
        elif kind == 3:
            groups.append([[float(rng.randrange(3)) for _ in RANKED] for _ in range(8)])
        else:
            share = rng.choice((0.0, 0.3))
            groups.append([None if rng.random() < share else [rng.gauss(0, 1) for _ in RANKED] for _ in range(8)])
    return groups


def test_a_group_of_two_by_hand() -> None:
    # The first row wins L, E, P, R_d; the second wins R_s and P_D.
    out = calibrate(frame_from([[[9, 9, 9, 9, 1, 9], [1, 1, 1, 1, 9, 1]]]))
    assert out["rank_length"].to_list() == [1, 2]
    assert out["rank_ppl_domain"].to_list() == [2, 1]
    # rho = 1+1+1+0.8·1+0.2·2+2 = 6.2 and 2+2+2+0.8·2+0.2·1+1 = 8.8; mean 7.5, deviation 1.3
    assert out["rank_sum"].to_list() == pytest.approx([6.2, 8.8])
    assert out["reward"].to_list() == pytest.approx([1.0, -1.0])
    assert out["weight"].to_list() == pytest.approx([1.0, -1.0])
    assert out["label"].to_list() == [True, False]


def test_ties_share_the_mean_rank() -> None:
    out = calibrate(frame_from([[[5, 0, 0, 0, 0, 0], [5, 0, 0, 0, 0, 0], [7, 0, 0, 0, 0, 0]]]))
    assert out["rank_length"].to_list() == [2.5, 2.5, 1.0]
    assert out["rank_diversity"].to_list() == [2.0, 2.0, 2.0]


def test_mass_is_redistributed_by_hand() -> None:
    # z of a group whose rank sums are 5, 7.5, 10 times a constant: (1.2247, 0, −1.2247); the middle row is positive.
    out = calibrate(frame_from([[[3] * 5 + [1], [2] * 5 + [2], [1] * 5 + [3]]]))
    z = math.sqrt(1.5)
    assert out["reward"].to_list() == pytest.approx([z, 0.0, -z])
    assert out["label"].to_list() == [True, True, False]
    assert out["weight"].to_list() == pytest.approx([2.0, 0.0, -1.0])


def test_unmatched_rows_stand_outside() -> None:
    with_unmatched = calibrate(frame_from([[[3] * 5 + [1], None, [1] * 5 + [3]]]))
    without = calibrate(frame_from([[[3] * 5 + [1], [1] * 5 + [3]]]))
    assert with_unmatched["weight"].to_list() == [without["weight"][0], -1.0, without["weight"][1]]
    assert with_unmatched["label"].to_list() == [True, False, False]
    assert with_unmatched["reward"][1] is None and with_unmatched["rank_sum"][1] is None


def test_a_group_without_matched_response_and_one_with_a_single_one() -> None:
    out = calibrate(frame_from([[None, None], [None, [1.0] * 6]]))
    assert out["weight"].to_list() == [-1.0, -1.0, -1.0, 0.0]
    assert out["label"].to_list() == [False, False, False, True]


def test_a_row_that_lacks_one_metric_counts_as_unscored() -> None:
    frame = frame_from([[[3.0] * 6, [2.0] * 6, [1.0] * 6]]).with_columns(
        pl.when(pl.int_range(pl.len()) == 1).then(None).otherwise("ppl_domain").alias("ppl_domain")
    )
    out = calibrate(frame)
    assert out["weight"][1] == -1.0
    assert out["rank_length"].to_list() == [1.0, None, 2.0]


def test_equal_rank_sums_from_different_ranks_are_a_tie() -> None:
    # Coefficients 0.1, 0.2, 0.3 have no exact binary form: 0.1·1+0.2·1+0.3·2 and 0.1·2+0.2·2+0.3·1 differ in floats.
    coefficients = RankCoefficients(
        length=0.1, diversity=0.2, professionalism=0.3, relevance_document=0, relevance_summary=0, ppl_domain=0
    )
    out = add_rewards(frame_from([[[2, 2, 1, 0, 0, 0], [1, 1, 2, 0, 0, 0]]]), coefficients)
    assert out["reward"].to_list() == [0.0, 0.0]


@pytest.mark.parametrize("seed", range(3))
def test_equals_an_independent_computation(seed: int) -> None:
    groups = random_groups(seed, 1000)
    out = calibrate(frame_from(groups))
    rho, z, weights = independent(groups)
    np.testing.assert_allclose(out["rank_sum"].cast(pl.Float64).fill_null(math.nan).to_numpy(), rho, atol=1e-9)
    np.testing.assert_allclose(out["reward"].cast(pl.Float64).fill_null(math.nan).to_numpy(), z, atol=1e-9)
    np.testing.assert_allclose(out["weight"].to_numpy(), weights, atol=1e-9)
    assert out["label"].to_list() == [bool(value >= 0) for value in z]


@pytest.mark.parametrize("seed", range(3))
def test_weights_sum_to_the_rows_of_each_polarity(seed: int) -> None:
    scored = calibrate(frame_from(random_groups(seed, 1000))).filter(pl.col("reward").is_not_null())
    for label, sign in ((True, 1), (False, -1)):
        rows = scored.filter(pl.col("label") == label)
        assert rows["weight"].sum() == pytest.approx(sign * rows.height, abs=sum64(2 * rows.height, rows.height))


METRIC = st.one_of(st.none(), st.lists(st.integers(0, 4).map(float), min_size=6, max_size=6))


@settings(max_examples=60)
@given(st.lists(st.lists(METRIC, min_size=1, max_size=6), min_size=1, max_size=5))
def test_properties(groups: list[list[list[float] | None]]) -> None:
    frame = frame_from(groups)
    out = calibrate(frame)
    for (_, group), rows in zip(out.group_by("query_id", maintain_order=True), groups, strict=True):
        z = group["reward"].drop_nulls()
        assert z.len() == sum(row is not None for row in rows)
        if z.len():
            assert z.sum() == pytest.approx(0, abs=TOLERANCE)
            assert z.std(ddof=0) == pytest.approx(1, abs=TOLERANCE) or not z.to_numpy().any()
        assert group["rank_sum"].drop_nulls().len() == z.len()
    shuffled = frame.with_row_index("row").sample(fraction=1, shuffle=True, seed=1)
    again = calibrate(shuffled.drop("row")).with_columns(shuffled["row"]).sort("row")
    np.testing.assert_allclose(again["weight"].to_numpy(), out["weight"].to_numpy(), atol=1e-9)


def test_better_everywhere_is_never_weighted_less() -> None:
    rng = random.Random(5)
    for _ in range(50):
        group = [[rng.random() for _ in RANKED] for _ in range(7)]
        best = [max(r[k] for r in group) + 1 for k in range(5)] + [min(r[5] for r in group) - 1]
        out = calibrate(frame_from([[*group, best]]))
        assert out["weight"].arg_max() == 7


def test_totals_add_up_over_shards() -> None:
    groups = random_groups(7, 60)
    whole = totals_of(add_rewards(frame_from(groups), COEFFICIENTS)["reward"])
    parts = Totals()
    for start in range(0, 60, 20):
        parts += totals_of(add_rewards(frame_from(groups[start : start + 20]), COEFFICIENTS)["reward"])
    assert parts.positive_rows == whole.positive_rows and parts.negative_rows == whole.negative_rows
    assert parts.positive_sum == pytest.approx(whole.positive_sum, abs=TOLERANCE)


def test_binary_keeps_the_labels() -> None:
    rewards = add_rewards(frame_from(random_groups(3, 60)), COEFFICIENTS)
    totals = totals_of(rewards["reward"])
    weighted, binary = add_weights(rewards, totals), add_weights(rewards, totals, binary=True)
    assert binary["label"].to_list() == weighted["label"].to_list()
    assert set(binary["weight"].unique()) == {1.0, -1.0}


def stage_on(folder: Path, files: list[pl.DataFrame]) -> pl.DataFrame:
    """What the stage makes of a dataset in these files."""
    (folder / "data").mkdir(parents=True)
    for index, frame in enumerate(files):
        frame.write_parquet(folder / "data" / f"{index}.parquet")
    return build(config_on(folder), "calibrate", start=str(folder / "data"))[-1].revision.scan().collect()


def test_calibrate_frame_gives_the_numbers_of_the_stage(tmp_path: Path) -> None:
    rng = random.Random(11)
    lengths = [[rng.choice([None, *range(40, 90, 10)]) for _ in range(5)] for _ in range(30)]
    scores = scores_frame(lengths)
    frame = calibrate_frame(scores)
    assert frame.columns == [*scores.columns, *(f"rank_{m}" for m in RANKED), "rank_sum", "reward", "weight", "label"]
    assert frame.equals(stage_on(tmp_path / "one", [scores]).select(frame.columns))
    # Totals of several files are added up in another order.
    several = stage_on(tmp_path / "several", [scores[:50], scores[50:]]).select(frame.columns)
    assert frame.drop("weight").equals(several.drop("weight"))
    error = sum64(scores.height, np.abs(frame["weight"]).max())
    np.testing.assert_allclose(frame["weight"].to_numpy(), several["weight"].to_numpy(), rtol=0, atol=error)


def test_columns_of_nothing_but_nulls_are_taken_where_nulls_may_be(tmp_path: Path) -> None:
    """As pyarrow writes them: an engine that knows no log-probability, a file in which nothing is matched."""
    scores = scores_frame([[None] * 4, [70, 52, 52, 90]], logprob=[None] * 8)
    (tmp_path / "rows").mkdir()
    for index, part in enumerate((scores[:4], scores[4:])):
        pq.write_table(pa.Table.from_pylist(part.to_dicts()), tmp_path / "rows" / f"{index}.parquet")
    found = [pl.read_parquet_schema(path) for path in sorted((tmp_path / "rows").iterdir())]
    assert [schema["summary"] for schema in found] == [pl.Null, pl.String]
    assert [schema["ppl_domain"] for schema in found] == [pl.Null, pl.Float64]
    assert [schema["logprob"] for schema in found] == [pl.Null, pl.Null]
    revision = build(config_on(tmp_path), "calibrate", start=str(tmp_path / "rows"))[-1].revision
    rows = revision.scan().collect()
    assert rows.select(scores.columns).equals(scores)
    assert rows.select(RANKED).null_count().row(0) == (4,) * len(RANKED)
    assert verify(revision, PIPELINES) == []
    without = scores.with_columns(query=None)
    pq.write_table(pa.Table.from_pylist(without.to_dicts()), tmp_path / "without.parquet")
    with pytest.raises(
        UserError, match=r"without\.parquet does not fit this stage: query is Null, not String; it needs"
    ):
        build(config_on(tmp_path), "calibrate", start=str(tmp_path / "without.parquet"))


def test_calibrate_frame_takes_coefficients_and_binary_weights() -> None:
    # By length alone the second row is the better one.
    frame = frame_from([[[1.0] * 6, [2.0, 0.0, 0.0, 0.0, 0.0, 2.0]]])
    only_length = RankCoefficients(**dict.fromkeys(RANKED, 0.0) | {"length": 1.0})
    assert calibrate_frame(frame)["label"].to_list() == [True, False]
    assert calibrate_frame(frame, only_length)["label"].to_list() == [False, True]
    assert calibrate_frame(frame, binary=True)["weight"].to_list() == [1.0, -1.0]


def test_calibrate_frame_replaces_its_own_columns_and_keeps_the_others() -> None:
    frame = frame_from(random_groups(4, 12)).with_columns(note=pl.lit("kept"), length=pl.col("length").cast(pl.Float32))
    once = calibrate_frame(frame)
    assert calibrate_frame(once).equals(once)
    assert once.select(frame.columns).equals(frame)


def test_calibrate_frame_says_what_is_wrong() -> None:
    frame = frame_from([[[1.0] * 6, [2.0] * 6]])
    with pytest.raises(UserError, match=r"^the frame of scores: query_id is missing; diversity is missing; it needs"):
        calibrate_frame(frame.drop("diversity", "query_id"))
    wrong = frame.with_columns(pl.col("diversity").cast(pl.String), query_id=pl.lit(1))
    with pytest.raises(UserError, match=r"diversity is String, not a number; query_id is Int32, not String; it needs"):
        calibrate_frame(wrong)
    for value in (math.nan, math.inf):
        bad = pl.when(pl.int_range(pl.len()) == 1).then(value).otherwise("ppl_domain").alias("ppl_domain")
        with pytest.raises(UserError, match=rf"ppl_domain is {value} in row 1; metrics must be finite, or null"):
            calibrate_frame(frame.with_columns(bad))
    with pytest.raises(UserError, match="no matched row with all six ranked metrics, so there is nothing to rank"):
        calibrate_frame(frame_from([[None, None]]))
