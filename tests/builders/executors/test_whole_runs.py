"""Seed to weights with real models: workers and Ray's actors give the digests of one process."""

from pathlib import Path

import pytest
from tiny_store import copy_store, small_config

from builders.core.models import ModelFinder, load_engine_for, load_window
from builders.settings.context import ContextSettings
from builders.store.store import Store
from training.pipelines import build

LOCAL: list[str] = []
PROCESSES = ["executor.workers=2"]
RAY = ["executor.kind=ray", "executor.workers=2"]


@pytest.fixture(scope="module")
def digests_of_one_process(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return digests(tmp_path_factory.mktemp("local"), LOCAL)


def digests(folder: Path, overrides: list[str]) -> dict[str, str]:
    """Digest of every dataset of a run from a store that has its models alone."""
    config = small_config(copy_store(folder / "store"), *overrides)
    return {result.stage: result.revision.digest for result in build(config, "calibrate") if result.built}


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [PROCESSES, RAY], ids=["processes", "ray"])
def test_every_stage_has_the_same_digest(
    tmp_path: Path, overrides: list[str], digests_of_one_process: dict[str, str]
) -> None:
    assert digests_of_one_process.keys() >= {"generate", "sample", "score", "calibrate"}
    assert digests(tmp_path, overrides) == digests_of_one_process


def test_planning_knows_the_window_without_the_model(causal_lm_dir: Path, tmp_path: Path) -> None:
    model = ModelFinder(Store(tmp_path)).find(str(causal_lm_dir))
    for window in (None, 100):
        settings = small_config(tmp_path).engines.policy.model_copy(update={"context": ContextSettings(window=window)})
        engine, found = load_engine_for(settings, model), load_window(settings, model)
        assert found.context_window == engine.context_window
        assert found.tokenizer.get_vocab() == engine.tokenizer.get_vocab()
