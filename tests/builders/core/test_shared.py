"""Folders that several machines share: a worker that does not see them says so, and late files are waited for."""

import threading
import time
from pathlib import Path

import pytest

from builders.core import shared
from builders.core.shared import Mark, await_seen, mark, require_shared
from scorers.errors import UserError


def test_a_worker_that_sees_the_folder(tmp_path: Path) -> None:
    made = mark(tmp_path)
    require_shared(made, [tmp_path])
    # A worker that comes later compares with the same mark: checking leaves it as it is.
    assert (tmp_path / ".shared").read_text() == made.token


@pytest.mark.parametrize("what", ["missing", "another of its name"])
def test_a_worker_that_does_not_see_the_folder(tmp_path: Path, what: str) -> None:
    made = mark(tmp_path)
    other = Mark(tmp_path / "none" if what == "missing" else tmp_path, "another token", made.machine)
    with pytest.raises(UserError) as error:
        require_shared(other, [])
    assert f"does not see the folder {other.folder} of {made.machine}; let --store be" in str(error.value)


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"has no folder {tmp_path}/model; .*\(HF_HOME\)"):
        require_shared(mark(tmp_path), [tmp_path, tmp_path / "model"])


def test_a_file_that_is_seen_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "shard"
    threading.Timer(0.3, path.touch).start()
    await_seen(path)
    assert path.exists()
    monkeypatch.setattr(shared, "PATIENCE", 0.2)
    began = time.monotonic()
    with pytest.raises(UserError, match=r"none: a worker has written it, and .* does not see it after 0\.2 s"):
        await_seen(tmp_path / "none")
    assert time.monotonic() - began >= 0.2
