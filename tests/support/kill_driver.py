"""Run the small loop in forked children and SIGKILL them at random moments, until KILLS children have been killed.

The heavy modules are imported once, before forking, so that a kill hits the loop and not an import. Prints the digests
of every loop that finished after its kills.

    python kill_driver.py FRESH_STORE FOLDER SECONDS KILLS
"""

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import FlagEmbedding  # noqa: F401, TID253
import torch  # noqa: TID253
from tiny_store import small_config

import training.grace_kto.evaluate
import training.kto.assembly
import training.kto.rounds  # noqa: F401
from builders.store.store import Store
from training.grace_kto.pipeline import GRACE_KTO
from training.loop import run_loop


def start(store: Path) -> int:
    """Run the loop in a child; its process id."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        run_loop(small_config(store))
        os._exit(0)
    return child


def wait(child: int, seconds: float) -> bool:
    """Whether the child ends by itself within the time; any failure of its own stops the test."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            if status:
                raise SystemExit(f"the loop failed by itself with status {status}")
            return True
        time.sleep(0.01)
    return False


def digests(store: Path) -> tuple[str, str]:
    """Content digests of the last weights dataset and the last policy."""
    config = small_config(store)
    opened = Store(store)
    weights = opened.find(GRACE_KTO.repo(GRACE_KTO.stage("calibrate"), config), "round-002")
    policy = opened.find(GRACE_KTO.repo(GRACE_KTO.stage("policy"), config), "round-002", "model")
    if weights is None or policy is None:
        raise SystemExit("the loop ended without its last round")
    return weights.digest, policy.digest


def main() -> None:
    """Kill, rerun, and print the digests of every loop that came to its end."""
    fresh, folder, seconds, kills = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    draw = random.Random(0)
    killed = runs = 0
    while killed < kills:
        store = folder / f"run-{runs}"
        shutil.copytree(fresh, store)
        runs += 1
        while True:
            child = start(store)
            limit = draw.uniform(0.02, seconds / 3) if killed < kills else 600.0
            if wait(child, limit):
                break
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            killed += 1
        print("finished", *digests(store), flush=True)
    print("kills", killed, flush=True)


if __name__ == "__main__":
    main()
