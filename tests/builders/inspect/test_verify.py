"""`grace verify`: a sound revision passes, and every kind of alteration is named."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets_factory import add_dataset, add_model, scores_frame, weights_frame, write_data
from toy_pipeline import TOY, NumberSettings, toy_config
from typer.testing import CliRunner

from builders.core.run import run as run_pipeline
from builders.grace_kto.check import ROWS_SHOWN
from builders.grace_kto.columns import WEIGHTS_COLUMNS
from builders.hub.refs import open_here, open_revision
from builders.inspect import verify as module
from builders.store.check import Finding
from builders.store.columns import present
from builders.store.manifest import DataFile, Manifest, content_digest, describe_files
from builders.store.revision import Revision
from builders.store.shards import arrow_schema
from builders.store.store import Store
from scorers.errors import UserError
from training.cli import app
from training.pipelines import PIPELINES

SHARD = "data/train-00000-of-00002.parquet"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def weights(store: Store) -> Revision:
    return add_dataset(store, "calibrate", weights_frame(scores_frame()), shards=(4, 4))


def verify(revision: Revision) -> list[Finding]:
    return module.verify(revision, PIPELINES)


def altered(revision: Revision, frame: pl.DataFrame) -> Revision:
    """The revision with other rows in its first shard, and a manifest that describes them truly."""
    write_data(frame, WEIGHTS_COLUMNS, revision.path / SHARD)
    return described(revision, frame.height)


def described(revision: Revision, first_rows: int) -> Revision:
    """The revision with a manifest that describes its files truly; the first shard has `first_rows` rows."""
    assert revision.manifest is not None
    rows = {file.path: int(file.rows or 0) for file in revision.manifest.files} | {SHARD: first_rows}
    files = describe_files(revision.path, [revision.path / name for name in rows], rows)
    return with_manifest(revision, files=files, digest=content_digest(files))


def with_manifest(revision: Revision, **changes: object) -> Revision:
    assert revision.manifest is not None
    manifest = Manifest.model_validate(revision.manifest.model_dump() | changes)
    return Revision(revision.repo, revision.revision, revision.path, manifest)


def first_shard(revision: Revision) -> pl.DataFrame:
    return pl.read_parquet(revision.path / SHARD)


def kinds(findings: list[Finding]) -> set[tuple[str, str]]:
    return {kind_of(finding) for finding in findings}


def kind_of(finding: Finding) -> tuple[str, str]:
    return finding.where, finding.what


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
    found = open_here("local/demo-weights", store)
    assert found is not None
    assert verify(found) == [Finding("manifest.json", "sha1", weights.revision, other.revision)]
    status, output = run(store, "verify", "local/demo-weights", "--json")
    assert status == 1 and "sha1" in output  # and the Hub is not asked for a sound one


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


def test_a_column_of_nothing_but_nulls_is_sound_where_nulls_may_be(store: Store) -> None:
    # Nothing in the first shard is matched: texts, metrics, ranks and rewards are null there.
    frame = weights_frame(scores_frame([[None] * 4, [70, 52, 52, 90]], logprob=[None] * 8))
    revision = add_dataset(store, "calibrate", frame, shards=(4, 4))
    rows = first_shard(revision)
    empty = {name for name in rows.columns if rows[name].null_count() == rows.height}
    assert {"summary", "logprob", "length", "ppl_domain", "rank_length", "reward"} <= empty
    write_with_nulls(rows, empty, revision.path / SHARD)
    assert pl.read_parquet_schema(revision.path / SHARD)["reward"] == pl.Null
    assert verify(described(revision, rows.height)) == []
    write_with_nulls(rows, empty | {"query"}, revision.path / SHARD)
    found = verify(described(revision, rows.height))
    assert found[0] == Finding(SHARD, "column query", "String", "Null")
    assert kinds(found) == {(SHARD, "column query"), ("data/", "calibration")}


def write_with_nulls(frame: pl.DataFrame, names: set[str], path: Path) -> None:
    """Write a file as pyarrow does from Python values: columns of nothing but None have the type Null."""
    rows = frame.with_columns(pl.lit(None).alias(name) for name in names).to_dicts()
    fields = [
        pa.field(f.name, pa.null()) if f.name in names else f
        for f in arrow_schema(present(WEIGHTS_COLUMNS, frame.columns))
    ]
    pq.write_table(pa.Table.from_pylist(rows, pa.schema(fields)), path)


def test_a_missing_card(weights: Revision) -> None:
    (weights.path / "README.md").unlink()
    assert verify(weights) == [Finding("README.md", "card", "a card", "missing or empty")]


def test_a_path_that_leaves_the_revision_is_not_read(weights: Revision, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x", encoding="utf-8")
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


def test_a_manifest_of_an_unknown_pipeline_or_stage_is_told_beside_its_files(weights: Revision) -> None:
    foreign = with_manifest(weights, pipeline="essays")
    unknown = Finding("manifest.json", "pipeline", "essays", "unknown; pipelines: grace-kto, writingbench, rationalign")
    assert verify(foreign) == [unknown]
    (finding,) = verify(with_manifest(weights, stage="weigh"))
    assert (finding.where, finding.what, finding.stored) == ("manifest.json", "stage", "weigh")
    assert finding.found.startswith("unknown; stages: world:seeds, ") and finding.found.endswith(
        "evaluations, comparisons"
    )
    (weights.path / "README.md").unlink()
    (weights.path / SHARD).unlink()
    found = verify(foreign)
    assert kinds(found) == {(SHARD, "file"), ("manifest.json", "digest"), ("README.md", "card"), kind_of(unknown)}
    assert found[-1] == unknown


def test_a_manifest_that_names_another_kind_than_its_stage_yields(store: Store, weights: Revision) -> None:
    model = add_model(store, "local/demo-policy")
    assert verify(with_manifest(model, stage="calibrate")) == [
        Finding("manifest.json", "kind", "model", "stage calibrate yields a dataset")
    ]
    assert verify(with_manifest(weights, stage="policy")) == [
        Finding("manifest.json", "kind", "dataset", "stage policy yields a model")
    ]


def as_format_1(revision: Revision) -> Revision:
    """The revision with the manifest that the version before would have written, under that manifest's name."""
    assert revision.manifest is not None
    value = revision.manifest.model_dump()
    for name in ("pipeline", "execution", "bytes_depend_on"):
        del value[name]
    parent = {"stage": "score", "repo": "local/demo-scores", "revision": COMMIT, "digest": "0" * 64}
    value |= {"format": 1, "parents": [parent]}
    if value["stage"] == "policy":
        value |= {"stage": "train", "parents": [parent | {"stage": "calibrate"}]}
    content = (json.dumps(value, sort_keys=True, indent=1) + "\n").encode()
    name = hashlib.sha1(content).hexdigest()
    (revision.path / "manifest.json").write_bytes(content)
    path = revision.path.rename(revision.path.with_name(name))
    found = open_here(str(path), Store(path.parents[2]))
    assert found is not None and found.revision == name
    return found


