"""Measure the stage `calibrate` on rows with text, beside the same work as lazy polars and as SQL of DuckDB.

The stage checks every row, ranks, weighs, adds the messages, writes files whose unchanged pages the Hub keeps, and ends
with a revision in the store: manifest, digest, summaries, card. The others rank, weigh and add the messages, and write
one file with the same compression; they check nothing. Each arm runs in a process of its own, so that memory can be
told; arms alternate; all must come to the same weights. DuckDB counts where it is installed. What it does not show: a
disk that is slower than the processor, where all arms wait alike. Prints a table (seconds, CPU seconds over all cores,
peak memory; medians) and one line of JSON.

    python scripts/bench_calibrate_text.py --rows 200000
"""

import argparse
import json
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

import polars as pl

from builders.grace_kto.columns import RANKED
from builders.grace_kto.settings import RankCoefficients
from scripts.bench_scale import write_scores

NEAR = 1e-9  # rank sums within it of one another tie
PAPER = RankCoefficients()
Figures = dict[str, float]


def by_the_stage(source: Path, out: Path) -> list[Path]:
    """Build the stage from a scores dataset; return the files that it wrote."""
    from training.pipelines import build, load_config

    config = load_config("tiny", ["variant=paper"], str(out / "store"))
    return build(config, "calibrate", start=str(source))[-1].revision.data_files()


def by_polars(source: Path, out: Path) -> list[Path]:
    """The same as one lazy query of windows over `query_id`."""
    scored = pl.col("matched") & pl.all_horizontal(pl.col(name).is_not_null() for name in RANKED)
    ranks = {
        name: pl.when(scored).then(name).rank("average", descending=name != "ppl_domain").over("query_id")
        for name in RANKED
    }
    rho, z = pl.col("rank_sum"), pl.col("reward")
    positive = z >= 0
    messages = (("user", "query"), ("assistant", "response"))
    prompt, completion = (pl.concat_list(pl.struct(role=pl.lit(role), content=text)) for role, text in messages)
    spread = rho.std(ddof=0).over("query_id")
    weight = (
        pl.when(positive)
        .then(z * positive.sum() / z.filter(positive).sum())
        .otherwise(-z * (z < 0).sum() / z.filter(z < 0).sum())
    )
    rows = (
        pl.scan_parquet(source / "data" / "*.parquet")
        .with_columns(value.alias(f"rank_{name}") for name, value in ranks.items())
        .with_columns(rank_sum=sum(getattr(PAPER, name) * pl.col(f"rank_{name}") for name in RANKED))
        .with_columns(
            reward=pl.when(spread < NEAR).then(rho * 0).otherwise((rho.mean().over("query_id") - rho) / spread)
        )
        .with_columns(reward=pl.when(z.abs() < NEAR).then(0.0).otherwise(z))
        .with_columns(weight=weight.fill_null(-1.0), label=positive.fill_null(False))
        .with_columns(prompt=prompt, completion=completion)
    )
    rows.sink_parquet(out / "weights.parquet", compression="zstd")
    return [out / "weights.parquet"]


