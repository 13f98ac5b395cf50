"""The model that the small runs of these tests start from."""

from pathlib import Path

import pytest
from small_editing import make_editor


@pytest.fixture(scope="session")
def editor_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world's editor after a few steps."""
    return make_editor(tmp_path_factory.mktemp("editor") / "model")