def test_revisions_of_format_1_are_verified_like_any(store: Store, weights: Revision) -> None:
    policy = as_format_1(add_model(store, "local/demo-policy"))
    old = as_format_1(weights)
    assert verify(old) == verify(policy) == []
    (policy.path / "model.safetensors").write_bytes(b"other")
    assert kinds(verify(policy)) == {
        ("model.safetensors", "size"),
        ("model.safetensors", "sha256"),
        ("manifest.json", "digest"),
    }
    frame = first_shard(old).with_columns(-pl.col("reward").alias("reward"))
    found = verify(altered(old, frame))
    assert {finding.what for finding in found} == {"reward"}  # recomputed with the coefficients of format 1
    (old.path / "manifest.json").write_bytes(b" " + (old.path / "manifest.json").read_bytes())
    assert ("manifest.json", "sha1") in kinds(verify(old))


def test_another_pipelines_stage_brings_its_own_contract_and_check(tmp_path: Path) -> None:
    config = toy_config(tmp_path / "store", workers=1, numbers=NumberSettings(rows=5))
    built = {result.stage: result.revision for result in run_pipeline(TOY, config, "totals")}
    assert all(module.verify(revision, [*PIPELINES, TOY]) == [] for revision in built.values())
    totals = built["totals"]
    assert kinds(verify(totals)) == {("manifest.json", "pipeline")}
    (path,) = totals.data_files()
    name = path.relative_to(totals.path).as_posix()
    changed = pl.read_parquet(path).with_columns(pl.lit(1.0).alias("total"), pl.lit("x").alias("more"))
    write_data(changed.drop("more"), TOY.stage("totals").columns, path)
    found = module.verify(totals, [TOY])
    assert Finding("data/", "total", "1.0", "20.0") in found  # two folds' models hold each of 0 … 4
    assert (name, "sha256") in kinds(found)
    changed.write_parquet(path)
    assert (name, "column more") in kinds(module.verify(totals, [TOY]))


def test_data_without_a_manifest_cannot_be_verified(tmp_path: Path) -> None:
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"no manifest\.json in it"):
        verify(open_revision(str(tmp_path / "a.parquet"), Store(tmp_path)))


@pytest.mark.parametrize("opens", [open_here, open_revision])
def test_a_ref_finds_datasets_models_and_paths(
    store: Store, weights: Revision, opens: Callable[[str, Store], Revision | None]
) -> None:
    model = add_model(store, "local/demo-policy")
    named = {
        "local/demo-weights@round-001": weights,
        "local/demo-weights": weights,
        "local/demo-policy": model,
        str(weights.path): weights,
        str(model.path): model,
    }
    for text, revision in named.items():
        assert opens(text, store) == revision


def test_what_was_pulled_is_looked_at_here(store: Store, weights: Revision) -> None:
    """Its name is a commit of the Hub, which may have a newer round by now and need not be asked."""
    weights.path.rename(weights.path.with_name(COMMIT))
    store.set_refs(weights.repo, "dataset", COMMIT, ["main", "round-001"])
    found = open_here("local/demo-weights", store)
    assert found is not None and found.revision == COMMIT and not found.made_here
    assert open_here("local/demo-other", store) is None


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
