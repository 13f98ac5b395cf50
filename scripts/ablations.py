"""What the parts of GRACE-KTO do: one change at a time against the demo's settings, on generated worlds.

Every row is a run of the preset tiny, of half its rounds, with one setting changed; the differences from the unchanged
run are paired by world, with 95 % intervals by Student's t. Prints the table and one line of JSON, and writes
`ablations.md` and `ablations.json`. A rerun goes on where it stopped.

    python scripts/ablations.py --worlds 0-4 --jobs 2
"""

import json

from scripts.compare_methods import OTHERS, RANKED, difference_table, differences, table
from scripts.runs import QUERIES, Run, made_by, parser_of, results

BASE = "unchanged"
ROUNDS = "loop.rounds=8"
#: By name, the settings that are changed.
CHANGES: dict[str, tuple[str, ...]] = {
    BASE: (),
    "KL matched": ("train.kl=matched",),
    "KL none": ("train.kl=none",),
    "reference initial": ("train.reference=initial",),
    "μ 0": ("train.mu=0.0",),
    "μ 0.1": ("train.mu=0.1",),
    "μ 0.5": ("train.mu=0.5",),
    "λ balanced": ("train.lambdas=balanced",),
    "coefficients 1": ("calibrate.coefficients={length: 1.0, diversity: 1.0}",),
    "top-p 1": ("sample.top_p=1.0",),
    "weights clipped": ("calibrate.form=clipped",),
    "weights √": ("calibrate.form=root",),
    "weights ±1": ("calibrate.binary=true",),
    "no global step": ("calibrate.form=local",),
    **{
        f"without {name}": (f"calibrate.coefficients.{name}=0.0",)
        for name in (
            "length",
            "diversity",
            "professionalism",
            "relevance_document",
            "relevance_summary",
            "ppl_domain",
        )
    },
}


def main() -> None:
    """Run all changes on all worlds and write the table."""
    options = parser_of(__doc__, "0-4").parse_args()
    runs = {
        name: [Run(world, f"ablation {name}", (ROUNDS, *settings)) for world in options.worlds]
        for name, settings in CHANGES.items()
    }
    found = results(options.results, options.folder, [run for own in runs.values() for run in own], options.jobs)
    methods = {name: [found[run] for run in own] for name, own in runs.items()}
    lines, ranks = table(methods)
    compared = differences(methods, ranks, BASE)
    note = (
        f"{len(options.worlds)} worlds, {QUERIES} held-out queries each; mean ± standard deviation over worlds, rank 1 "
        "is best among the rows. Differences are paired by world, with 95 % intervals by Student's t; bold where the "
        "interval does not hold 0. " + made_by("ablations", options.worlds)
    )
    text = "\n\n".join(("\n".join(lines), "\n".join(difference_table(compared, BASE)), note)) + "\n"
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "ablations.md").write_text(text, encoding="utf-8")
    record = {
        "worlds": options.worlds,
        "changes": CHANGES,
        "average_rank": ranks,
        "metrics": [*RANKED, *OTHERS],
        "differences": compared,
    }
    (options.output / "ablations.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(text)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
