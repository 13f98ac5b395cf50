"""Ray's actors: the bytes of one process on a cluster of two nodes, whoever is killed; clusters that are not there."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from shard_builds import SHARDS, STUCK, attempts, deadly, defect, made_by, mistaken, once, rows, stuck_on_node
from toy_pipeline import TOY, toy_config

from builders.core.run import run
from builders.executors import open_executor
from builders.executors.handing import TRIES, Executor
from builders.settings.base import ExecutorSettings
from scorers.errors import UserError

ROOT = Path(__file__).parents[3]
SMALL = {"object_store_memory": 80 * 2**20, "include_dashboard": False, "node_ip_address": "127.0.0.1"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one core each, whose workers find the tests' modules; `auto` does not find them elsewhere."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # a socket's path may not be long
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "tests" / "support"), str(ROOT)]))
        # Ray's own name for: bind to the loopback address alone.
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        patch.setattr("ray._private.ray_constants.ENABLE_RAY_CLUSTER", False)
        from ray.cluster_utils import Cluster

        # A node counts as lost after a second, not after half a minute.
        health = {"initial_delay_ms": 0, "period_ms": 200, "failure_threshold": 5}
        system = {f"health_check_{name}": value for name, value in health.items()}
        found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "_system_config": system, **SMALL})
        try:
            yield found
        finally:
            found.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def executor(cluster: Any) -> Iterator[Executor]:
    """Workers on the cluster, which the tests share as the stages of a run do."""
    cluster.add_node(num_cpus=1, **SMALL)
    with open_executor(ExecutorSettings(kind="ray", address=cluster.address)) as found:
        assert found is not None
        yield found


def parents(notes: Path) -> set[int]:
    """The raylets of the nodes on which shards were begun."""
    return {int(line.split()[1]) for shard in SHARDS for line in attempts(notes, shard.index)}


def raylet(node: Any) -> int:
    """The process that started all workers of a node."""
    pid: int = node.all_processes["raylet"][0].process.pid
    return pid


@pytest.mark.slow
def test_a_lost_node_costs_the_shard_in_hand(tmp_path: Path, cluster: Any, executor: Executor) -> None:
    alone = made_by(rows, tmp_path / "alone", None)
    notes = tmp_path / "lost" / "notes"
    notes.mkdir(parents=True)
    doomed = cluster.add_node(num_cpus=1, **SMALL)
    (notes / "node").write_text(str(raylet(doomed)))
    with open_executor(ExecutorSettings(kind="ray", workers=3, address=cluster.address)) as found:

        def all_begun() -> bool:
            return all(attempts(notes, s.index) for s in SHARDS) and raylet(doomed) in parents(notes)

        killer = once(all_begun, lambda: cluster.remove_node(doomed, allow_graceful=False), seconds=240)
        assert made_by(stuck_on_node, tmp_path / "lost", found) == alone
        killer.join()
    assert len(parents(notes)) > 1
    assert sum(len(attempts(notes, shard.index)) for shard in SHARDS) == len(SHARDS) + 1


@pytest.mark.slow
def test_a_run_on_two_nodes_has_the_same_digests(tmp_path: Path, executor: Executor, cluster: Any) -> None:
    ray = ExecutorSettings(kind="ray", address=cluster.address)
    found = [run(TOY, toy_config(tmp_path / s.kind, executor=s), "numbers") for s in (ExecutorSettings(), ray)]
    assert [r.revision.revision for r in found[0]] == [r.revision.revision for r in found[1]]


@pytest.mark.slow
def test_what_a_shard_raises_is_told_as_without_ray(tmp_path: Path, executor: Executor) -> None:
    with pytest.raises(UserError, match=r"^shard \d: is wrong; mend it$"):
        made_by(mistaken, tmp_path, executor)
    with pytest.raises(KeyError, match="missing") as error:
        made_by(defect, tmp_path, executor)
    assert "in defect" in str(error.value.__cause__)


@pytest.mark.slow
def test_a_shard_that_kills_three_actors_is_an_error(tmp_path: Path, executor: Executor) -> None:
    with pytest.raises(UserError, match=f"stage numbers, shard {STUCK}: {TRIES} workers ended .* by Ray's Actor"):
        made_by(deadly, tmp_path, executor)
    assert len(attempts(tmp_path / "notes", STUCK)) == TRIES


@pytest.mark.slow
def test_a_worker_that_no_node_has_room_for(cluster: Any, executor: Executor) -> None:
    for more, words in (({"cpus": 64}, "64 CPU cores and 0 GPUs"), ({"gpus": 1.0}, "1 CPU cores and 1 GPUs")):
        settings = ExecutorSettings(kind="ray", address=cluster.address, **more)
        with pytest.raises(UserError, match=f"a worker needs {words}, .* more than 1 and 0; lower"):  # noqa: SIM117
            with open_executor(settings):
                raise AssertionError("opened")


OWN = """
import os, sys
from pathlib import Path
import ray
from shard_builds import made_by, rows, stuck_once
from builders.executors import open_executor
from builders.settings.base import ExecutorSettings

folder = Path(sys.argv[1])
with open_executor(ExecutorSettings(kind="ray", workers=2)) as executor:
    (folder / "address").write_text(ray.get_runtime_context().gcs_address)
    hashes = made_by(stuck_once if sys.argv[2:] else rows, folder, executor)
assert not ray.is_initialized()
print(*hashes)
"""


def own_ray(folder: Path, *args: str) -> "subprocess.Popen[str]":
    """A program that builds shards on a Ray of its own."""
    script = folder / "own.py"
    script.write_text(OWN)
    path = os.pathsep.join([str(ROOT / "tests" / "support"), str(ROOT)])
    return subprocess.Popen(
        [sys.executable, str(script), str(folder), *args],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def alive(pid: int) -> bool:
    """Whether a process runs."""
    return Path(f"/proc/{pid}").exists()


@pytest.mark.slow
def test_without_an_address_a_ray_is_started_and_ended(tmp_path: Path) -> None:
    said, complaints = own_ray(tmp_path).communicate(timeout=120)
    assert said.split() == made_by(rows, tmp_path / "alone", None), complaints
    assert complaints == ""
    assert (tmp_path / "address").read_text().startswith("127.0.0.1:")  # nobody else may use it
    assert not any(map(alive, parents(tmp_path / "notes")))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks processes up in /proc")
def test_actors_end_with_their_driver(tmp_path: Path) -> None:
    driver, notes = own_ray(tmp_path, "stuck"), tmp_path / "notes"
    deadline = time.monotonic() + 60
    while not all(attempts(notes, shard.index) for shard in SHARDS) and time.monotonic() < deadline:
        time.sleep(0.05)
    stuck = int(attempts(notes, STUCK)[0].split()[0])
    assert alive(stuck)
    driver.kill()
    driver.communicate()
    deadline = time.monotonic() + 20
    while (left := [pid for pid in (stuck, *parents(notes)) if alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left
