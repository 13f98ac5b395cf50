"""Rows of scores that may not be ranked, and rows that no dataset may have."""

import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from datasets_factory import add_dataset, scores_frame, weights_frame
from real_configs import config_on

from builders.grace_kto import rows as module
from builders.grace_kto.calibrate import calibrate_frame
from builders.grace_kto.columns import RANKED
from builders.grace_kto.rows import ResponseIds
from builders.inspect.verify import verify
from builders.store.manifest import Model
from builders.store.revision import Revision
from builders.store.store import Store
from scorers.errors import UserError
from training.pipelines import PIPELINES, build

LENGTHS = [[40, 55, 61, 70], [70, 52, 52, 90]]


def write(folder: Path, *frames: pl.DataFrame) -> Path:
    (folder / "rows").mkdir()
    for index, frame in enumerate(frames):
        frame.write_parquet(folder / "rows" / f"{index}.parquet")
    return folder / "rows"


def calibrated(folder: Path, *frames: pl.DataFrame) -> Revision:
    return build(config_on(folder), "calibrate", start=str(write(folder, *frames)))[-1].revision


def with_value(frame: pl.DataFrame, row: int, **values: object) -> pl.DataFrame:
    """The frame with other values in one row."""
    here = pl.int_range(pl.len()) == row
    return frame.with_columns(
        pl.when(here).then(pl.lit(value, frame.schema[name])).otherwise(name).alias(name)
        for name, value in values.items()
    )


def test_an_unmatched_row_is_never_ranked_whatever_metrics_it_has(tmp_path: Path) -> None:
    """Other software fills metrics in for all rows; such rows once got ranks, and many a positive label."""
    scores = scores_frame(LENGTHS)
    filled = with_value(with_value(scores, 1, matched=False), 7, matched=False)
    empty = with_value(filled, 1, **dict.fromkeys(RANKED))
    empty = with_value(empty, 7, **dict.fromkeys(RANKED))
    revision = calibrated(tmp_path, filled)
    rows = revision.scan().collect()
    unmatched = rows.filter(~pl.col("matched"))
    assert unmatched.height == 2 and unmatched.select(RANKED).null_count().sum_horizontal().item() == 0
    assert unmatched.select("rank_sum", "reward", *(f"rank_{m}" for m in RANKED)).null_count().row(0) == (2,) * 8
    assert unmatched["weight"].to_list() == [-1.0, -1.0] and unmatched["label"].to_list() == [False, False]
    added = ["rank_sum", "reward", "weight", "label", *(f"rank_{m}" for m in RANKED)]
    assert rows.select(added).equals(calibrate_frame(empty).select(added))
    assert revision.manifest is not None and revision.manifest.counts["unscored"] == 2
    assert verify(revision, PIPELINES) == []


def test_verify_finds_an_unmatched_row_that_was_ranked(tmp_path: Path) -> None:
    scores = scores_frame(LENGTHS)
    weights = weights_frame(scores).with_columns(matched=pl.int_range(pl.len()) != 3)
    made = add_dataset(Store(tmp_path / "store"), "calibrate", weights)
    found = {(finding.where, finding.what) for finding in verify(made, PIPELINES)}
    assert {("query0-3", "reward"), ("query0-3", "weight"), ("query0-3", "rank_sum")} <= found


def test_calibrate_frame_reads_matched_where_there_is_one() -> None:
    scores = scores_frame(LENGTHS)
    without = calibrate_frame(scores.drop("matched"))
    assert "matched" not in without.columns
    assert without["weight"].equals(calibrate_frame(scores)["weight"])
    assert calibrate_frame(with_value(scores, 0, matched=False))["weight"][0] == -1.0
    with pytest.raises(UserError, match="matched is null in row 2; give true or false"):
        calibrate_frame(with_value(scores, 2, matched=None))
    with pytest.raises(UserError, match="matched is String, not Boolean; it needs"):
        calibrate_frame(scores.with_columns(matched=pl.lit("yes")))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"round": -1}, "round is -1; rounds count from 0"),
        ({"matched": None}, "matched is null; a value is needed"),
        ({"query_id": None}, "query_id is null; a value is needed"),
        ({"length": None}, "length is null; a matched row has a value; score the row again, or set matched to false"),
        ({"diversity": None, "length": 1}, "diversity is null; a matched row has a value; score the row again"),
        ({"relevance_summary": None}, "relevance_summary is null; a matched row has a value"),
        ({"ppl_domain": None}, "ppl_domain is null; only a document of one token may lack it; score the row again"),
        ({"professionalism": None, "length": 2}, "professionalism is null; only a document of one token may lack it"),
    ],
)
@pytest.mark.parametrize("split", [False, True], ids=["whole groups", "split groups"])
def test_a_row_that_cannot_be_calibrated_is_named(
    tmp_path: Path, values: dict[str, Any], said: str, split: bool
) -> None:
    frame = with_value(scores_frame(LENGTHS), 6, **values)
    frames = (frame[:3], frame[3:]) if split else (frame[:4], frame[4:])
    row = 3 if split else 2
    source = write(tmp_path, *frames)
    with pytest.raises(UserError) as error:
        build(config_on(tmp_path), "calibrate", start=str(source))
    assert str(error.value).startswith(f"{source / '1.parquet'}, row {row} (response_id query1-2): {said}")
    assert Store(tmp_path / "store").refs("local/tiny-weights") == {}


def test_a_row_without_an_id_is_named_by_its_place(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"0\.parquet, row 5 \(response_id None\): response_id is null; a value is"):
        calibrated(tmp_path, with_value(scores_frame(LENGTHS), 5, response_id=None))


