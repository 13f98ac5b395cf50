"""Does it pay to select a writer's training data by a judge, and does a trained critic select as well as that judge?

On each generated world four writers are trained from the same model in the same number of steps: on all scored
responses, on a random half, on the half that the judge rates best and on the half that a critic rates best. The
critic has learned from the judge's ratings of other responses to other queries. All writers then answer the same
queries, which neither they nor the critic have seen, several times each, and the judge rates their answers.

Differences from the random half are paired by world, with 95 % intervals by Student's t. Prints the table and one line
of JSON, and writes `selection.md` and `selection.json`. A rerun goes on where it stopped.

    bash scripts/compare_selection.sh --worlds 0-7 --jobs 2
"""

import json
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from builders.store.revision import Revision
from scripts.paired_tables import Result, difference_table, differences, on_each_world, table, write_comparison
from scripts.runs import parser_of

MEAN = "mean score"
KEPT = "score of its data"
SHARED = "of the judge's half"
BASE = "random half"
#: By writer, the settings of its selection and the run whose ratings it selects by.
WRITERS = {
    "all": ("pool", ("select.share=1.0",)),
    BASE: ("pool", ("select.order=random",)),
    "judge's half": ("pool", ()),
    "critic's half": ("critic", ()),
}
SELECTION = ("select.best=1000", "select.share=0.5")
EXAM = ("request.requests=12", "respond.responses=4")
"""144 queries, each answered four times."""


def compared(store: Path, world: int) -> Result:
    """Train the critic and the writers of a world, and let the judge rate the writers' answers.

    Returns:
        By writer: the mean score of its answers, of all criteria (the mean over queries) and of each; the mean score
        that the judge gives its training data; and the share of it that is in the judge's half.
    """
    # Three runs of one world that have no query in common.
    exam = build(store, world, "exam", 2, "criteria", settings=EXAM)
    seen = store / "exam.jsonl"
    exam.scan().select("query").collect().write_ndjson(seen)
    pool = build(store, world, "pool", 0, "rate", settings=(f"refine.benchmarks=['{seen}']",))
    build(store, world, "lessons", 1, "critic", settings=(f"refine.benchmarks=['{seen}']",))
    by_critic = (
        "models.judge=local/lessons-critic-model",
        f"engines.judge={LOCAL}",
        "rate.temperature=0",
        "rate.max_new_tokens=64",
    )
    ratings = {
        "pool": pool,
        "critic": build(store, world, "critic", 0, "rate", "local/pool-responses", by_critic),
    }
    told = pool.scan().group_by("response_id").agg(judged=pl.col("score").mean()).collect()
    kept: dict[str, pl.DataFrame] = {}
    for writer, (rated, settings) in WRITERS.items():
        name = short(writer)
        data = build(store, world, name, 0, "select", str(ratings[rated].repo), (*SELECTION, *settings))
        kept[writer] = data.scan().select("response_id").collect().join(told, on="response_id")
        build(store, world, name, 0, "writer", f"local/{name}-sft")
    policies = json.dumps([f"local/{short(writer)}-writer" for writer in WRITERS])
    answered = (*EXAM, f"models.policies={policies}", f"engines.policy={LOCAL}", "respond.max_new_tokens=320")
    build(store, world, "exam", 2, "rate", settings=answered)
    best = set(kept["judge's half"]["response_id"])
    return {
        writer: scores
        | {
            KEPT: float(kept[writer]["judged"].mean()),  # type: ignore[arg-type]
            SHARED: sum(id_ in best for id_ in kept[writer]["response_id"]) / kept[writer].height,
        }
        for writer, scores in scores_of(store).items()
    }


LOCAL = "{kind: transformers, device: cpu, dtype: float32, batch_size: 256}"


def build(
    store: Path,
    world: int,
    name: str,
    part: int,
    stage: str,
    start: str | None = None,
    settings: Sequence[str] = (),
) -> Revision:
    """Build a stage of the preset tiny-writingbench under a name of its own, and return its revision.

    Args:
        store: the world's store.
        world: its seed.
        name: the run's.
        part: 0, 1 or 2: runs of different parts draw different queries.
        stage: the stage.
        start: a dataset that takes the place of the stages above it.
        settings: overrides of the preset.
    """
    from training import build as build_stage
    from training import load_config

    own = (f"name={name}", f"world.seed={world}", f"random_seed={3 * world + part}", "workers=1")
    return build_stage(load_config("tiny-writingbench", [*own, *settings], str(store)), stage, start=start)[-1].revision


def short(writer: str) -> str:
    """Return a writer's name as a run's."""
    return writer.replace("'s", "").replace(" ", "-")


def scores_of(store: Path) -> Result:
    """Return each writer's scores in the exam: over all criteria, as the mean over queries, and by criterion."""
    from builders.store.store import Store

    made = Store(store)
    ratings = made.find("local/exam-ratings", "main")
    responses = made.find("local/exam-responses", "main")
    if ratings is None or responses is None:
        raise RuntimeError("the exam has not been rated")
    rows = ratings.scan().join(responses.scan().select("response_id", "policy"), on="response_id").drop_nulls("score")
    by_policy = {str(key[0]): part for key, part in rows.collect().partition_by("policy", as_dict=True).items()}
    found = {}
    for writer in WRITERS:
        [own] = [part for policy, part in by_policy.items() if f"/{short(writer)}-writer@" in policy]
        by_criterion = own.group_by("criterion").agg(pl.col("score").mean()).sort("criterion").rows()
        mean = own.group_by("query_id").agg(pl.col("score").mean())["score"].mean()
        found[writer] = {MEAN: float(mean), **dict(by_criterion)}  # type: ignore[arg-type]
    return found


def main() -> None:
    """Compare on all worlds, and write table and JSON."""
    options = parser_of(__doc__, "0-7").parse_args()
    worlds = on_each_world("selection", compared, options)
    found = differences(worlds, BASE)
    notes = [
        f"{len(worlds)} worlds; scores from 1 to 10 of the judge, over 144 unseen queries with four answers each; mean "
        "± standard deviation over worlds. Differences are paired by world, with 95 % intervals by Student's t; bold "
        "where the interval does not hold 0. Made by `bash scripts/compare_selection.sh --worlds "
        f"{','.join(map(str, options.worlds))}`.",
    ]
    parts = (table(worlds, "writer"), difference_table(found, BASE, (KEPT, SHARED)), notes)
    write_comparison("selection", options, worlds, parts, differences=found)


if __name__ == "__main__":
    main()
