"""Processes that train together: they find one another, and none of them outlives a failure."""

import os
import signal
import time
from pathlib import Path

import pytest

from builders.executors.together import run_together
from scorers.errors import UserError


def summed(value: int) -> tuple[str, str, int]:
    import torch

    torch.distributed.init_process_group("gloo")
    number = torch.tensor(value + int(os.environ["RANK"]))
    torch.distributed.all_reduce(number)
    torch.distributed.destroy_process_group()
    return os.environ["RANK"], os.environ["WORLD_SIZE"], int(number)


def one_fails(folder: Path, how: str) -> None:
    """The first process waits for the second, which fails."""
    rank = os.environ["RANK"]
    (folder / rank).write_text(str(os.getpid()))
    if rank == "0":
        time.sleep(300)
    while not (folder / "0").is_file():
        time.sleep(0.01)
    if how == "mistake":
        raise UserError("train.batch_size 3 is odd")
    os.kill(os.getpid(), signal.SIGKILL)


def test_processes_find_one_another_and_the_first_one_answers() -> None:
    assert run_together(2, summed, 10) == ("0", "2", 21)
    assert "RANK" not in os.environ


@pytest.mark.parametrize(("how", "error"), [("mistake", UserError), ("killed", Exception)])
def test_one_that_fails_ends_the_others(tmp_path: Path, how: str, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^train\.batch_size 3 is odd$" if how == "mistake" else "SIGKILL"):
        run_together(2, one_fails, tmp_path, how)
    for rank in ("0", "1"):
        number = int((tmp_path / rank).read_text())
        with pytest.raises(ProcessLookupError):
            os.kill(number, 0)
