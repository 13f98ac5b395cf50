"""Stages as revisions: staleness, resume, damage, what is never half-written."""

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from datasets_factory import add_dataset, add_model, plain_frame, scores_frame

from builders.core import runner as runner_module
from builders.core.plan import configuration_of
from builders.core.run import dry_run, run
from builders.core.runner import StageResult
from builders.grace_kto.columns import QUERIES_COLUMNS
from builders.grace_kto.settings import GraceKTOSettings
from builders.store.files import file_sha256
from builders.store.revision import Revision
from builders.store.shards import write_shard
from builders.store.store import Store
from scorers.errors import UserError
from training.grace_kto.pipeline import GRACE_KTO
from training.pipelines import build, load_config, plan

SEEDS = [{"query": f"Please write report {n}.", "reference": None} for n in range(10)]


def config_for(folder: Path, *overrides: str, rows: list[dict[str, Any]] = SEEDS) -> GraceKTOSettings:
    """The tiny preset on a file of seeds, three rows per shard."""
    source = folder / "seeds.jsonl"
    if not source.exists():
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config: GraceKTOSettings = load_config(
        "tiny",
        [f"seed.source={source}", "seed.columns={query: query}", "seed.shard_rows=3", *overrides],
        str(folder / "store"),
    )
    return config


def seed_of(results: list[StageResult]) -> Revision:
    assert [result.stage for result in results] == ["seed"]
    return results[0].revision


def digests(revision: Revision) -> dict[str, str]:
    return {path.name: file_sha256(path) for path in revision.data_files()}


