"""`grace verify`: a sound revision passes, and every kind of alteration is named."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
from datasets_factory import add_dataset, add_model, scores_frame, weights_frame, write_data
from typer.testing import CliRunner

from builders.grace_kto.columns import WEIGHTS_COLUMNS
from builders.inspect.verify import ROWS_SHOWN, inside, open_any, verify
from builders.store.check import Finding
from builders.store.manifest import DataFile, Manifest, content_digest, describe_files
from builders.store.store import Revision, Store
from scorers.errors import UserError
from training.cli import app

SHARD = "data/train-00000-of-00002.parquet"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def weights(store: Store) -> Revision:
    return add_dataset(store, "calibrate", weights_frame(scores_frame()), shards=(4, 4))


def altered(revision: Revision, frame: pl.DataFrame) -> Revision:
    """The revision with other rows in its first shard, and a manifest that describes them truly."""
    write_data(frame, WEIGHTS_COLUMNS, revision.path / SHARD)
    assert revision.manifest is not None
    rows = {file.path: int(file.rows or 0) for file in revision.manifest.files} | {SHARD: frame.height}
    files = describe_files(revision.path, [revision.path / name for name in rows], rows)
    return with_manifest(revision, files=files, digest=content_digest(files))


def with_manifest(revision: Revision, **changes: object) -> Revision:
    assert revision.manifest is not None
    manifest = Manifest.model_validate(revision.manifest.model_dump() | changes)
    return Revision(revision.repo, revision.revision, revision.path, manifest)


def first_shard(revision: Revision) -> pl.DataFrame:
    return pl.read_parquet(revision.path / SHARD)


def kinds(findings: list[Finding]) -> set[tuple[str, str]]:
    return {(finding.where, finding.what) for finding in findings}


def test_a_sound_revision_has_no_findings(store: Store, weights: Revision) -> None:
    assert verify(weights) == []
    assert verify(add_dataset(store, "score", scores_frame())) == []
    assert verify(add_model(store, "local/demo-policy")) == []


def test_binary_weights_are_recomputed_as_such(store: Store) -> None:
    frame = weights_frame(scores_frame(), binary=True)
    configuration = {"calibrate": {"binary": True}}
    assert verify(add_dataset(store, "calibrate", frame, configuration=configuration)) == []
    other = add_dataset(store, "calibrate", frame)
    assert {finding.what for finding in verify(other)} == {"weight"}


def test_groups_that_are_spread_over_files_are_recomputed_whole(store: Store) -> None:
    assert verify(add_dataset(store, "calibrate", weights_frame(scores_frame()), shards=(2, 3, 3))) == []


def test_a_flipped_byte_is_named(weights: Revision) -> None:
    path = weights.path / SHARD
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    found = kinds(verify(weights))
    assert (SHARD, "sha256") in found
    assert ("manifest.json", "digest") in found
    assert (SHARD, "size") not in found


def test_a_file_cut_in_half_is_not_readable(weights: Revision) -> None:
    path = weights.path / SHARD
    path.write_bytes(path.read_bytes()[:500])
    found = kinds(verify(weights))
    assert {(SHARD, "size"), (SHARD, "sha256"), (SHARD, "content"), ("data/", "calibration")} <= found


def test_a_missing_and_an_extra_shard(weights: Revision) -> None:
    (weights.path / SHARD).rename(weights.path / "data/other.parquet")
    found = verify(weights)
    assert {(SHARD, "file"), ("data/other.parquet", "file"), ("manifest.json", "rows")} <= kinds(found)
    missing = next(finding for finding in found if finding.where == SHARD)
    assert missing.found == "missing"


def test_a_wrong_digest_in_the_manifest(weights: Revision) -> None:
    wrong = with_manifest(weights, digest="f" * 64)
    assert verify(wrong) == [Finding("manifest.json", "digest", "f" * 64, weights.digest)]


def test_an_altered_manifest_of_the_store_no_longer_has_its_name(store: Store, weights: Revision) -> None:
    assert weights.manifest is not None
    other = weights.manifest.model_copy(update={"random_seed": 1})
    (weights.path / "manifest.json").write_text(other.to_json(), encoding="utf-8")
    found = verify(open_any("local/demo-weights", store))
    assert found == [Finding("manifest.json", "sha1", weights.revision, other.revision)]


def test_wrong_rows_in_the_manifest(weights: Revision) -> None:
    wrong = with_manifest(weights, rows={"read": 8, "written": 9})
    assert Finding("manifest.json", "rows", "9", "8") in verify(wrong)


def test_one_changed_weight_is_the_only_finding(weights: Revision) -> None:
    frame = first_shard(weights)
    changed = frame.with_columns(
        pl.when(pl.col("response_id") == "query0-1").then(pl.col("weight") + 1e-6).otherwise("weight").alias("weight")
    )
    stored = changed.filter(pl.col("response_id") == "query0-1")["weight"][0]
    true = frame.filter(pl.col("response_id") == "query0-1")["weight"][0]
    assert verify(altered(weights, changed)) == [Finding("query0-1", "weight", str(stored), str(true))]


def test_a_difference_within_the_tolerance_is_none(weights: Revision) -> None:
    assert verify(altered(weights, first_shard(weights).with_columns(pl.col("weight") + 1e-10))) == []


def test_a_weight_on_an_unmatched_row_and_a_turned_label(weights: Revision) -> None:
    unmatched = pl.col("response_id") == "query0-3"
    frame = first_shard(weights).with_columns(
        pl.when(unmatched).then(0.5).otherwise("reward").alias("reward"),
        pl.when(unmatched).then(True).otherwise("label").alias("label"),
    )
    assert verify(altered(weights, frame)) == [
        Finding("query0-3", "reward", "0.5", "None"),
        Finding("query0-3", "label", "True", "False"),
    ]


def test_other_coefficients_show_in_the_ranks_sum(weights: Revision) -> None:
    wrong = with_manifest(weights, configuration={"calibrate": {"coefficients": {"length": 2.0}}})
    found = {finding.what for finding in verify(wrong)}
    assert "rank_sum" in found
    assert "rank_length" not in found


def test_a_hand_computed_group(store: Store) -> None:
    # Two responses, all metrics equal but length: rho 2·1.5·… differs by the length ranks 1 and 2, so z is ±1, W ±1.
    scores = scores_frame([[10, 20]])
    metrics = {c: [1.0, 1.0] for c, t in scores.schema.items() if t == pl.Float64 and c != "logprob"}
    frame = weights_frame(scores_frame([[10, 20]], **metrics))
    assert frame["rank_length"].to_list() == [2.0, 1.0]
    assert frame["reward"].to_list() == [-1.0, 1.0]
    assert verify(add_dataset(store, "calibrate", frame)) == []
    swapped = frame.with_columns(pl.col("rank_length").reverse())
    found = verify(add_dataset(store, "calibrate", swapped))
    assert found == [Finding("query0-0", "rank_length", "1.0", "2.0"), Finding("query0-1", "rank_length", "2.0", "1.0")]


def test_only_the_first_rows_are_listed(store: Store) -> None:
    frame = weights_frame(scores_frame([[10, 20, 30, 40]] * 3)).with_columns(pl.lit(7.0).alias("weight"))
    found = verify(add_dataset(store, "calibrate", frame, shards=(4, 4, 4)))
    assert len(found) == ROWS_SHOWN + 1
    assert found[-1] == Finding("data/", "weight", "", f"12 rows differ, {ROWS_SHOWN} shown")


def test_columns_that_do_not_fit_the_contract(weights: Revision) -> None:
    frame = first_shard(weights).drop("weight").with_columns(pl.lit(1).alias("added"), pl.col("length").cast(pl.Int64))
    frame.write_parquet(weights.path / SHARD)
    found = kinds(verify(weights))
    assert {(SHARD, "column weight"), (SHARD, "column added"), (SHARD, "column length")} <= found


def test_nulls_and_nan_break_the_contract(weights: Revision) -> None:
    frame = first_shard(weights).with_columns(pl.lit(float("nan")).alias("diversity"))
    null = pl.when(pl.col("response_id") != "query0-0").then("query")
    frame.with_columns(null.alias("query")).write_parquet(weights.path / SHARD)
    found = verify(weights)
    assert Finding(SHARD, "column query", "a value in each row", "1 rows without") in found
    assert Finding(SHARD, "column diversity", "finite, or null", "4 rows without") in found


def test_a_missing_card(weights: Revision) -> None:
    (weights.path / "README.md").unlink()
    assert verify(weights) == [Finding("README.md", "card", "a card", "missing or empty")]


def test_a_path_that_leaves_the_revision_is_not_read(weights: Revision, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x", encoding="utf-8")
    for name in ("../../../../../secret", str(tmp_path / "secret"), "data/../../x", "", "a\0b"):
        assert inside(weights.path, name) is None
    assert weights.manifest is not None
    bad = DataFile(path="../../../../../secret", size=1, sha256="0" * 64)
    found = verify(with_manifest(weights, files=[*weights.manifest.files, bad]))
    assert [(f.where, f.found) for f in found] == [(bad.path, "a path outside the revision, not read")]


def test_coefficients_that_cannot_be_read(weights: Revision) -> None:
    found = verify(with_manifest(weights, configuration={"calibrate": {"coefficients": {"length": "long"}}}))
    assert kinds(found) == {("manifest.json", "configuration.calibrate.coefficients.length")}
    assert kinds(verify(with_manifest(weights, configuration={}))) == {("manifest.json", "configuration.calibrate")}


def test_a_model_is_checked_by_its_files(store: Store) -> None:
    model = add_model(store, "local/demo-policy")
    (model.path / "model.safetensors").write_bytes(b"other")
    (model.path / "pytorch_model.bin").write_bytes(b"more")
    found = kinds(verify(model))
    assert {("model.safetensors", "sha256"), ("pytorch_model.bin", "file"), ("manifest.json", "digest")} <= found


def test_data_without_a_manifest_cannot_be_verified(tmp_path: Path) -> None:
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"no manifest\.json in it"):
        verify(open_any(str(tmp_path / "a.parquet"), Store(tmp_path)))


def test_open_any_finds_datasets_models_and_paths(store: Store, weights: Revision) -> None:
    model = add_model(store, "local/demo-policy")
    assert open_any("local/demo-weights@round-001", store).revision == weights.revision
    assert open_any("local/demo-policy", store).revision == model.revision
    assert open_any(str(weights.path), store).revision == weights.revision


def run(store: Store, *args: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, [*args, "--config", "tiny", "--store", str(store.root)])
    return result.exit_code, result.output


def test_the_command(store: Store, weights: Revision) -> None:
    status, output = run(store, "verify", "local/demo-weights")
    assert status == 0
    assert output.startswith("ok: ")
    assert weights.digest in output
    assert "8 rows, 2 files" in output
    shutil.rmtree(weights.path / "data")
    status, output = run(store, "verify", "local/demo-weights", "--json")
    assert status == 1
    value = json.loads(output.splitlines()[-1])
    assert value["ok"] is False
    assert {"where": SHARD, "what": "file"}.items() <= value["findings"][0].items()
    assert run(store, "verify", "local/demo-weights")[0] == 1
    assert run(store, "verify", "not a ref")[0] == 2


def test_escape_sequences_of_a_manifest_do_not_reach_the_terminal(store: Store) -> None:
    hostile = DataFile(path="data/\x1b[2J[red].parquet", size=1, sha256="0" * 64)
    add_dataset(store, "calibrate", weights_frame(scores_frame()), files=[hostile])
    status, output = run(store, "verify", "local/demo-weights")
    assert status == 1
    assert "\x1b" not in output
    assert "[red]" in output
