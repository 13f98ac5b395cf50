"""Reward models as a training: the loss, a model or an adapter for each task, and what cannot be trained on."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from builders.settings.sft import TuningSettings
from builders.store.manifest import TRAINING_LOG
from builders.store.training_log import read_log
from scorers.errors import UserError
from scorers.reward import RewardModels
from training.reward.train import run_reward

TASKS = ("gec", "clarity")
PAIRS = [
    {"task": TASKS[i % 2], "chosen": f"The harbour grew {i}.", "rejected": f"The results {i} fell" + " again" * (i % 4)}
    for i in range(12)
]


def settings(**values: Any) -> TuningSettings:
    return TuningSettings(**{"steps": 1, "batch_size": 12, "learning_rate": 1e-3, "warmup_ratio": 0.0} | values)


def scores_of(folder: Path, base: Path | None = None) -> dict[str, list[float]]:
    model = RewardModels(base or folder, folder if base else None, device="cpu", dtype="float32", batch_size=4)
    tasks = [pair["task"] for pair in PAIRS]
    return {name: model.score([pair[name] for pair in PAIRS], tasks) for name in ("chosen", "rejected")}


@pytest.mark.parametrize("device_batch", [12, 4])
def test_the_loss_is_that_of_the_scores_before(causal_lm_dir: Path, tmp_path: Path, device_batch: int) -> None:
    """A step at a rate of almost nothing saves the model that it began with, new head included."""
    own = settings(learning_rate=1e-12, device_batch_size=device_batch)
    found = run_reward(base=causal_lm_dir, output=tmp_path / "out", pairs=PAIRS, settings=own, per_task=False)
    scores = scores_of(tmp_path / "out")
    losses = [math.log1p(math.exp(lo - w)) for w, lo in zip(*scores.values(), strict=True)]
    assert found["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    right = [w > lo for w, lo in zip(*scores.values(), strict=True)]
    assert found["accuracy"] == pytest.approx(sum(right) / len(right)) and found["rows"] == 12


def test_it_learns_and_equal_seeds_give_equal_weights(causal_lm_dir: Path, tmp_path: Path) -> None:
    own = settings(steps=20, learning_rate=3e-3)
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder, seed in zip(folders, (0, 0, 1), strict=True):
        run_reward(
            base=causal_lm_dir,
            output=folder,
            pairs=PAIRS,
            settings=own.model_copy(update={"seed": seed}),
            per_task=False,
        )
    scores = scores_of(folders[0])
    assert all(w > lo for w, lo in zip(*scores.values(), strict=True))
    a, b, c = ((folder / "model.safetensors").read_bytes() for folder in folders)
    assert a == b != c


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_each_task_has_its_own(causal_lm_dir: Path, tmp_path: Path, method: str) -> None:
    own = settings(method=method, steps=3, lora_rank=4, batch_size=4)
    found = run_reward(base=causal_lm_dir, output=tmp_path / "out", pairs=PAIRS, settings=own, per_task=True)
    assert found["models"] == 2
    name = "model.safetensors" if method == "full" else "adapter_model.safetensors"
    assert {path.parent.name for path in (tmp_path / "out").rglob(name)} == set(TASKS)
    logs = {path.parent.name: read_log(path) for path in (tmp_path / "out").rglob(TRAINING_LOG)}
    assert set(logs) == set(TASKS) and all(
        log["accuracy"].count() == 3 == log["margin"].count() for log in logs.values()
    )
    assert not list((tmp_path / "out").rglob("training_args.bin")) and not list((tmp_path / "out").rglob("adapter"))
    scores = scores_of(tmp_path / "out", None if method == "full" else causal_lm_dir)
    assert all(math.isfinite(score) for column in scores.values() for score in column)
    if method != "full":
        config = json.loads((tmp_path / "out" / "gec" / "adapter_config.json").read_text(encoding="utf-8"))
        assert config["task_type"] == "SEQ_CLS" and "score" in config["modules_to_save"]


def test_what_cannot_be_trained_on(causal_lm_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^reward: no pair to train on; give contests"):
        run_reward(base=causal_lm_dir, output=tmp_path / "o", pairs=[], settings=settings(), per_task=False)
    odd = [{**pair, "task": "../up"} for pair in PAIRS]
    with pytest.raises(UserError, match=r"^task '\.\./up': a model's folder is named by it; use letters"):
        run_reward(base=causal_lm_dir, output=tmp_path / "o", pairs=odd, settings=settings(), per_task=True)
    assert not (tmp_path / "o").exists() and not (tmp_path.parent / "up").exists()


def test_of_a_long_text_the_end_is_kept(causal_lm_dir: Path, tmp_path: Path) -> None:
    long = [{**pair, "chosen": "word " * 600 + pair["chosen"]} for pair in PAIRS]
    found = run_reward(base=causal_lm_dir, output=tmp_path / "out", pairs=long, settings=settings(), per_task=False)
    assert found["truncated"] == 12
