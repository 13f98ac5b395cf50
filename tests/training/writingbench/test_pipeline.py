"""WritingBench from the taxonomy to both kinds of training data, through a real endpoint, as the preset runs it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from builders.core.runner import StageResult
from builders.store.manifest import read_manifest
from scorers.criteria import check_criteria
from scorers.errors import UserError
from training.pipelines import build, load_config

SMALL = ("request.requests=2", "request.per_prompt=2", "respond.responses=2", "rate.shard_responses=5")
ROWS = {"taxonomy": 12, "request": 24, "refine": 24, "criteria": 24, "respond": 48, "rate": 240}
STAGES = (*ROWS, "select")


def teacher(**options: float) -> str:
    words = " ".join(f"--{name} {value}" for name, value in options.items())
    return f"{{python}} -m training.writingbench.teacher --port {{port}} {words}".strip()


def run(store: Path, stage: str, *settings: str) -> dict[str, StageResult]:
    results = build(load_config("tiny-writingbench", [*SMALL, *settings], str(store)), stage)
    return {result.stage: result for result in results}


def serving(command: str) -> list[str]:
    return [f"engines.{role}={{kind: openai, serve: '{command}'}}" for role in ("teacher", "policy", "judge")]


def rows_of(result: StageResult) -> pl.DataFrame:
    return result.revision.scan().collect()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, StageResult]:
    store = tmp_path_factory.mktemp("writing") / "store"
    return run(store, "select") | run(store, "critique")


def test_every_stage_has_its_rows(built: dict[str, StageResult]) -> None:
    found = {stage: rows_of(built[stage]) for stage in STAGES}
    assert {stage: frame.height for stage, frame in found.items() if stage in ROWS} == ROWS
    assert found["select"].height == 12  # the best of two, and half of 24
    queries = found["criteria"]
    assert queries["query_id"].n_unique() == 24
    assert all(check_criteria(one.to_list()) == one.to_list() for one in queries["criteria"])
    names = set(queries.explode("requirements")["requirements"])
    assert names <= {"length", "format", "style", "personalisation", "content", "brevity"} and len(names) > 3
    with_material = queries.drop_nulls("material")
    assert with_material.height and all("Material:" in query for query in with_material["query"])


def test_each_response_is_rated_once_by_each_criterion_of_its_query(built: dict[str, StageResult]) -> None:
    ratings, responses, criteria = (rows_of(built[stage]) for stage in ("rate", "respond", "criteria"))
    expected = {
        (row["response_id"], criterion["name"])
        for row in responses.join(criteria.select("query_id", "criteria"), on="query_id").iter_rows(named=True)
        for criterion in row["criteria"]
    }
    found = list(ratings.select("response_id", "criterion").iter_rows())
    assert len(found) == len(set(found)) and set(found) == expected
    assert ratings["score"].drop_nulls().is_between(1, 10).all()
    assert ratings["prompt_hash"].n_unique() == 1 and set(ratings["judge"].str.slice(0, 8)) == {"teacher@"}
    # Some replies are malformed, and all of them were asked for again.
    assert ratings["attempts"].max() in (2, 3) and ratings["score"].null_count() <= 2


def test_the_selected_are_the_best_by_their_own_ratings(built: dict[str, StageResult]) -> None:
    ratings, chosen = rows_of(built["rate"]), rows_of(built["select"])
    means = dict(ratings.group_by("response_id").agg(pl.col("score").mean()).iter_rows())
    for row in chosen.iter_rows(named=True):
        assert row["score"] == pytest.approx(means[row["response_id"]])
        siblings = [mean for name, mean in means.items() if name.startswith(row["query_id"])]
        assert row["score"] == pytest.approx(max(siblings))
        assert row["prompt"] == [{"role": "user", "content": row["query"]}]
        assert row["completion"] == [{"role": "assistant", "content": row["response"]}]


def test_the_critics_rows_are_the_ratings(built: dict[str, StageResult]) -> None:
    rows, ratings = rows_of(built["critique"]), rows_of(built["rate"])
    known = {(r["response_id"], r["criterion"]): r for r in ratings.iter_rows(named=True)}
    for row in rows.iter_rows(named=True):
        rating = known[row["response_id"], row["criterion"]]
        said = json.loads(row["completion"][0]["content"])
        assert said == {"score": rating["score"], "reason": rating["reason"]}
        assert row["criterion"] in row["prompt"][0]["content"]
    files = sorted(path.name for path in built["critique"].revision.path.glob("data/*.parquet"))
    assert files == ["test-00000-of-00001.parquet", "train-00000-of-00001.parquet"]
    from datasets import load_dataset

    loaded = load_dataset(str(built["critique"].revision.path))
    assert {split: len(part) for split, part in loaded.items()} == dict(rows["split"].value_counts().iter_rows())


def test_processes_give_the_same_bytes(built: dict[str, StageResult], tmp_path: Path) -> None:
    apart = run(tmp_path / "store", "select", "executor.workers=2")
    assert {s: apart[s].revision.digest for s in STAGES} == {s: built[s].revision.digest for s in STAGES}


def test_what_is_malformed_is_unscored_and_never_another_score(built: dict[str, StageResult], tmp_path: Path) -> None:
    """The same responses rated by a judge without noise, once well and once with most replies malformed."""
    start = str(built["criteria"].revision.path)
    config = [*SMALL, "rate.attempts=1", *serving(teacher(noise=0, malformed=0))]
    broken = [*SMALL, "rate.attempts=1", *serving(teacher(noise=0, malformed=0.8))]
    found = []
    for number, settings in enumerate((config, broken)):
        loaded = load_config("tiny-writingbench", settings, str(tmp_path / str(number)))
        build(loaded, "respond", start=start)
        found.append(rows_of(build(loaded, "rate")[-1]))
    # Of the second the responses are other ones; the ratings of the same responses are compared below.
    assert found[0]["score"].null_count() == 0 < found[1]["score"].null_count()
    assert found[1]["score"].drop_nulls().is_between(1, 10).all()


def test_several_policies_respond_to_the_same_queries(tmp_path: Path) -> None:
    rows = rows_of(run(tmp_path / "store", "respond", "models.policies=[author, teacher]")["respond"])
    assert rows.height == 96 and set(rows["policy"].str.extract("^(.*)@")) == {"author", "teacher"}
    first = rows.filter(pl.col("query_id") == rows["query_id"][0])
    assert first["response_id"].to_list() == [f"{rows['query_id'][0]}-{j}" for j in range(4)]
    assert first["policy"].str.extract("^(.*)@").to_list() == ["author"] * 2 + ["teacher"] * 2
    assert rows["query_id"].rle().len() == 24  # the responses to a query are neighbours


def test_what_a_card_says_makes_the_same_ratings_again(built: dict[str, StageResult], tmp_path: Path) -> None:
    """From the responses alone: the criteria are those that the responses themselves were made from."""
    store = tmp_path / "store"
    shutil.copytree(Path(built["rate"].revision.path).parents[2], store, symlinks=True)
    start = f"{built['respond'].revision.repo}@{built['respond'].revision.revision}"
    config = load_config(
        "tiny-writingbench", ["name=again", "request.requests=7", "rate.shard_responses=5"], str(store)
    )
    results = build(config, "rate", start=start)
    assert [result.stage for result in results if result.built] == ["rate"]
    assert results[-1].revision.digest == built["rate"].revision.digest
    start = f"{built['rate'].revision.repo}@{built['rate'].revision.revision}"
    for stage in ("select", "critique"):
        results = build(config, stage, start=start)
        assert results[-1].revision.digest == built[stage].revision.digest


def test_a_teacher_that_answers_nothing_leaves_no_dataset(tmp_path: Path) -> None:
    settings = ["request.attempts=1", *serving(teacher(malformed=1.0))]
    with pytest.raises(UserError, match=r"^request: the replies about \d subdomains hold no request"):
        for seed in range(5):  # some malformed replies still hold a list
            run(tmp_path / str(seed), "request", f"random_seed={seed}", "request.shard_rows=1", *settings)


def test_names_that_stand_in_a_list_twice() -> None:
    for setting in ("models.policies=[author, author]", "taxonomy.languages=[en, en]"):
        with pytest.raises(UserError, match="stands there twice; leave one out"):
            load_config("tiny-writingbench", [setting])


def test_a_response_to_a_query_without_criteria_is_refused(built: dict[str, StageResult], tmp_path: Path) -> None:
    config = load_config("tiny-writingbench", SMALL, str(tmp_path / "store"))
    build(config, "criteria")
    rows = rows_of(built["respond"]).with_columns(query_id=pl.lit("0" * 16))
    rows.write_parquet(tmp_path / "responses.parquet")
    with pytest.raises(UserError, match=r"are to queries without criteria in .*, the first is response_id"):
        build(config, "rate", start=str(tmp_path / "responses.parquet"))


@pytest.mark.slow
def test_killed_at_any_moment_nothing_is_rated_twice(built: dict[str, StageResult], tmp_path: Path) -> None:
    """SIGKILL at random moments over the whole pipeline; the rerun ends with the digests of an undisturbed run."""
    driver = Path(__file__).parents[2] / "support" / "stage_kill_driver.py"
    command = [sys.executable, str(driver), "tiny-writingbench", "select", str(tmp_path / "store"), "20", "1.6", *SMALL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *runs, last = map(json.loads, done.stdout.splitlines())
    assert last == {"kills": 20} and runs
    for run_ in runs:
        assert {s: run_[s] for s in STAGES} == {s: built[s].revision.digest for s in STAGES}


def test_the_lineage_leads_back_to_the_taxonomy(built: dict[str, StageResult]) -> None:
    manifest = read_manifest(built["critique"].revision.path)
    assert manifest is not None
    assert [parent.stage for parent in manifest.parents] == ["rate", "respond", "criteria"]
    assert manifest.pipeline == "writingbench"


def test_what_was_selected_trains_with_stock_trl(
    built: dict[str, StageResult], causal_lm_dir: Path, tmp_path: Path
) -> None:
    from datasets import load_dataset
    from trl import SFTConfig, SFTTrainer

    path = str(built["select"].revision.path)
    rows = load_dataset(path, split="train", cache_dir=str(tmp_path / "cache"))
    settings: dict[str, Any] = {
        "max_steps": 1,
        "max_length": None,
        "report_to": [],
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": False,
    }
    trainer = SFTTrainer(str(causal_lm_dir), args=SFTConfig(str(tmp_path / "out"), **settings), train_dataset=rows)
    assert trainer.train().training_loss > 0 and len(rows) == 12
