"""Datasets and models that do not fit one another: told at once, or left out and counted."""

import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from small_editing import small

from builders.core.runner import StageResult
from builders.rationalign.settings import RationAlignSettings
from scorers.editing import Edited
from scorers.errors import UserError
from training.pipelines import build, load_config
from training.rationalign import judge
from training.rationalign.outputs import EvaluationSet, Output

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(editor_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path, dict[str, StageResult]]:
    """A run up to its responses, with the reward model; its settings, its store, its results."""
    store = tmp_path_factory.mktemp("foreign") / "store"
    settings = small(editor_dir)
    config = load_config("tiny-rationalign", settings, str(store))
    results = [*build(config, "sample"), *build(config, "reward")]
    return settings, store, {result.stage: result for result in results}


def changed(folder: Path, result: StageResult, **columns: Any) -> str:
    """A copy of a dataset's rows in a folder, with other columns."""
    (folder / "data").mkdir(parents=True)
    frame = result.revision.scan().collect().with_columns(**columns)
    frame.write_parquet(folder / "data" / "rows.parquet")
    return str(folder / "data")


@pytest.mark.parametrize(("stage", "parent"), [("fold-1", "pairs"), ("sft", "explain"), ("prefer", "sample")])
def test_a_task_that_nobody_knows(
    made: tuple[list[str], Path, dict[str, StageResult]], tmp_path: Path, stage: str, parent: str
) -> None:
    settings, store, results = made
    folder = changed(tmp_path, results[parent], task=pl.lit("plain-law"))
    config = load_config("tiny-rationalign", [*settings, "name=other"], str(store))
    if stage == "prefer":
        config = load_config("tiny-rationalign", settings, str(store))
    with pytest.raises(UserError, match=r"task 'plain-law' has no metric; tasks: gec, .*describe your own"):
        build(config, stage, start=folder)


def test_folds_of_another_number_are_told_before_a_training(
    made: tuple[list[str], Path, dict[str, StageResult]],
) -> None:
    settings, store, results = made
    config = load_config("tiny-rationalign", [*settings, "pairs.folds=4", "name=other"], str(store))
    with pytest.raises(
        UserError, match=r"folds 1, 2, 3, and pairs\.folds is 4; set it to the dataset's: a model would"
    ):
        build(config, "fold-1", start=str(results["pairs"].revision))


def test_a_task_without_a_reward_model_is_left_out_and_counted(
    made: tuple[list[str], Path, dict[str, StageResult]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings, store, results = made
    model = tmp_path / "reward"
    shutil.copytree(results["reward"].revision.path, model)
    (model / "manifest.json").unlink()
    # One model for each task, and none for gec.
    tasks = results["sample"].revision.scan().select("task").collect()["task"].unique()
    own = model / "each"
    for task in tasks:
        if task != "gec":
            shutil.copytree(results["reward"].revision.path, own / task, ignore=shutil.ignore_patterns("manifest.json"))
    for file in model.glob("*token*"):
        shutil.copy(file, own)
    from builders.core.models import LocalModel
    from builders.core.stage import Context, Shard
    from builders.rationalign.prefer import rewarded
    from builders.store.manifest import Model
    from builders.store.store import Store

    config = load_config("tiny-rationalign", settings, str(store))
    reward = LocalModel(Model(id="reward", revision="1"), own)
    context = Context(config, Store(store), 0, {"sample": results["sample"].revision}, {"reward": reward}, tmp_path)
    rows = results["sample"].revision.scan().select(pl.len()).collect().item()
    found = rewarded(context, Shard(0, (0, rows)))
    assert found.counts["dropped.no reward model of the task"] == 6
    assert found.frame.height and "gec" not in set(found.frame["task"])


def test_what_was_cut_is_never_chosen(made: tuple[list[str], Path, dict[str, StageResult]], tmp_path: Path) -> None:
    settings, store, results = made
    cut = pl.when(pl.col("response_id").str.ends_with("-0")).then(pl.lit("stop")).otherwise(pl.lit("length"))
    folder = changed(tmp_path, results["sample"], finish_reason=cut)
    config = load_config("tiny-rationalign", settings, str(store))
    candidates = results["sample"].revision.scan().collect()
    firsts = dict(
        candidates.filter(pl.col("response_id").str.ends_with("-0")).select("text_id", "response").iter_rows()
    )
    preferences = build(config, "prefer", start=folder)[-1].revision.scan().collect()
    assert preferences.height
    for row in preferences.iter_rows(named=True):
        assert row["chosen"][0]["content"] == firsts[row["text_id"]]


def test_a_judge_sees_as_many_texts_of_each_test_set(monkeypatch: pytest.MonkeyPatch) -> None:
    config: RationAlignSettings = load_config("tiny-rationalign", ["evaluate.judged=4", "explain.attempts=1"])
    tests = [
        EvaluationSet(task, task, "sari", [Edited(f"{task} {k}", [f"{task} new {k}"]) for k in range(5)])
        for task in ("fluency", "clarity")
    ]
    outputs = [[Output(f"{test.task} new {k}", (), read=True) for k in range(5)] for test in tests]
    asked: list[str] = []

    class Quiet:
        tokenizer = None

        def generate(self, prompts: Any, seeds: Any, settings: Any) -> list[Any]:
            from builders.engines import Completion

            asked.extend(prompt[-1]["content"] for prompt in prompts)
            return [Completion("Hm.", "stop", 1) for _ in prompts]

        def close(self) -> None:
            asked.append("closed")

    monkeypatch.setattr(judge, "load_engine_for", lambda *arguments: Quiet())
    found = judge.judged(config, object(), tests, outputs)  # type: ignore[arg-type]
    assert found["unscored"] == 4.0 and asked[-1] == "closed"
    assert [sum(task in text for text in asked) for task in ("fluency 0", "fluency 1", "fluency 2", "clarity 1")] == [
        1, 1, 0, 1,
    ]  # fmt: skip
