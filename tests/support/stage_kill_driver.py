"""Build a stage of a preset in forked children and SIGKILL them at random moments; print digests and kills.

The heavy modules are imported once, before forking, so that a kill hits the work and not an import. Each child starts
the preset's teacher anew; one that is killed takes it along.

    python stage_kill_driver.py PRESET STAGE STORE KILLS LONGEST SETTING…
"""

import importlib
import os
import random
import signal
import sys
import time
from pathlib import Path

from training.pipelines import build, load_config

HEAVY = {
    "tiny-writingbench": ("openai",),
    "tiny-rationalign": ("openai", "torch", "trl", "trl.trainer.reward_trainer", "training.sft.model", "sacrebleu"),
}


def main() -> None:
    """Kill and rerun, then let it end."""
    preset, stage, store, kills, longest, settings = *sys.argv[1:4], int(sys.argv[4]), float(sys.argv[5]), sys.argv[6:]
    for name in HEAVY[preset]:
        importlib.import_module(name)
    draw = random.Random(0)
    killed = 0
    while True:
        child = os.fork()
        if child == 0:
            build(load_config(preset, settings, store), stage)
            os._exit(0)
        deadline = time.monotonic() + (draw.uniform(0.2, longest) if killed < kills else 600)
        ended = 0
        while not ended and time.monotonic() < deadline:
            ended, status = os.waitpid(child, os.WNOHANG)
            time.sleep(0.01)
        if ended:
            if status:
                raise SystemExit(f"the build failed by itself with status {status}")
            break
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        killed += 1
    results = build(load_config(preset, settings, store), stage)
    print("kills", killed)
    for result in results:
        print(result.stage, result.revision.digest)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
