"""Print the table of compare_methods.sh: mean ± standard deviation over seeds, each method at its best learning rate.

The best rate is the one with the lowest average rank on the queries set aside for the choice: ranked by L, E, P, R_s
and R_d among all runs of a seed, averaged over metrics and seeds. Prints Markdown and one line of JSON.

    python scripts/compare_methods.py FOLDER SEED...
"""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

METRICS = ("L", "E", "P", "R_s", "R_d")
OTHERS = ("matched", "cut", "ppl_D", "grammaticality", "duplicate_sentences", "on_topic", "heading_coverage")
# Name in the table, and the stem of the names of its runs: `kto-offline-2e-4` is one with its learning rate.
METHODS = {
    "SFT": "tiny-sft",
    "KTO (offline)": "kto-offline",
    "KTO (semi-online)": "kto-semi",
    "GRACE (offline)": "grace-offline",
    "GRACE (semi-online)": "grace-semi",
}

Runs = dict[str, dict[str, Any]]


def read(folder: Path, seed: str, part: str) -> Runs:
    """Read the evaluations of one seed.

    Args:
        folder: folder of the comparison.
        seed: the seed, as in the name of its folder.
        part: `choice` or `test`, the set of queries.

    Returns:
        Records of evaluation.json by the stem of the policy's name, without namespace, revision and suffix.
    """
    rows = json.loads((folder / f"seed-{seed}" / part / "evaluation.json").read_text(encoding="utf-8"))
    return {row["name"].removeprefix("local/").split("@")[0].removesuffix("-policy"): row for row in rows}


def value(run: dict[str, Any], metric: str) -> float:
    """A metric's mean, or a share."""
    found = run[metric] if metric in ("matched", "cut") else run["means"][metric]
    return float(found)


def best_run(choice: list[Runs], stem: str) -> str:
    """The run of a method with the lowest average rank over the seeds; its name tells the learning rate."""
    names = [name for name in choice[0] if name == stem or name.startswith(f"{stem}-")]
    return min(names, key=lambda name: statistics.mean(runs[name]["average_rank"] for runs in choice))


def ranks(values: list[float]) -> list[float]:
    """Rank values, 1 for the largest; ties share the mean rank."""
    return [1 + sum(v > own for v in values) + (values.count(own) - 1) / 2 for own in values]


def main() -> None:
    """Read the evaluations, choose the learning rates, print the table and the JSON line."""
    folder, seeds = Path(sys.argv[1]), sys.argv[2:]
    choice = [read(folder, seed, "choice") for seed in seeds]
    test = [read(folder, seed, "test") for seed in seeds]
    # The choice is made on other queries than the table, so that it does not favour a lucky rate.
    chosen = {method: best_run(choice, stem) for method, stem in METHODS.items()}
    means = {m: [statistics.mean(value(runs[name], m) for runs in test) for name in chosen.values()] for m in METRICS}
    # Ranks among the methods, by their means over the seeds.
    placed = {m: ranks(values) for m, values in means.items()}
    print("| method | rate | " + " | ".join((*METRICS, "avg. rank", *OTHERS)) + " |")
    print("|" + "---|" * (3 + len(METRICS) + len(OTHERS)))
    record = []
    for index, (method, name) in enumerate(chosen.items()):
        cells = {m: [value(runs[name], m) for runs in test] for m in (*METRICS, *OTHERS)}
        average = statistics.mean(placed[m][index] for m in METRICS)
        shown = [f"{spread(cells[m], 1 if m in ('L', 'E') else 3)} ({placed[m][index]:g})" for m in METRICS]
        # What follows the stem; SFT has one learning rate, which its name does not show.
        rate = name.removeprefix(METHODS[method]).strip("-") or "–"
        print(
            f"| {method} | {rate} | {' | '.join((*shown, f'{average:.1f}', *(spread(cells[m], 3) for m in OTHERS)))} |"
        )
        record.append({"method": method, "rate": rate, "average_rank": average, "values": cells})
    print(json.dumps({"seeds": seeds, "methods": record}))


def spread(values: list[float], digits: int) -> str:
    """Format mean ± sample standard deviation over the seeds."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.{digits}f} ± {deviation:.{digits}f}"


if __name__ == "__main__":
    main()
