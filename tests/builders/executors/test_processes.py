"""Worker processes: they end with a parent that is killed, on any system, and hold its locks until then."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from builders.store.store import Store
from scorers.errors import UserError

# Started as a file: workers import it again.
PARENT = """
import os, sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from builders.executors import processes
from builders.store.store import Store

folder, system = Path(sys.argv[1]), sys.argv[2]

def work(number):
    (folder / f"{number}.pid").write_text(str(os.getpid()))
    time.sleep(60)

def elsewhere(parent, held):
    processes.sys = SimpleNamespace(platform="darwin")  # without what Linux alone has
    processes.end_with_parent(parent, held)

def never(parent, held):
    pass

if __name__ == "__main__":
    with Store(folder / "store").lock() as lock:
        begin = {"linux": processes.end_with_parent, "darwin": elsewhere, "stubborn": never}[system]
        processes.end_with_parent = begin
        with processes.process_pool(2, [lock]) as pool:
            running = [pool.submit(work, number) for number in range(2)]
            [each.result() for each in running]
"""


def started(folder: Path, system: str) -> tuple["subprocess.Popen[bytes]", list[int]]:
    """A parent with two workers at work: the parent, and the workers' process ids."""
    script = folder / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, str(script), str(folder), system])
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and parent.poll() is None:
        pids = [path.read_text() for path in folder.glob("*.pid")]
        if len(pids) == 2 and all(pids):
            return parent, [int(pid) for pid in pids]
        time.sleep(0.05)
    raise AssertionError("the workers did not begin")


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks processes up in /proc")
@pytest.mark.parametrize("system", ["linux", "darwin"])
def test_workers_end_when_their_parent_is_killed(tmp_path: Path, system: str) -> None:
    parent, workers = started(tmp_path, system)
    assert all(map(alive, workers))
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 5
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    survivors = [pid for pid in workers if alive(pid)]
    for pid in survivors:
        os.kill(pid, signal.SIGKILL)
    assert not survivors
    with Store(tmp_path / "store").lock():  # a rerun begins at once
        assert (tmp_path / "store" / ".lock").exists()


def test_a_worker_that_lives_on_keeps_the_lock(tmp_path: Path) -> None:
    parent, workers = started(tmp_path, "stubborn")
    parent.kill()
    parent.wait()
    try:
        with pytest.raises(UserError, match="is in use by another run"), Store(tmp_path / "store").lock():
            raise AssertionError("a second run beside the workers of the first")
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
    with Store(tmp_path / "store").lock():
        assert (tmp_path / "store" / ".lock").exists()
