"""Environment of every test (offline, quiet, few threads) and the session's tiny models."""

import gc
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_UPDATE_CHECK", "1")

import hypothesis
import pytest
from tiny_models import make_bge_m3, make_causal_lm

# By default an example that takes longer than 0.2 s fails, as any may on a busy machine.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

NEWLY_IMPORTED = 300  # modules
_modules_frozen = 0


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Take what was imported out of the garbage collector's sight.

    Every training ends with a collection, which otherwise walks all objects of torch and transformers: 0.4 s each.
    """
    global _modules_frozen
    if len(sys.modules) > _modules_frozen + NEWLY_IMPORTED:
        _modules_frozen = len(sys.modules)
        gc.collect()
        gc.freeze()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Let everything end as usual."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def causal_lm_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2 with a window of 512 tokens."""
    return make_causal_lm(tmp_path_factory.mktemp("models") / "causal-lm")


@pytest.fixture(scope="session")
def bge_m3_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BGE-M3 with a window of 256 tokens."""
    return make_bge_m3(tmp_path_factory.mktemp("models") / "bge-m3")
