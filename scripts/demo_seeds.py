"""The demo on several worlds: what the rounds change, and on how many worlds beyond the interval of the difference.

Every world has its own texts, models and draws; the settings are those of the preset tiny. The differences from the
first policy are paired by query, over 512 held-out queries, with 95 % intervals by bootstrap. With `--threads 1,2` each
world is run with one and with two threads, whose sums differ in the last bits. Prints a table and one line of JSON, and
writes `demo.md` and `demo.json`. A rerun goes on where it stopped.

    python scripts/demo_seeds.py --worlds 0-9 --threads 1,2 --jobs 2
"""

import json
import statistics
from collections.abc import Sequence
from typing import Any

from scripts.runs import QUERIES, Result, Run, made_by, parser_of, results, seeds_of, sign, value
from training.grace_kto.table import LOW_IS_BETTER, number

LEFT_OUT = ("P", "ppl_D")  # means of perplexities, of which the medians are shown


def rows_of(first: Sequence[Result], last: Sequence[Sequence[Result]]) -> list[dict[str, Any]]:
    """What the rounds change, by metric.

    Args:
        first: the first policies, one a world.
        last: by number of threads, the last policies of the same worlds.

    Returns:
        For each metric the means over all runs before and after, mean and deviation of the change, and, by number of
        threads, on how many worlds it got better and worse.
    """
    found = []
    for label in first[0]["test"]["estimates"]:
        if label in LEFT_OUT:
            continue
        before = [value(result, label) for result in first]
        after = [[value(result, label) for result in runs] for runs in last]
        changes = [b - a for runs in after for a, b in zip(before, runs, strict=True)]
        better = -1 if label in LOW_IS_BETTER else 1
        signs = [[sign(result, label) * better for result in runs] for runs in last]
        found.append(
            {
                "metric": label,
                "first": statistics.mean(before),
                "last": statistics.mean(value for runs in after for value in runs),
                "change": statistics.mean(changes),
                "deviation": statistics.stdev(changes) if len(changes) > 1 else 0.0,
                "better": [runs.count(1) for runs in signs],
                "worse": [runs.count(-1) for runs in signs],
            }
        )
    return found


def markdown(rows: Sequence[dict[str, Any]], worlds: int) -> list[str]:
    """The table."""
    lines = [f"| metric | first | last | change | better, of {worlds} | worse |", "|---|---|---|---|---|---|"]
    for row in rows:
        label = row["metric"]
        ends = (number(row["first"], label), number(row["last"], label))
        change = f"{row['change']:+.{1 if label in ('L', 'E') else 3}f} ± {number(row['deviation'], label)}"
        signs = ["; ".join(map(str, row[key])) for key in ("better", "worse")]
        lines.append(f"| {label} | {' | '.join(ends)} | {change} | {' | '.join(signs)} |")
    return lines


def main() -> None:
    """Run the demo on all worlds and write the table."""
    parser = parser_of(__doc__, "0-9")
    parser.add_argument("--threads", type=seeds_of, default="1", help="CPU threads of torch, such as 1,2")
    options = parser.parse_args()
    wanted = [Run(w, f"demo-{n}", (f"threads={n}",)) for n in options.threads for w in options.worlds]
    firsts = {world: Run(world, "sft") for world in options.worlds}
    found = results(options.results, options.folder, firsts.values(), options.jobs)
    for count in options.threads:
        own = [run for run in wanted if run.name == f"demo-{count}"]
        found |= results(options.results, options.folder, own, max(1, options.jobs // count))
    last = [[found[run] for run in wanted if run.name == f"demo-{count}"] for count in options.threads]
    rows = rows_of([found[firsts[world]] for world in options.worlds], last)
    threads = " and ".join(map(str, options.threads))
    note = (
        f"{len(options.worlds)} worlds, threads: {threads}, {QUERIES} held-out queries each; change: mean ± standard "
        "deviation over all runs; better and worse: on how many worlds the 95 % interval of the difference, paired by "
        "query, does not hold 0, for each number of threads. "
        + made_by("demo_seeds", options.worlds, f" --threads {','.join(map(str, options.threads))}")
    )
    text = "\n".join([*markdown(rows, len(options.worlds)), "", note, ""])
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "demo.md").write_text(text, encoding="utf-8")
    record = {"worlds": options.worlds, "threads": options.threads, "metrics": rows}
    (options.output / "demo.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(text)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
