"""Trackers: what a trainer is told, where they write, and that by default nothing is sent."""

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
from conversations import conversations_of
from pydantic import ValidationError

from builders.settings.base import executions, identity
from builders.settings.kto import TrainSettings
from builders.settings.mpo import MpoSettings
from builders.settings.sft import SFTSettings
from builders.store.store import Store
from training.pipelines import load_config
from training.reporting import report_arguments, reporting
from training.sft.finetune import run_sft

SECTIONS: list[Any] = [TrainSettings, SFTSettings, MpoSettings]


@pytest.mark.parametrize("section", SECTIONS)
def test_a_tracker_makes_nothing_stale_and_is_on_no_record(section: Any) -> None:
    plain, tracked = section(), section(report_to=("tensorboard", "wandb"))
    assert plain.report_to == () and identity(plain) == identity(tracked)
    assert "report_to" not in identity(tracked)


def test_a_recipe_has_no_tracker_so_that_whoever_repeats_it_sends_nothing() -> None:
    config = load_config("tiny", ["train.report_to=[wandb]", "sft.report_to=[trackio]"])
    assert config.train.report_to == ("wandb",)
    assert "report_to" not in str(executions(config, ["train", "sft"]))


@pytest.mark.parametrize("section", SECTIONS)
def test_other_names_are_refused(section: Any) -> None:
    with pytest.raises(ValidationError, match=r"'tensorboard', 'trackio' or 'wandb'"):
        section(report_to=("all",))


def test_arguments_name_the_run(tmp_path: Path) -> None:
    assert report_arguments((), tmp_path) == {"report_to": "none"}
    logs = Store(tmp_path).log_path(Store(tmp_path).work_path("alice/demo-policy", "0123456789abcdef0123"))
    assert logs == tmp_path / ".logs" / "alice--demo-policy" / "0123456789abcdef"
    found = report_arguments(("wandb", "trackio"), logs)
    assert found["report_to"] == ["wandb", "trackio"] and found["run_name"] == "alice--demo-policy/0123456789abcdef"


def test_trackers_write_into_the_folder_and_a_users_own_choice_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_DIR", "mine")
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    before = dict(os.environ)
    with reporting(["tensorboard"], tmp_path / "logs"):
        assert os.environ["TENSORBOARD_LOGGING_DIR"] == str(tmp_path / "logs")
        assert os.environ["WANDB_DIR"] == "mine" and (tmp_path / "logs").is_dir()
    assert dict(os.environ) == before
    with pytest.raises(KeyError), reporting(["tensorboard"], tmp_path / "logs"):
        raise KeyError
    assert dict(os.environ) == before
    with reporting([], tmp_path / "none"):
        assert dict(os.environ) == before
    assert not (tmp_path / "none").exists()


def trained(base: Path, folder: Path, **values: Any) -> Path:
    settings = SFTSettings(steps=2, batch_size=2, precision="fp32", **values)
    rows = conversations_of([{"query": f"Write {i}.", "reference": "Trade grew."} for i in range(4)])
    run_sft(base=base, output=folder / "model", conversations=rows, settings=settings, logs=folder / "logs")
    return folder


def test_by_default_no_tracker_is_called(causal_lm_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import Trainer

    seen: list[Any] = []
    train = Trainer.train

    def watched(self: Any, *arguments: Any, **options: Any) -> Any:
        seen.append((self.args.report_to, [type(found).__name__ for found in self.callback_handler.callbacks]))
        return train(self, *arguments, **options)

    monkeypatch.setattr(Trainer, "train", watched)
    folder = trained(causal_lm_dir, tmp_path)
    ((report_to, callbacks),) = seen
    assert report_to == []
    assert not any(name.startswith(("TensorBoard", "Wandb", "Trackio")) for name in callbacks)
    assert {path.name for path in folder.iterdir()} == {"model"}


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard, an extra, is not installed")
def test_tensorboard_has_every_step_and_the_model_is_the_same(causal_lm_dir: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    plain = trained(causal_lm_dir, tmp_path / "plain")
    tracked = trained(causal_lm_dir, tmp_path / "tracked", report_to=("tensorboard",))
    names = {path.relative_to(plain / "model") for path in (plain / "model").rglob("*")}
    assert names == {path.relative_to(tracked / "model") for path in (tracked / "model").rglob("*")}
    assert all((plain / "model" / name).read_bytes() == (tracked / "model" / name).read_bytes() for name in names)
    events = EventAccumulator(str(tracked / "logs"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2]
