"""Build a stage of a preset in forked children and SIGKILL them at random moments, until KILLS have been killed.

The heavy modules are imported once, before forking, so that a kill hits the work and not an import. Each child starts
the preset's teacher anew; one that is killed takes it along. A build that comes to its end is followed by another in a
new store, until there have been enough kills; the digests of all that ended are printed, a line each.

    python stage_kill_driver.py PRESET STAGE FOLDER KILLS LONGEST SETTING…
"""

import importlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from training.pipelines import build, load_config

HEAVY = {
    "tiny-writingbench": ("openai",),
    "tiny-rationalign": ("openai", "torch", "trl", "trl.trainer.reward_trainer", "training.tuning_model", "sacrebleu"),
}


def wait(child: int, seconds: float) -> bool:
    """Whether the child ends by itself within the time; any failure of its own stops the test."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            if status:
                raise SystemExit(f"the build failed by itself with status {status}")
            return True
        time.sleep(0.01)
    return False


def forked(preset: str, settings: list[str], store: str, stage: str, *, told: bool = False) -> int:
    """Start a child that builds, and with `told` prints the digests; its process id.

    Nothing is built in this process: polars would start threads in it, and a fork of it that waits for one never ends.
    """
    child = os.fork()
    if child == 0:
        results = build(load_config(preset, settings, store), stage)
        if told:
            print(json.dumps({result.stage: result.revision.digest for result in results}), flush=True)
        os._exit(0)
    return child


def main() -> None:
    """Kill and rerun, and print what came out."""
    preset, stage, folder, kills, longest, settings = *sys.argv[1:4], int(sys.argv[4]), float(sys.argv[5]), sys.argv[6:]
    for name in HEAVY[preset]:
        importlib.import_module(name)
    draw = random.Random(0)
    killed = runs = 0
    while killed < kills:
        store = str(Path(folder) / f"run-{runs}")
        runs += 1
        while True:
            child = forked(preset, settings, store, stage)
            if wait(child, draw.uniform(0.2, longest) if killed < kills else 600.0):
                break
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            killed += 1
        if not wait(forked(preset, settings, store, stage, told=True), 600.0):
            raise SystemExit("reading a finished build took ten minutes")
    print(json.dumps({"kills": killed}), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