def by_duckdb(source: Path, out: Path) -> list[Path]:
    """The same as one statement of SQL."""
    import duckdb  # type: ignore[import-not-found]

    names = {name: f"case when scored then {name} end" for name in RANKED}
    order = {name: "asc" if name == "ppl_domain" else "desc" for name in RANKED}
    ranks = ",\n".join(
        f"case when scored then rank() over (partition by query_id, scored order by {value} {order[name]}) + "
        f"(count(*) over (partition by query_id, scored, {value}) - 1) / 2.0 end as rank_{name}"
        for name, value in names.items()
    )
    rho = " + ".join(f"{getattr(PAPER, name)} * rank_{name}" for name in RANKED)
    whole = " and ".join(f"{name} is not null" for name in RANKED)
    one = "[{{'role': '{}', 'content': {}}}]"
    duckdb.execute(f"""
        copy (
            with flagged as (select *, matched and {whole} as scored from '{source}/data/*.parquet'),
            ranked as (select *, {ranks} from flagged),
            summed as (select *, {rho} as rank_sum from ranked),
            spread as (
                select *, stddev_pop(rank_sum) over (partition by query_id) as deviation,
                    avg(rank_sum) over (partition by query_id) as mean from summed
            ),
            rewarded as (
                select * exclude (deviation, mean, scored),
                    case when rank_sum is null then null
                         when deviation < {NEAR} or abs((mean - rank_sum) / deviation) < {NEAR} then 0
                         else (mean - rank_sum) / deviation end as reward from spread
            )
            select *,
                case when reward >= 0 then reward * (count(*) filter (reward >= 0) over ())
                        / (sum(reward) filter (reward >= 0) over ())
                     when reward < 0 then -reward * (count(*) filter (reward < 0) over ())
                        / (sum(reward) filter (reward < 0) over ())
                     else -1.0 end as weight,
                coalesce(reward >= 0, false) as label,
                {one.format("user", "query")} as prompt, {one.format("assistant", "response")} as completion
            from rewarded
        ) to '{out}/weights.parquet' (format parquet, compression zstd)
    """)
    return [out / "weights.parquet"]


ARMS: dict[str, Callable[[Path, Path], list[Path]]] = {"stage calibrate": by_the_stage, "polars, lazy": by_polars}
if find_spec("duckdb") is not None:
    ARMS["DuckDB"] = by_duckdb


def timed(arm: str, source: Path, out: Path) -> tuple[Figures, list[Path]]:
    """Run an arm in this process.

    Returns:
        Seconds, CPU seconds and peak memory in GiB; and the files that it wrote.
    """
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    if arm == "stage calibrate":
        import training.pipelines  # noqa: F401  what is imported once is no part of the work
    began, cpu = time.perf_counter(), time.process_time()
    files = ARMS[arm](source, out)
    figures = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # ru_maxrss is in KiB on Linux
    return {**figures, "peak_gib": peak}, files


def apart(arm: str, source: Path, out: Path) -> tuple[Figures, list[Path]]:
    """Run `timed` in a new process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(timed, arm, source, out).result()


def weights_of(files: list[Path]) -> pl.DataFrame:
    """Return the weights by row, in an order of their own."""
    return pl.concat(pl.read_parquet(file, columns=["response_id", "weight"]) for file in files).sort("response_id")


def main() -> None:
    """Parse the command line, measure, print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000, help="of about 4 kB, eight to a group")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="a folder on a large disk (default: a temporary one)")
    options = parser.parse_args()
    runs: dict[str, list[Figures]] = {arm: [] for arm in ARMS}
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="bench-calibrate-text-") as name:
        source = Path(name) / "scores"
        write_scores(source, options.rows, split=False)
        for _ in range(options.rounds):
            found = {}
            for arm in ARMS:
                figures, files = apart(arm, source, Path(name) / "out")
                runs[arm].append(figures)
                found[arm] = weights_of(files)
            ours, *others = found.values()
            if any((ours["weight"] - other["weight"]).abs().max() > NEAR for other in others):  # type: ignore[operator]
                raise RuntimeError("the arms came to different weights")
    medians = {arm: {k: statistics.median(run[k] for run in own) for k in own[0]} for arm, own in runs.items()}
    base = medians["stage calibrate"]
    print(f"{'':18}{'seconds':>9}{'CPU s':>9}{'GiB':>7}{'seconds / ours':>16}{'CPU s / ours':>14}")
    for arm, got in medians.items():
        ratios = (got[key] / base[key] for key in ("seconds", "cpu_seconds"))
        print(f"{arm:18}{got['seconds']:>9.2f}{got['cpu_seconds']:>9.2f}{got['peak_gib']:>7.2f}", end="")
        print("".join(f"{ratio:>{width}.2f}" for ratio, width in zip(ratios, (16, 14), strict=True)), flush=True)
    print(json.dumps({"benchmark": "calibrate_text", "rows": options.rows, "runs": runs}))


if __name__ == "__main__":
    main()
