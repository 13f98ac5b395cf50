"""RationAlign from labelled texts to the aligned assistant, through real trainings, as the preset runs it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from small_editing import small
from typer.testing import CliRunner

from builders.core.plan import configuration_of
from builders.core.runner import StageResult
from builders.rationalign.messages import ours
from builders.rationalign.prefer import CUT
from builders.store.manifest import Manifest, read_manifest
from scorers.editing import Edited, sentence_score
from scorers.errors import UserError
from training.cli import app
from training.pipelines import build, evaluate_policies, load_config, pipeline_of
from training.rationalign.evaluate import seen_before
from training.rationalign.outputs import EvaluationSet

DATASETS = ("pairs", "unlabelled", "explain", "contest", "sample", "prefer")
TASKS = 8


def run(store: Path, stage: str, settings: list[str], **options: Any) -> dict[str, StageResult]:
    results = build(load_config("tiny-rationalign", settings, str(store)), stage, **options)
    return {result.stage: result for result in results}


def rows_of(result: StageResult) -> pl.DataFrame:
    return result.revision.scan().collect()


def manifest_of(result: StageResult) -> Manifest:
    assert result.revision.manifest is not None
    return result.revision.manifest


@pytest.fixture(scope="module")
def built(editor_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, StageResult]:
    return run(tmp_path_factory.mktemp("editing") / "store", "mpo", small(editor_dir))


def test_every_stage_has_its_rows(built: dict[str, StageResult]) -> None:
    assert set(DATASETS) <= built.keys()
    assert {f"fold-{k}" for k in (1, 2, 3)} | {"sft", "reward", "mpo"} <= built.keys() and "fold-4" not in built
    pairs, texts, candidates = (rows_of(built[stage]) for stage in ("pairs", "unlabelled", "sample"))
    assert (pairs.height, texts.height, candidates.height) == (12 * TASKS, 6 * TASKS, 4 * 6 * TASKS)
    assert rows_of(built["explain"]).height == 12 * TASKS
    assert manifest_of(built["mpo"]).rows.read == rows_of(built["prefer"]).height > 0


def test_no_fold_model_saw_a_source_of_its_fold(built: dict[str, StageResult]) -> None:
    """By counting: it was trained on all pairs outside its fold, and suggests for the pairs of its fold alone."""
    pairs, contests = rows_of(built["pairs"]), rows_of(built["contest"])
    assert pairs.group_by("source").agg(pl.col("fold").n_unique())["fold"].max() == 1
    for fold in (1, 2, 3):
        own = pairs.filter(pl.col("fold") == fold)
        manifest = manifest_of(built[f"fold-{fold}"])
        assert manifest.rows.read == pairs.height - own.height
        assert not set(own["source"]) & set(pairs.filter(pl.col("fold") != fold)["source"])
        held = contests.filter(pl.col("fold") == fold)
        record = built[f"fold-{fold}"].revision
        assert set(held["policy"]) == {f"{record.repo}@{record.revision}"} and set(held["source"]) <= set(own["source"])


def test_no_unlabelled_source_is_a_labelled_one(built: dict[str, StageResult]) -> None:
    pairs, texts = rows_of(built["pairs"]), rows_of(built["unlabelled"])
    assert not set(pairs["source"]) & set(texts["source"])
    assert texts["text_id"].is_unique().all()


def test_contests_are_won_by_the_metric(built: dict[str, StageResult]) -> None:
    pairs = {row["pair_id"]: row for row in rows_of(built["pairs"]).iter_rows(named=True)}
    contests = rows_of(built["contest"])
    metrics = {"gec": "maxmatch", "formality": "bleu"}
    for row in contests.iter_rows(named=True):
        pair = pairs[row["pair_id"]]
        text = Edited(row["source"], [pair["target"], *pair["references"]])
        metric: Any = metrics.get(row["task"], "sari")
        assert row["metrics"] == pytest.approx([sentence_score(metric, text, one) for one in row["samples"]])
        assert row["metric_winner"] > row["metric_loser"] and {row["winner"], row["loser"]} <= set(row["samples"])
        assert row["winner"] in row["chosen"] and row["loser"] in row["rejected"] and row["source"] in row["chosen"]


def test_preferences_are_the_extremes_by_reward(built: dict[str, StageResult]) -> None:
    from scorers.reward import RewardModels

    preferences, candidates = rows_of(built["prefer"]), rows_of(built["sample"])
    config = load_config("tiny-rationalign", ["sft.order=none"])
    from builders.rationalign.messages import ask_to_edit, reward_text

    model = RewardModels(built["reward"].revision.path, None, device="cpu", dtype="float32", batch_size=1)
    assert preferences.height <= 3 * TASKS  # half of six texts of each task
    for row in preferences.head(8).iter_rows(named=True):
        own = candidates.filter(pl.col("text_id") == row["text_id"])["suggestion"].drop_nulls().unique().to_list()
        texts = [reward_text(config, row["task"], row["source"], one) for one in own]
        rewards = dict(zip(own, model.score(texts, [row["task"]] * len(own)), strict=True))
        assert row["reward_chosen"] == pytest.approx(max(rewards.values()), abs=1e-4)
        assert row["reward_rejected"] == pytest.approx(min(rewards.values()), abs=1e-4)
        assert rewards[row["suggestion_chosen"]] == pytest.approx(row["reward_chosen"], abs=1e-4)
        assert row["prompt"] == ask_to_edit(config, row["task"], row["source"], "none")
        assert row["chosen"][0]["content"].strip() == row["suggestion_chosen"]


def test_a_reward_that_is_nan_is_named(built: dict[str, StageResult], editor_dir: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification

    from builders.core.models import LocalModel
    from builders.core.stage import Context, Shard
    from builders.rationalign.prefer import rewarded
    from builders.store.manifest import Model
    from builders.store.store import Store

    shutil.copytree(built["reward"].revision.path, tmp_path / "model")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    torch.nn.init.constant_(model.score.weight, float("nan"))
    model.save_pretrained(tmp_path / "model")
    config = load_config("tiny-rationalign", small(editor_dir), str(tmp_path))
    broken = LocalModel(Model(id="broken", revision="0"), tmp_path / "model")
    inputs = {"sample": built["sample"].revision}
    context = Context(config, Store(tmp_path), 0, inputs, {"reward": broken})
    with pytest.raises(UserError, match=r"^prefer: the reward of response \w+-\d is nan; rewards must be finite"):
        rewarded(context, Shard(0, (0, 8)))


def test_one_lineage_from_mpo_to_pairs(built: dict[str, StageResult]) -> None:
    by_repo = {result.revision.repo: result.revision for result in built.values()}
    seen, waiting = set(), [built["mpo"].revision]
    while waiting:
        revision = waiting.pop()
        manifest = read_manifest(revision.path)
        assert manifest is not None
        seen.add(manifest.stage)
        waiting += [by_repo[parent.repo] for parent in manifest.parents if parent.repo in by_repo]
    wanted = {
        "mpo",
        "prefer",
        "sample",
        "unlabelled",
        "reward",
        "contest",
        "fold-1",
        "fold-3",
        "sft",
        "explain",
        "pairs",
    }
    assert wanted <= seen


def test_diff_compares_what_the_datasets_own_pipeline_compares(built: dict[str, StageResult]) -> None:
    revision = built["sample"].revision
    args = ["diff", str(revision), str(built["prefer"].revision), "--store", str(revision.path.parents[2]), "--json"]
    found = json.loads(CliRunner().invoke(app, args).output.splitlines()[-1])
    assert found["queries_in_common"] == rows_of(built["prefer"]).height
    assert found["only"] == {"a": ["num_tokens"], "b": ["reward_chosen", "reward_rejected"]}


def test_a_rerun_builds_nothing(built: dict[str, StageResult], editor_dir: Path) -> None:
    store = built["pairs"].revision.path.parents[2]
    again = run(store, "mpo", small(editor_dir))
    assert not [stage for stage, result in again.items() if result.built]


def test_other_words_of_a_task_touch_the_stages_that_say_them_alone(built: dict[str, StageResult]) -> None:
    """So no teacher is asked again because the reward model is told something else."""
    own = ours()["gec"].model_dump()
    inputs = {"pairs": built["pairs"], "unlabelled": built["unlabelled"], "sample": built["sample"]}
    inputs |= {"explain": built["explain"]}

    def touched(field: str, words: str, task: str = "gec") -> set[str]:
        before = load_config("tiny-rationalign", [f"tasks={ {'gec': own} }"])
        after = load_config("tiny-rationalign", [f"tasks={ {'gec': own, task: own | {field: words}} }"])
        found = set()
        for stage in pipeline_of(load_config("tiny-rationalign")).stages:
            parents = {name: inputs[name].revision for name in stage.parents if name in inputs}
            said = [stage.prompts(config, parents) for config in (before, after) if stage.prompts]
            if said[:1] != said[1:] or configuration_of(stage, before) != configuration_of(stage, after):
                found.add(stage.name)
        return found

    folds = {f"fold-{number}" for number in range(1, 11)}
    assert touched("change", "Other.") == {"explain"}
    assert touched("quality", "Other.") == {"contest", "prefer"}
    assert touched("edit", "Other.") == folds | {"contest", "sft", "sample", "prefer"}
    assert touched("metric", "sari") == {"pairs", "contest"}
    # A task that no text has; its metric decides which pairs of it would be kept.
    assert touched("edit", "Other.", "haiku") == {"pairs"}


def test_reasons_stand_where_the_order_says(built: dict[str, StageResult], editor_dir: Path, tmp_path: Path) -> None:
    """The same rationales in another order make another assistant; fold models and rewards stay."""
    store = tmp_path / "store"
    shutil.copytree(built["pairs"].revision.path.parents[2], store, symlinks=True)
    more = ["sft.order=suggestion-first", "sft.steps=2", "prefer.rationale=optional", "sample.max_new_tokens=64"]
    plan = build(load_config("tiny-rationalign", [*small(editor_dir), *more], str(store)), "sft")
    assert [result.stage for result in plan if result.built] == ["sft"]
    # A model that writes no tags gives suggestions without reasons, all of which are dropped where they are required.
    with pytest.raises(UserError, match=r"^prefer: no text of .* has two responses that differ by reward \(\d+ "):
        run(store, "prefer", [*small(editor_dir), *more, "prefer.rationale=required"])


def test_what_the_reward_model_does_not_read_is_counted(
    built: dict[str, StageResult], editor_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = tmp_path / "store"
    shutil.copytree(built["pairs"].revision.path.parents[2], store, symlinks=True)
    assert CUT not in manifest_of(built["prefer"]).counts
    cut = run(store, "prefer", [*small(editor_dir), "prefer.max_length=8"])["prefer"]
    count = manifest_of(cut).counts[CUT]
    assert count > 0 and f"prefer: {count} texts are longer than the reward model reads" in caplog.text


def test_a_models_folder_per_task_and_its_adapters(
    built: dict[str, StageResult], editor_dir: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(built["pairs"].revision.path.parents[2], store, symlinks=True)
    lora = ["reward.per_task=true", "reward.method=lora", "reward.steps=2", "reward.lora_rank=4"]
    results = run(store, "prefer", [*small(editor_dir), *lora])
    folder = results["reward"].revision.path
    tasks = set(rows_of(results["contest"])["task"])
    assert {path.parent.name for path in folder.glob("*/adapter_model.safetensors")} == tasks
    config = json.loads(next(folder.glob("*/adapter_config.json")).read_text(encoding="utf-8"))
    assert config["task_type"] == "SEQ_CLS" and config["base_model_name_or_path"] is None
    assert manifest_of(results["reward"]).results["models"] == len(tasks)
    rewards = rows_of(results["prefer"])["reward_chosen"]
    assert rewards.is_finite().all() and rewards.n_unique() > 1


def test_the_datasets_load_into_stock_trl(built: dict[str, StageResult], editor_dir: Path, tmp_path: Path) -> None:
    from datasets import load_dataset
    from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer

    shared: dict[str, Any] = {
        "max_steps": 1,
        "report_to": [],
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "per_device_train_batch_size": 2,
    }
    contests, preferences = (
        load_dataset(str(built[stage].revision.path), split="train", cache_dir=str(tmp_path / "cache"))
        for stage in ("contest", "prefer")
    )
    reward = RewardTrainer(str(editor_dir), args=RewardConfig(str(tmp_path / "r"), **shared), train_dataset=contests)
    assert reward.train().training_loss > 0
    dpo = DPOTrainer(str(editor_dir), args=DPOConfig(str(tmp_path / "d"), **shared), train_dataset=preferences)
    assert dpo.train().training_loss > 0


def test_evaluate_compares_before_and_after(built: dict[str, StageResult], editor_dir: Path, tmp_path: Path) -> None:
    store = built["pairs"].revision.path.parents[2]
    config = load_config("tiny-rationalign", small(editor_dir), str(store))
    found = evaluate_policies(config, [], tmp_path / "out")
    assert found.header[:2] == ["assistant", "gec"] and [row[0] for row in found.rows] == ["sft", "mpo"]
    record = json.loads((tmp_path / "out" / "evaluation.json").read_text(encoding="utf-8"))
    for one in record["assistants"]:
        own = [value for name, value in one["scores"].items() if name != "ALL"]
        assert len(own) == TASKS and one["scores"]["ALL"] == pytest.approx(sum(own) / TASKS)
        assert set(one["judged"]) >= {"grammaticality", "unscored"}
    [difference] = record["differences"]
    over = difference["tests"]["ALL"]
    low, high = over["interval"]
    assert low <= over["difference"] <= high or over["difference"] == pytest.approx((low + high) / 2, abs=10)
    agreement = record["reward_model"]
    assert agreement["wins"] + agreement["ties"] + agreement["losses"] <= 4 * TASKS
    # Several runs of one assistant are averaged: of one and the same run nothing changes.
    both = evaluate_policies(config, ["sft+mpo"], tmp_path / "two").public["assistants"][0]["scores"]
    first, second = (one["scores"] for one in record["assistants"])
    assert both == {name: pytest.approx((first[name] + second[name]) / 2) for name in first}
    for name in ("+", "sft++mpo", "sft+sft"):
        with pytest.raises(UserError, match="give several runs of one assistant as REF\\+REF, each of them once"):
            evaluate_policies(config, [name], tmp_path / "no")
    with pytest.raises(UserError, match=r"^grace evaluate: sft and local/.*-sft are the same model, local/.*leave one"):
        evaluate_policies(config, ["sft", str(built["sft"].revision.repo)], tmp_path / "no")


def test_test_texts_that_were_trained_on_are_counted(built: dict[str, StageResult], editor_dir: Path) -> None:
    config = load_config("tiny-rationalign", small(editor_dir), str(built["mpo"].revision.path.parents[2]))
    labelled, unlabelled = (rows_of(built[stage])["source"].to_list() for stage in ("pairs", "unlabelled"))

    def cautions(*texts: str) -> list[str]:
        return seen_before(config, [EvaluationSet("a", "gec", "maxmatch", [Edited(text, ["b"]) for text in texts])])

    pairs, others = (built[stage].revision for stage in ("pairs", "unlabelled"))
    first, second = (f"test texts are among the training texts of {one}." for one in (pairs, others))
    assert cautions("Never seen.") == []
    assert cautions("Never seen.", labelled[0], unlabelled[0], unlabelled[1]) == [
        f"Caution: 1 of 4 {first}",
        f"Caution: 2 of 4 {second}",
    ]


def test_data_of_the_users_own_is_looked_at(built: dict[str, StageResult], editor_dir: Path, tmp_path: Path) -> None:
    """What training reads is enough, and rows that teach nothing are named."""
    config = load_config("tiny-rationalign", [*small(editor_dir), "mpo.steps=1"], str(tmp_path / "store"))
    rows = rows_of(built["prefer"]).select("prompt", "chosen", "rejected", "reward_chosen", "reward_rejected").head(4)
    file = tmp_path / "mine.parquet"
    for name, changed, words in (
        ("nan", rows.with_columns(reward_chosen=pl.lit(float("nan"))), r"row 0: reward_chosen nan, reward_rejected"),
        (
            "swapped",
            rows.rename({"reward_chosen": "reward_rejected", "reward_rejected": "reward_chosen"}),
            r"row 0: .*smaller",
        ),
    ):
        changed.write_parquet(tmp_path / f"{name}.parquet")
        with pytest.raises(UserError, match=words):
            build(config, "mpo", start=str(tmp_path / f"{name}.parquet"))
    rows.write_parquet(file)
    assert build(config, "mpo", start=str(file))[-1].built
    contests = rows_of(built["contest"]).select("task", "chosen", rejected="chosen").head(4)
    contests.write_parquet(tmp_path / "equal.parquet")
    with pytest.raises(UserError, match=r"row 0: chosen and rejected are equal or blank"):
        build(config, "reward", start=str(tmp_path / "equal.parquet"))


def test_there_is_no_model_of_a_fold_that_is_not(editor_dir: Path, tmp_path: Path) -> None:
    config = load_config("tiny-rationalign", small(editor_dir), str(tmp_path / "store"))
    with pytest.raises(UserError, match=r"^--stage fold-4: pairs.folds is 3; train fold-1 … fold-3"):
        build(config, "fold-4")


def test_processes_give_the_same_bytes(built: dict[str, StageResult], editor_dir: Path, tmp_path: Path) -> None:
    apart = run(tmp_path / "store", "contest", [*small(editor_dir), "executor.workers=2"])
    assert apart["contest"].revision.digest == built["contest"].revision.digest


@pytest.mark.slow
def test_killed_at_any_moment_the_result_is_the_same(
    built: dict[str, StageResult], editor_dir: Path, tmp_path: Path
) -> None:
    """SIGKILL at 20 random moments over the whole pipeline; preferences and final model have the same digests."""
    driver = Path(__file__).parents[2] / "support" / "stage_kill_driver.py"
    command = [sys.executable, str(driver), "tiny-rationalign", "mpo", str(tmp_path / "store"), "20", "4.0"]
    done = subprocess.run([*command, *small(editor_dir)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *runs, last = map(json.loads, done.stdout.splitlines())
    assert last == {"kills": 20} and runs
    assert all(run == {stage: result.revision.digest for stage, result in built.items()} for run in runs)


def test_the_pipeline_is_known() -> None:
    config = load_config("tiny-rationalign")
    assert pipeline_of(config).name == "rationalign" and pipeline_of(config).last == "mpo"