def test_a_document_of_one_token_counts_as_unscored(tmp_path: Path) -> None:
    short = dict.fromkeys(("ppl_general", "ppl_domain", "professionalism"))
    revision = calibrated(tmp_path, with_value(scores_frame(LENGTHS), 2, length=1, **short))
    row = revision.scan().filter(pl.col("response_id") == "query0-2").collect()
    assert row["weight"].to_list() == [-1.0] and row["label"].to_list() == [False] and row["reward"].to_list() == [None]
    assert revision.manifest is not None
    assert revision.manifest.counts == {
        "matched without a score": 1,
        "negative": int((~revision.scan().collect()["label"]).sum()),
        "positive": int(revision.scan().collect()["label"].sum()),
        "unscored": 1,
    }
    assert verify(revision, PIPELINES) == []


@pytest.mark.parametrize(
    ("domain", "refused"), [("alice/domain", False), ("alice/policy", True), (None, True)], ids=str
)
def test_a_length_says_nothing_where_perplexities_count_other_tokens(
    tmp_path: Path, domain: str | None, refused: bool
) -> None:
    """A word may be two tokens for the policy and one for the domain model, which then has no perplexity for it."""
    policy = Model(id="alice/policy", revision="1" * 40)
    models = {"tokenizer": policy, "general": policy, "domain": policy.model_copy(update={"id": domain})}
    frame = with_value(scores_frame(LENGTHS), 0, length=2, ppl_domain=None, professionalism=None)
    scores = add_dataset(Store(tmp_path / "store"), "score", frame, models={} if domain is None else models)
    if refused:
        with pytest.raises(UserError, match="professionalism is null; only a document of one token"):
            build(config_on(tmp_path), "calibrate", start=str(scores))
        return
    weights = build(config_on(tmp_path), "calibrate", start=str(scores))[-1].revision
    assert weights.manifest is not None and weights.manifest.counts["matched without a score"] == 1
    assert verify(weights, PIPELINES) == []


@pytest.mark.parametrize("row", [4, 1, 7])
def test_an_id_that_stands_twice_is_named_with_its_places(tmp_path: Path, row: int) -> None:
    """Within a group, in another one and in another file."""
    frame = with_value(scores_frame(LENGTHS), row, response_id="query0-0")
    where = f"row {row - 4}" if row >= 4 else f"row {row}"
    with pytest.raises(UserError) as error:
        calibrated(tmp_path, frame[:4], frame[4:])
    assert re.fullmatch(
        rf"response_id query0-0 stands twice: \S*/0\.parquet, row 0 and \S*/{row // 4}\.parquet, {where}; every "
        "response needs an id of its own",
        str(error.value),
    )


def test_all_repeated_ids_are_found_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 3)
    frame = pl.DataFrame({"response_id": [f"r{n % 10}" for n in range(37)] + ["alone"]})
    folder = write(tmp_path, frame[:11], frame[11:])
    files = sorted(folder.iterdir())
    ids = ResponseIds()
    for part in (frame[:20], frame[20:]):
        ids.add(part["response_id"])
    found = dict(ids.repeated(files))
    assert found.keys() == {f"r{n}" for n in range(10)}
    assert found["r1"] == [f"{files[0]}, row 1", f"{files[1]}, row 0"]
    assert found["r0"] == [f"{files[0]}, row 0", f"{files[0]}, row 10"]


def test_two_ids_that_share_a_hash_are_not_taken_for_one(tmp_path: Path) -> None:
    folder = write(tmp_path, pl.DataFrame({"response_id": ["a", "b", "c"]}))
    ids = ResponseIds()
    ids.add(pl.Series(["a", "b", "c"]))
    ids.add(pl.Series(["a"]))  # as if an id that stands nowhere had the hash of a
    assert list(ids.repeated(list(folder.iterdir()))) == []
    assert list(ResponseIds().repeated([])) == []


def test_verify_names_rows_that_could_not_be_calibrated(tmp_path: Path) -> None:
    scores = scores_frame([[40 + n for n in range(9)]])
    weights = weights_frame(scores).with_columns(round=pl.lit(-2, pl.Int32))
    weights = with_value(weights, 3, response_id="query0-0")
    made = add_dataset(Store(tmp_path / "store"), "calibrate", weights)
    found = [(finding.where, finding.what, finding.stored, finding.found) for finding in verify(made, PIPELINES)]
    rounds = [entry for entry in found if entry[1] == "round"]
    assert [entry[0] for entry in rounds] == ["query0-0", "query0-1", "query0-2", "query0-0", "query0-4", "data/"]
    assert rounds[0][2:] == ("-2", "rounds count from 0") and rounds[-1][3] == "9 rows differ, 5 shown"
    (twice,) = (entry for entry in found if entry[1] == "response_id")
    assert twice[0] == "query0-0" and twice[2].endswith("row 0") and twice[3].endswith("row 3")
    assert len(found) == 7


@pytest.mark.parametrize("split", [False, True])
def test_a_number_that_its_column_cannot_hold_is_named_with_its_row(tmp_path: Path, split: bool) -> None:
    frame = scores_frame(LENGTHS).with_columns(pl.col("num_tokens").cast(pl.Int64))
    frame = with_value(frame, 6, num_tokens=2**40)
    frames = (frame[:3], frame[3:]) if split else (frame[:4], frame[4:])
    row = 3 if split else 2
    with pytest.raises(
        UserError,
        match=rf"1\.parquet, row {row} \(response_id query1-2\): num_tokens is {2**40}, which Int32 cannot hold; corr",
    ):
        calibrated(tmp_path, *frames)
