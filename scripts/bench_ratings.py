"""Measure ratings through an endpoint: the stage `rate` beside one request at a time.

The judge is the rule-based one of the preset `tiny-writingbench`, in a process of its own, and takes a stated time for
every answer, as a large model does. The stage rates all responses and writes its dataset; beside it the first requests
are sent one after the other, and their time stands for that of all. The most requests under way at once are counted by
the server. Prints a table and one line of JSON. What it does not show: a judge that slows down when many ask it.

    python scripts/bench_ratings.py --ratings 10000
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import httpx2

from builders.engines.serving import address_of
from builders.rubrics.ratings import ask_for_rating
from training.pipelines import build, load_config

ALONE = 100
"""Requests that are sent one at a time."""


def main() -> None:
    """Build what is rated, rate it, and send some requests one by one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ratings", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=0.2, help="that an answer takes")
    parser.add_argument("--concurrency", type=int, default=64, help="requests under way at once")
    options = parser.parse_args()
    judge = f"{{python}} -m training.writingbench.teacher --port {{port}} --seconds {options.seconds}"
    responses = -(-options.ratings // 5)
    settings = [
        f"request.requests={-(-responses // 48)}",  # twelve subdomains, four responses to each query
        "models.judge=judge",
        f"engines.judge={{kind: openai, serve: '{judge}', concurrency: {options.concurrency}}}",
    ]
    with tempfile.TemporaryDirectory() as folder:
        config = load_config("tiny-writingbench", settings, str(Path(folder) / "store"))
        build(config, "respond")
        began = time.perf_counter()
        ratings = build(config, "rate")[-1].revision
        together = time.perf_counter() - began
        rows = ratings.scan().select("response_id").collect().height
        address = address_of(judge, "engines.judge", 60)
        with httpx2.Client(timeout=60) as client:
            most = client.get(f"{address}/models").json()["data"][0]["most"]
            begun = time.perf_counter()
            for number in range(ALONE):
                criterion = dict.fromkeys(("criteria_description", "1-2", "3-4", "5-6", "7-8", "9-10"), "x")
                asked = ask_for_rating("rate.tiny", "Write.", f"Text {number}.", criterion | {"name": "on topic"}, "en")
                body = {"model": "teacher", "messages": asked, "seed": number}
                client.post(f"{address}/chat/completions", json=body).raise_for_status()
            alone = (time.perf_counter() - begun) / ALONE * rows
    print(f"{'':<24}{'seconds':>10}{'ratings/s':>12}")
    print(f"{'stage rate':<24}{together:>10.1f}{rows / together:>12.1f}")
    print(f"{'one request at a time':<24}{alone:>10.1f}{rows / alone:>12.1f}")
    print(f"{alone / together:.1f} times as many; at most {most} requests under way")
    sys.stdout.flush()
    found = {"ratings": rows, "seconds": together, "alone": alone, "most": most, "ratio": alone / together}
    print(json.dumps({"benchmark": "ratings", "latency": options.seconds, "concurrency": options.concurrency, **found}))


if __name__ == "__main__":
    main()
