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


def rows_of(first: Sequence[Result], last: Sequence[Result]) -> list[dict[str, Any]]:
    """By metric, the means over worlds before and after, the change, and on how many worlds it got better or worse."""
    found = []
    for label in first[0]["test"]["estimates"]:
        if label in LEFT_OUT:
            continue
        before, after = ([value(result, label) for result in runs] for runs in (first, last))
        signs = [sign(result, label) * (-1 if label in LOW_IS_BETTER else 1) for result in last]
        changes = [b - a for a, b in zip(before, after, strict=True)]
        found.append(
            {
                "metric": label,
                "first": statistics.mean(before),
                "last": statistics.mean(after),
                "change": statistics.mean(changes),
                "deviation": statistics.stdev(changes) if len(changes) > 1 else 0.0,
                "better": signs.count(1),
                "worse": signs.count(-1),
            }
        )
    return found


def markdown(rows: Sequence[dict[str, Any]], runs: int) -> list[str]:
    """The table."""
    lines = [f"| metric | first | last | change | better, of {runs} | worse |", "|---|---|---|---|---|---|"]
    for row in rows:
        label = row["metric"]
        ends = (number(row["first"], label), number(row["last"], label))
        change = f"{row['change']:+.{1 if label in ('L', 'E') else 3}f} ± {number(row['deviation'], label)}"
        lines.append(f"| {label} | {' | '.join(ends)} | {change} | {row['better']} | {row['worse']} |")
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
    rows = rows_of([found[firsts[run.world]] for run in wanted], [found[run] for run in wanted])
    threads = " and ".join(map(str, options.threads))
    note = (
        f"{len(options.worlds)} worlds, threads: {threads}, {QUERIES} held-out queries each; change: mean ± standard "
        "deviation over worlds; better and worse: on how many of them the 95 % interval of the difference, paired by "
        "query, does not hold 0. "
        + made_by("demo_seeds", options.worlds, f" --threads {','.join(map(str, options.threads))}")
    )
    text = "\n".join([*markdown(rows, len(wanted)), "", note, ""])
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "demo.md").write_text(text, encoding="utf-8")
    record = {"worlds": options.worlds, "threads": options.threads, "metrics": rows}
    (options.output / "demo.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(text)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
