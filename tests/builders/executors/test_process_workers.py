"""Worker processes: the bytes of one process, whoever is killed; what a task raises; GPUs, Ctrl-C and locks."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from shard_builds import (
    SHARDS,
    STUCK,
    attempts,
    deadly,
    defect,
    full,
    lacking,
    made_by,
    mistaken,
    once,
    rows,
    stuck_once,
)
from toy_pipeline import TOY, toy_config

from builders.core.run import run
from builders.executors import open_executor
from builders.executors.handing import TRIES, Executor
from builders.executors.process_workers import shares
from builders.settings.base import ExecutorSettings
from builders.store.store import Store
from scorers.errors import UserError

ROOT = Path(__file__).parents[3]
TWO = ExecutorSettings(workers=2)


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    """Two workers, which the tests share as the stages of a run do."""
    with open_executor(TWO) as found:
        assert found is not None
        yield found


def pid_of(notes: Path, index: int) -> int:
    """The process that began a shard last."""
    return int(attempts(notes, index)[-1].split()[0])


def test_one_worker_is_this_process() -> None:
    with open_executor(ExecutorSettings()) as none, open_executor(ExecutorSettings(workers=1)) as one:
        assert none is None and one is None


def test_shards_have_the_same_bytes_and_workers_live_on(tmp_path: Path, executor: Executor) -> None:
    alone = made_by(rows, tmp_path / "alone", None)
    assert made_by(rows, tmp_path / "first", executor) == alone
    assert made_by(rows, tmp_path / "second", executor) == alone
    makers = [
        {pid_of(tmp_path / run / "notes", shard.index) for shard in SHARDS} for run in ("alone", "first", "second")
    ]
    assert makers[0] == {os.getpid()} and os.getpid() not in makers[1]
    assert makers[1] & makers[2]


def test_a_whole_run_has_the_same_digests(tmp_path: Path) -> None:
    found = [run(TOY, toy_config(tmp_path / str(s.workers), executor=s), "totals") for s in (ExecutorSettings(), TWO)]
    assert {r.stage: r.revision.digest for r in found[0]} == {r.stage: r.revision.digest for r in found[1]}
    # The manifests as well: nothing of the executor is in them.
    assert [r.revision.revision for r in found[0]] == [r.revision.revision for r in found[1]]


def test_a_killed_worker_costs_the_shard_in_its_hand(tmp_path: Path, executor: Executor) -> None:
    alone = made_by(rows, tmp_path / "alone", None)
    notes = tmp_path / "killed" / "notes"
    killer = once(
        lambda: all(attempts(notes, shard.index) for shard in SHARDS),
        lambda: os.kill(pid_of(notes, STUCK), signal.SIGKILL),
    )
    assert made_by(stuck_once, tmp_path / "killed", executor) == alone
    killer.join()
    assert [len(attempts(notes, shard.index)) for shard in SHARDS] == [1 + (s.index == STUCK) for s in SHARDS]


def test_a_shard_that_kills_three_workers_is_an_error(
    tmp_path: Path, executor: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UserError) as error:
        made_by(deadly, tmp_path, executor)
    assert str(error.value).startswith(f"stage numbers, shard {STUCK}: {TRIES} workers ended while they had it in hand")
    assert "SIGKILL" in str(error.value) and "memory" in str(error.value)
    assert len(attempts(tmp_path / "notes", STUCK)) == TRIES
    assert f"shard {STUCK} is built again" in caplog.text
    # What is done stays; a rerun makes the rest.
    assert (tmp_path / "work" / "shard-00000.parquet").exists()
    assert made_by(rows, tmp_path, executor) == made_by(rows, tmp_path / "alone", None)


def test_workers_that_cannot_begin_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builders.executors.process_workers._work", sys.exit)
    with (
        open_executor(TWO) as found,
        pytest.raises(UserError, match=f"stage numbers: {TRIES} workers ended before they could begin"),
    ):
        made_by(rows, tmp_path, found)


def test_a_users_mistake_passes_as_it_is(tmp_path: Path, executor: Executor) -> None:
    with pytest.raises(UserError, match=r"^shard \d: is wrong; mend it$"):
        made_by(mistaken, tmp_path, executor)
    with pytest.raises(UserError, match=r"^seeds.jsonl: no column query; it has text$"):
        made_by(lacking, tmp_path, executor)
    with pytest.raises(OSError, match="No space left on device") as error:
        made_by(full, tmp_path, executor)
    assert error.value.errno == 28 and error.value.filename == "/some/folder"


def test_a_defect_keeps_its_traceback(tmp_path: Path, executor: Executor) -> None:
    with pytest.raises(KeyError, match="missing") as error:
        made_by(defect, tmp_path, executor)
    assert 'in defect\n    return ShardResult(pl.DataFrame(), counts["missing"])' in str(error.value.__cause__)


def test_every_worker_sees_gpus_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    with open_executor(ExecutorSettings(workers=2, gpus=2)) as found:
        made_by(rows, tmp_path, found)
    seen = {line.split()[2] for shard in SHARDS for line in attempts(tmp_path / "notes", shard.index)}
    assert seen == {"4,5", "6,7"}
    with pytest.raises(UserError, match=r"5 workers with 1 GPU each need 5, and this machine has 4; lower"):
        run(TOY, toy_config(tmp_path / "store", executor=ExecutorSettings(workers=5)), "numbers")


def test_several_workers_share_a_gpu() -> None:
    assert shares(["0", "1"], 4, 0.5) == ["0", "0", "1", "1"]
    assert shares(["0"], 2, 0) == ["", ""]
    with pytest.raises(UserError, match=r"5 workers with 0\.5 GPU each need 3, and this machine has 2"):
        shares(["0", "1"], 5, 0.5)


DRIVER = """
import sys
from pathlib import Path
from shard_builds import made_by, stuck_once
from builders.executors import open_executor
from builders.settings.base import ExecutorSettings
from builders.store.store import Store

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with Store(folder).lock() as lock, open_executor(ExecutorSettings(workers=2), [lock]) as executor:
        made_by(stuck_once, folder, executor)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks processes up in /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_their_parent(tmp_path: Path, how: signal.Signals) -> None:
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    path = os.pathsep.join([str(ROOT / "tests" / "support"), str(ROOT)])
    driver = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A job in the background ignores Ctrl-C, and so would all that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    notes = tmp_path / "notes"
    deadline = time.monotonic() + 60
    while not all(attempts(notes, shard.index) for shard in SHARDS) and time.monotonic() < deadline:
        time.sleep(0.05)
    worker = pid_of(notes, STUCK)
    with pytest.raises(UserError, match="in use by another run"), Store(tmp_path).lock():
        raise AssertionError("a second run beside the first")
    os.killpg(driver.pid, how)  # as a terminal does with Ctrl-C
    said = driver.communicate(timeout=30)[1]
    assert driver.returncode == -how
    if how == signal.SIGINT:
        assert said.count("Traceback") == 1 and said.rstrip().endswith("KeyboardInterrupt")  # the driver's alone
    with Store(tmp_path).lock():  # waits until the workers have ended
        assert not Path(f"/proc/{worker}").exists() or " Z " in Path(f"/proc/{worker}/stat").read_text()
