"""The quality of a round: its numbers by hand, the line, what is kept, and when a loop stops."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from datasets_factory import add_dataset, add_model
from hypothesis import given
from hypothesis import strategies as st
from real_configs import config_on

from builders.grace_kto.columns import METRICS, WEIGHTS_COLUMNS
from builders.store.columns import polars_schema
from builders.store.manifest import Manifest
from builders.store.revision import Revision
from builders.store.store import Store
from builders.store.summary import summarise
from scorers.errors import UserError
from training.grace_kto.pipeline import GRACE_KTO
from training.grace_kto.quality import alarm, look_at, quality_line, quality_of


def weights_frame(**columns: list[Any]) -> pl.DataFrame:
    """Rows of a weights dataset, a query each; metrics and rewards that are not given are null."""
    height = len(next(iter(columns.values())))
    plain: dict[str, list[Any]] = {
        "query": [f"Write a report on harbour {n} and on nothing else." for n in range(height)],
        "matched": [True] * height,
        "finish_reason": ["stop"] * height,
        "weight": [1.0] * height,
        "reward": [None] * height,
        **{name: [None] * height for name in METRICS},
    }
    plain = {**plain, **columns}
    message = [{"role": "user", "content": "Write."}]
    schema = polars_schema(WEIGHTS_COLUMNS)
    others = {pl.String: "text", pl.Boolean: True, pl.List: message}
    rows = {
        name: plain.get(
            name, [f"{n:016x}" if name.endswith("_id") else others.get(type(dtype), n) for n in range(height)]
        )
        for name, dtype in schema.items()
    }
    return pl.DataFrame(rows, schema=schema)


def round_of(folder: Path, frame: pl.DataFrame, round_: int = 1, **results: float) -> dict[str, Revision]:
    """The revisions of a round in a store."""
    store = Store(folder / "store")
    frame.write_parquet(file := folder / "rows.parquet")
    metrics = summarise([file], METRICS)
    weights = add_dataset(store, "calibrate", frame, repo="local/tiny-weights", round_=round_, metrics=metrics)
    policy = add_model(store, "local/tiny-policy", round_=round_, results=results)
    return {"calibrate": weights, "policy": policy}


def manifest_of(revision: Revision) -> Manifest:
    assert revision.manifest is not None
    return revision.manifest


def test_the_numbers_by_hand(tmp_path: Path) -> None:
    frame = weights_frame(
        matched=[True, True, True, False],
        finish_reason=["stop", "length", "stop", "length"],
        weight=[3.0, 1.0, -1.0, -1.0],
        reward=[1.0, 0.5, -1.5, None],
        length=[30, 20, 10, None],
    )
    made = round_of(tmp_path, frame, kl=0.25)
    found = quality_of(config_on(tmp_path), made["calibrate"], manifest_of(made["policy"]), {})
    assert found == {
        "matched": 0.75,
        "cut": 0.5,
        "effective sample": 6**2 / (4 * 12),  # (3 + 1 + 1 + 1)² / (4 · (9 + 1 + 1 + 1))
        "reward and length": 1.0,
        "near-duplicates": 0.0,
        "KL": 0.25,
    }
    assert quality_line(found) == (
        "quality: matched 75%, cut 50%, effective sample 75% of rows, reward and length r +1.00, near-duplicates 0%, "
        "KL 0.2500"
    )


def test_queries_that_repeat_one_another(tmp_path: Path) -> None:
    text = "Please write a long report on the harbour, its ships and its people."
    frame = weights_frame(query_id=["a", "a", "b", "c"], query=[text, text, text.upper(), "Sing of the pier."])
    made = round_of(tmp_path, frame)
    found = quality_of(config_on(tmp_path), made["calibrate"], manifest_of(made["policy"]), {})
    assert found["near-duplicates"] == pytest.approx(1 / 3)  # b repeats a; the two rows of a are one query
    assert found["reward and length"] is None and found["KL"] is None  # no reward, no training's record
    assert "reward and length r –" in quality_line(found) and "KL –" in quality_line(found)


def test_drift_is_in_deviations_of_the_round_before(tmp_path: Path) -> None:
    config = config_on(tmp_path)
    first = round_of(tmp_path, weights_frame(length=[10, 20, 30], diversity=[50.0, 50.0, 50.0]), 1)
    second = round_of(tmp_path, weights_frame(length=[20, 30, 40], diversity=[60.0, 60.0, 60.0]), 2)
    assert "drift" not in str(look_at(config, 1, first, [])[0])
    line, reason = look_at(config, 2, second, ["64 held-out queries, …"])
    assert line is not None and line.endswith(", drift L +1.2") and reason is None  # 10 / sqrt(200 / 3)
    kept = json.loads((tmp_path / "store/.loop/local/tiny/round-002.json").read_text())
    assert kept["quality"]["drift L"] == pytest.approx(10 / math.sqrt(200 / 3))
    assert "drift E" not in kept["quality"]  # the first round's had no deviation
    assert kept["held_out"] == ["64 held-out queries, …"] and kept["weights"] == str(second["calibrate"])


def test_what_is_not_finite_is_kept_as_null(tmp_path: Path) -> None:
    made = round_of(tmp_path, weights_frame(weight=[1.0, -1.0]))
    manifest = manifest_of(made["policy"]).model_copy(update={"results": {"kl": math.nan}})
    made["policy"] = replace(made["policy"], manifest=manifest)
    line, reason = look_at(config_on(tmp_path), 1, made, [])
    kept = (tmp_path / "store/.loop/local/tiny/round-001.json").read_text()
    assert json.loads(kept, parse_constant=pytest.fail)["quality"]["KL"] is None
    assert line is not None and "KL –" in line and reason is not None and "kl of the training is nan" in reason


def test_a_round_without_data_is_passed_over(tmp_path: Path) -> None:
    made = round_of(tmp_path, weights_frame(weight=[1.0]))
    assert look_at(config_on(tmp_path), 1, {"policy": made["policy"]}, []) == (None, None)


@pytest.mark.parametrize(
    ("numbers", "overrides", "results", "message"),
    [
        ({"matched": 0.5, "cut": 0.3}, [], {"loss": 1.0}, None),
        ({"matched": None, "cut": None}, [], {}, None),
        ({"matched": 0.499, "cut": 0.0}, [], {}, r"round 3: 50% of the responses have the tagged form, fewer than "),
        ({"matched": 0.1, "cut": 0.0}, ["loop.min_matched=0"], {}, None),
        ({"matched": 0.9, "cut": 0.31}, [], {}, r"31% of the responses are cut at the length limit, more than loop\."),
        ({"matched": 0.9, "cut": 0.9}, ["loop.max_cut=1"], {}, None),
        ({"matched": 0.9, "cut": 0.0}, [], {"loss": math.nan}, r"round 3: loss of the training is nan; lower train\."),
        ({"matched": 0.9, "cut": 0.0}, [], {"kl": math.inf}, r"kl of the training is inf"),
    ],
)
def test_when_a_loop_stops(
    tmp_path: Path, numbers: dict[str, Any], overrides: list[str], results: dict[str, float], message: str | None
) -> None:
    found = alarm(config_on(tmp_path, *overrides), 3, numbers, results)
    if message is None:
        assert found is None
    else:
        with pytest.raises(UserError, match=message):
            raise UserError(str(found))
        assert "\n" not in str(found)


def test_a_loop_says_the_line_and_stops(tmp_path: Path) -> None:
    made = round_of(tmp_path, weights_frame(matched=[True, False, False, False]))
    config = config_on(tmp_path, "loop.held_out=0")
    assert GRACE_KTO.watch is not None
    lines = iter(GRACE_KTO.watch(config, 1, made))
    assert next(lines).startswith("quality: matched 25%")
    with pytest.raises(UserError, match=r"go on all the same: add --set loop\.min_matched=0$"):
        next(lines)
    calm = config_on(tmp_path, "loop.held_out=0", "loop.min_matched=0")
    assert len(list(GRACE_KTO.watch(calm, 1, made))) == 1


@given(st.lists(st.floats(-5, 5).filter(lambda value: abs(value) > 1e-3), min_size=1, max_size=20))
def test_the_effective_sample_is_a_share(weights: list[float]) -> None:
    sizes = [abs(weight) for weight in weights]
    share = sum(sizes) ** 2 / (len(sizes) * sum(size**2 for size in sizes))
    assert 1 / len(sizes) - 1e-9 <= share <= 1 + 1e-9
