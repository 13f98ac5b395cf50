"""The table of compare_methods.sh: mean ± standard deviation over the seeds, each method at its best learning rate.

The best rate has the lowest average rank (over L, E, P, R_s, R_d, all runs of a seed ranked together, mean over seeds)
on the queries set aside for the choice. Prints Markdown and one JSON line.
"""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

METRICS = ("L", "E", "P", "R_s", "R_d")
OTHERS = ("matched", "cut", "ppl_D", "grammaticality", "duplicate_sentences", "on_topic", "heading_coverage")
METHODS = {
    "SFT": "tiny-sft",
    "KTO (offline)": "kto-offline",
    "KTO (semi-online)": "kto-semi",
    "GRACE (offline)": "grace-offline",
    "GRACE (semi-online)": "grace-semi",
}

Runs = dict[str, dict[str, Any]]


def read(folder: Path, seed: str, part: str) -> Runs:
    """Evaluations of one seed by the stem of the policy's name."""
    rows = json.loads((folder / f"seed-{seed}" / part / "evaluation.json").read_text(encoding="utf-8"))
    return {row["name"].removeprefix("local/").split("@")[0].removesuffix("-policy"): row for row in rows}


def value(run: dict[str, Any], metric: str) -> float:
    """A metric's mean, or a share."""
    found = run[metric] if metric in ("matched", "cut") else run["means"][metric]
    return float(found)


def best_run(choice: list[Runs], stem: str) -> str:
    """The learning rate with the lowest average rank over the seeds."""
    names = [name for name in choice[0] if name == stem or name.startswith(f"{stem}-")]
    return min(names, key=lambda name: statistics.mean(runs[name]["average_rank"] for runs in choice))


def ranks(values: list[float]) -> list[float]:
    """1 for the largest, ties share the mean rank."""
    return [1 + sum(v > own for v in values) + (values.count(own) - 1) / 2 for own in values]


def main() -> None:
    """Read, choose, print."""
    folder, seeds = Path(sys.argv[1]), sys.argv[2:]
    choice = [read(folder, seed, "choice") for seed in seeds]
    test = [read(folder, seed, "test") for seed in seeds]
    chosen = {method: best_run(choice, stem) for method, stem in METHODS.items()}
    means = {m: [statistics.mean(value(runs[name], m) for runs in test) for name in chosen.values()] for m in METRICS}
    placed = {m: ranks(values) for m, values in means.items()}
    print("| method | rate | " + " | ".join((*METRICS, "avg. rank", *OTHERS)) + " |")
    print("|" + "---|" * (3 + len(METRICS) + len(OTHERS)))
    record = []
    for index, (method, name) in enumerate(chosen.items()):
        cells = {m: [value(runs[name], m) for runs in test] for m in (*METRICS, *OTHERS)}
        average = statistics.mean(placed[m][index] for m in METRICS)
        shown = [f"{spread(cells[m], 1 if m in ('L', 'E') else 3)} ({placed[m][index]:g})" for m in METRICS]
        rate = name.removeprefix(METHODS[method]).strip("-") or "–"
        print(
            f"| {method} | {rate} | {' | '.join((*shown, f'{average:.1f}', *(spread(cells[m], 3) for m in OTHERS)))} |"
        )
        record.append({"method": method, "rate": rate, "average_rank": average, "values": cells})
    print(json.dumps({"seeds": seeds, "methods": record}))


def spread(values: list[float], digits: int) -> str:
    """Mean ± standard deviation over the seeds."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.{digits}f} ± {deviation:.{digits}f}"


if __name__ == "__main__":
    main()