def test_a_revision_is_built_once_and_then_kept(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    first = build(config, "seed")
    again = build(config, "seed")
    assert first[0].built and not again[0].built
    assert seed_of(again).revision == seed_of(first).revision
    assert len(seed_of(first).data_files()) == 4
    assert not (tmp_path / "store" / ".work" / "local--tiny-seed").exists() or not list(
        (tmp_path / "store" / ".work" / "local--tiny-seed").iterdir()
    )


def test_it_is_stale_when_configuration_source_or_version_change(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    build(config, "seed")
    assert plan(config, "seed")[0].action == "keep"
    other = config_for(tmp_path, "seed.language=zh")
    assert plan(other, "seed")[0].reason == "configuration changed: seed.language"
    assert plan(config_for(tmp_path, "sample.top_p=0.5"), "seed")[0].action == "keep"
    with (tmp_path / "seeds.jsonl").open("a") as file:
        file.write(json.dumps({"query": "One more."}) + "\n")
    assert plan(config, "seed")[0].reason == "source or manifest format changed"
    assert build(config, "seed")[0].built
    newer = tuple(replace(stage, version=99) if stage.name == "seed" else stage for stage in GRACE_KTO.stages)
    plans = dry_run(replace(GRACE_KTO, stages=newer), config, "seed")
    assert plans[0].reason == f"stage version {GRACE_KTO.stage('seed').version} → 99"


def test_a_dry_run_says_what_waits_for_what_and_writes_nothing(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    plans = {found.stage: found for found in plan(config, "calibrate")}
    assert {found.action for found in plans.values()} == {"build"}
    chain = ("seed", "generate", "sample", "score", "calibrate")
    assert plans["seed"].reason == "missing"
    for above, below in itertools.pairwise(chain):
        assert plans[below].reason in (f"{above} is built first", "sft is built first", "world:bge-m3 is built first")
    assert not (tmp_path / "store").exists()


def test_readers_of_the_hugging_face_cache_layout_find_it(tmp_path: Path) -> None:
    revision = seed_of(build(config_for(tmp_path), "seed"))
    code = """
import sys
from datasets import load_dataset
from huggingface_hub import snapshot_download
folder = snapshot_download("local/tiny-seed", repo_type="dataset", cache_dir=sys.argv[1], local_files_only=True)
tagged = snapshot_download(
    "local/tiny-seed", repo_type="dataset", revision="round-000", cache_dir=sys.argv[1], local_files_only=True
)
assert folder == tagged == sys.argv[2], (folder, tagged)
rows = load_dataset(folder, split="train", cache_dir=sys.argv[3])
print(rows.num_rows, rows.column_names)
"""
    store = str(tmp_path / "store")
    done = subprocess.run(
        [sys.executable, "-c", code, store, str(revision.path), str(tmp_path / "cache")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(maxsplit=1) == ["10", "['query_id', 'query', 'reference', 'language', 'source']\n"]


def test_an_interrupted_build_goes_on_and_yields_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    undisturbed = seed_of(build(config_for(tmp_path / "a"), "seed"))
    config = config_for(tmp_path / "b")
    made: list[int] = []
    original = write_shard

    def stop_at_the_third(*args: Any) -> None:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(1)
        original(*args)

    monkeypatch.setattr("builders.core.work.write_shard", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        build(config, "seed")
    store = Store(tmp_path / "b" / "store")
    assert store.find("local/tiny-seed", "main") is None
    made.clear()

    def count_and_write(*args: Any) -> None:
        made.append(1)
        original(*args)

    monkeypatch.setattr("builders.core.work.write_shard", count_and_write)
    resumed = seed_of(build(config, "seed"))
    assert len(made) == 2
    assert digests(resumed) == digests(undisturbed)
    assert resumed.digest == undisturbed.digest


@pytest.mark.parametrize("damage", ["cut in half", "a flipped byte", "empty"])
def test_a_damaged_shard_is_found_and_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    (tmp_path / "a").mkdir()
    undisturbed = seed_of(build(config_for(tmp_path / "a"), "seed"))
    config = config_for(tmp_path)
    monkeypatch.setattr(runner_module, "add_dataset", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build(config, "seed")
    shard = next((tmp_path / "store" / ".work").rglob("shard-00001.parquet"))
    data = bytearray(shard.read_bytes())
    if damage == "a flipped byte":
        data[len(data) // 3] ^= 1
    shard.write_bytes(bytes({"cut in half": data[: len(data) // 2], "empty": b""}.get(damage, data)))
    monkeypatch.undo()
    assert seed_of(build(config, "seed")).digest == undisturbed.digest


def interrupt(*args: object) -> None:
    raise KeyboardInterrupt


def test_a_metric_that_is_not_finite_names_the_row_and_writes_nothing(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    store = Store(Path(config.store))
    scores = add_dataset(store, "score", scores_frame())
    broken = GRACE_KTO.stage("calibrate")
    original = broken.build
    assert callable(original)

    def with_nan(context: Any, shard: Any) -> Any:
        result = original(context, shard)
        frame = result.frame.with_columns(
            pl.when(pl.int_range(pl.len()) == 1).then(float("nan")).otherwise("weight").alias("weight")
        )
        return type(result)(frame, result.counts)

    stages = tuple(replace(s, build=with_nan) if s is broken else s for s in GRACE_KTO.stages)
    row = scores.scan().select("response_id").collect()["response_id"][1]
    with pytest.raises(UserError, match=f"weight is NaN in response_id {row}"):
        run(replace(GRACE_KTO, stages=stages), config, "calibrate", start=f"{scores.repo}@{scores.revision}")
    assert store.find(GRACE_KTO.repo(broken, config), "main") is None


def test_calibration_starts_from_anybodys_dataset(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    folder = tmp_path / "foreign"
    folder.mkdir()
    frame = scores_frame()
    frame.write_parquet(folder / "rows.parquet")
    built = build(config, "calibrate", start=str(folder))
    assert [result.stage for result in built] == ["calibrate"]
    weights = built[0].revision.scan().collect()
    assert weights.height == frame.height
    # The same rows with every group spread over two files give the same weights.
    spread = tmp_path / "spread"
    spread.mkdir()
    frame.gather_every(2).write_parquet(spread / "a.parquet")
    frame.gather_every(2, 1).write_parquet(spread / "b.parquet")
    again = build(config, "calibrate", start=str(spread))[0].revision.scan().collect()
    both = weights.join(again, on="response_id", suffix="_again")
    assert both.height == frame.height
    assert (both["weight"] - both["weight_again"]).abs().max() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda frame: frame.drop("ppl_domain"), ["missing ppl_domain", "it needs query_id"]),
        (lambda frame: frame.with_columns(pl.col("length").cast(pl.String)), ["length is String", "not Int32"]),
        (lambda frame: frame.head(0), ["empty"]),
    ],
)
def test_a_dataset_that_does_not_fit(tmp_path: Path, change: Any, words: list[str]) -> None:
    path = tmp_path / "rows.parquet"
    change(scores_frame()).write_parquet(path)
    with pytest.raises(UserError) as error:
        build(config_for(tmp_path), "calibrate", start=str(path))
    assert all(word in str(error.value) for word in words), error.value
    assert Store(tmp_path / "store").refs("local/tiny-weights") == {}


@pytest.mark.parametrize(
    ("start", "words"),
    [
        ("no/such", ["no/such"]),
        ("../up", ["names no dataset", "namespace/name"]),
    ],
)
def test_a_reference_to_nothing(tmp_path: Path, start: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError) as error:
        build(config_for(tmp_path), "calibrate", start=start)
    assert all(word in str(error.value) for word in words)


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    with Store(Path(config.store)).lock(), pytest.raises(UserError, match="in use by another run"):
        build(config, "seed")


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_for(tmp_path)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyarrow.parquet.ParquetWriter.write_table", full)
    with pytest.raises(OSError, match="No space left"):
        build(config, "seed")
    store = tmp_path / "store"
    assert (
        not list(store.rglob("*.partial")) and not list(store.rglob("shard-*")) and not list(store.glob("datasets--*"))
    )


@pytest.mark.parametrize("recorded", [{"system.zh": "Schreibe."}, {}])
def test_the_prompt_column_shows_what_was_answered_not_what_is_configured_now(
    tmp_path: Path, recorded: dict[str, str]
) -> None:
    config = config_for(tmp_path, "sample.system_prompt=system.en")
    scores = add_dataset(Store(Path(config.store)), "score", scores_frame(), prompts=recorded)
    weights = build(config, "calibrate", start=str(scores))[-1].revision
    roles = [[(m["role"], m["content"]) for m in prompt] for prompt in weights.scan().collect()["prompt"]]
    expected = [("system", text) for text in recorded.values()]
    assert all(messages[:-1] == expected and messages[-1][0] == "user" for messages in roles)
    assert weights.manifest is not None and weights.manifest.prompts == recorded


def test_the_python_way_makes_everything_it_needs(tmp_path: Path) -> None:
    """`build` from Python makes models and texts above a stage, as the shell does."""
    plans = {found.stage: found.action for found in plan(load_config("tiny", store=str(tmp_path)), "calibrate")}
    assert {"world:seeds", "world:base", "world:bge-m3", "sft", "calibrate"} <= plans.keys()
    seeds = build(load_config("tiny", store=str(tmp_path)), "seed")
    assert [(result.stage, result.built) for result in seeds] == [("world:seeds", True), ("seed", True)]
    again = build(load_config("tiny", store=str(tmp_path)), "seed", force=True)
    assert [result.reason for result in again] == ["forced", "forced"]
    assert [r.revision.revision for r in again] == [r.revision.revision for r in seeds]


def test_batch_sizes_devices_and_workers_make_nothing_stale(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    other = config_for(
        tmp_path,
        "engines.policy.batch_size=1",
        "engines.policy.device=auto",
        "score.tokens_per_batch=7",
        "score.texts_per_batch=1",
        "score.device=auto",
        "train.device_batch_size=1",
        "workers=7",
        "executor.workers=7",
    )
    for name in ("generate", "sample", "score", "policy"):
        stage = GRACE_KTO.stage(name)
        assert configuration_of(stage, config) == configuration_of(stage, other)
    for change in ("engines.policy.dtype=bfloat16", "engines.policy.kind=vllm", "threads=2"):
        assert configuration_of(GRACE_KTO.stage("sample"), config) != configuration_of(
            GRACE_KTO.stage("sample"), config_for(tmp_path, change)
        )


def test_a_model_that_is_its_own_parent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"makes a stage its own parent: .*policy"):
        plan(config_for(tmp_path, "models.policy=policy"), "sample")


def test_several_processes_train_only_what_they_are_started_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        UserError,
        match=r"stage seed is missing, and several processes only train.*run `build --stage seed` in one process first",
    ):
        build(config_for(tmp_path, "models.policy=local/none"), "seed")


def test_an_earlier_round_is_taken_as_it_is(tmp_path: Path) -> None:
    """A policy that was trained on a dataset given by the user serves the next round, and is not trained anew."""
    config = config_for(tmp_path, "models.policy=local/none")
    policy = add_model(Store(Path(config.store)), "local/tiny-policy", round_=1)
    queries = add_dataset(
        Store(Path(config.store)), "generate", plain_frame(QUERIES_COLUMNS), repo="local/tiny-queries"
    )
    plans = {(found.stage, found.round): found for found in plan(config, "generate", round_=2)}
    assert plans["policy", 1].action == plans["generate", 1].action == "keep"
    assert plans["policy", 1].reason == f"of an earlier round at {policy.revision[:12]}"
    assert plans["generate", 1].reason == f"of an earlier round at {queries.revision[:12]}"
    assert ("calibrate", 1) not in plans and plans["generate", 2].action == "build"


def test_a_dataset_of_the_stage_itself_or_a_later_one_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    scores = add_dataset(store, "score", scores_frame())
    with pytest.raises(UserError, match="it is of stage score; score starts from one of seed, generate, sample"):
        build(config_for(tmp_path), "score", start=str(scores))
    with pytest.raises(UserError, match="it is of stage score, and policy trains on a weights dataset"):
        build(config_for(tmp_path), "policy", start=str(scores))


def test_a_misspelt_model_is_told_before_anything_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="polcy"):
        build(config_for(tmp_path, "models.policy=polcy"), "generate")
    assert not list((tmp_path / "store").glob("datasets--*"))
