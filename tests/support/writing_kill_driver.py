"""Build WritingBench's data in forked children and SIGKILL them at random moments; print digests and kills.

The heavy modules are imported once, before forking, so that a kill hits the work and not an import. Each child starts
the teacher anew; one that is killed takes it along.

    python writing_kill_driver.py STORE KILLS SETTING…
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import openai  # noqa: F401

from training.pipelines import build, load_config


def main() -> None:
    """Kill and rerun, then let it end."""
    store, kills, settings = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    draw = random.Random(0)
    killed = 0
    while True:
        child = os.fork()
        if child == 0:
            build(load_config("tiny-writingbench", settings, store), "select")
            os._exit(0)
        deadline = time.monotonic() + (draw.uniform(0.2, 1.6) if killed < kills else 600)
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
    results = build(load_config("tiny-writingbench", settings, store), "select")
    print("kills", killed)
    for result in results:
        print(result.stage, result.revision.digest)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
