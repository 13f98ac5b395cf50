"""The trainer of weighted KTO on a tiny model."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from kto_trainers import trainer_on


@pytest.fixture
def make_trainer(causal_lm_dir: Path, tmp_path: Path) -> Any:
    return partial(trainer_on, causal_lm_dir, tmp_path)
