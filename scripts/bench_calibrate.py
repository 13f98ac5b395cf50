"""Time the calibration of 1,000,000 groups of 8 rows in one process, beside a plain numpy/scipy loop over the groups.

Random scores are written as Parquet shards and calibrated as the stage does it: a first pass for the totals, a second
pass shard by shard. The plain loop is timed on a part of the same groups and scaled up. Prints a table and one line of
JSON, such as:

    {"groups": 1000000, "rows": 8000000, "seconds_with_parquet": …, "ratio": …, "largest_difference": …}

    python scripts/bench_calibrate.py --groups 1000000
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
from scipy.stats import rankdata

from builders.grace_kto.calibrate import add_rewards, add_weights
from builders.grace_kto.columns import RANKED
from builders.grace_kto.pieces import pieces_of, read_piece
from builders.grace_kto.rows import CHECKED, RANKING, ResponseIds, broken_rules, rules
from builders.grace_kto.settings import RankCoefficients
from scorers.weighting import Totals, totals_of


def write_shards(folder: Path, groups: int, rows: int, shard_groups: int) -> list[Path]:
    """Write random metrics as Parquet shards, 10 % of the rows unmatched.

    Args:
        folder: folder to write into.
        groups: number of groups in all.
        rows: rows per group.
        shard_groups: groups per shard.

    Returns:
        The paths of the shards, in order.
    """
    rng = np.random.default_rng(0)
    paths = []
    for start in range(0, groups, shard_groups):
        count = min(shard_groups, groups - start)
        ids = np.repeat(np.arange(start, start + count), rows)
        unmatched = rng.random(count * rows) < 0.1
        # Rounded, so that groups have ties, as lengths have in real scores.
        frame = pl.DataFrame({"query_id": ids, **{m: rng.standard_normal(count * rows).round(2) for m in RANKED}})
        frame = frame.with_columns(pl.format("{}", pl.col("query_id").cast(pl.String).str.zfill(16)).alias("query_id"))
        frame = frame.with_columns(pl.col("length") * 100)  # a whole number of tokens
        frame = frame.with_columns(
            pl.when(pl.Series(unmatched)).then(None).otherwise(pl.col(m)).alias(m) for m in RANKED
        ).with_columns(
            response_id=pl.format("{}-{}", "query_id", pl.int_range(pl.len()) % rows),
            round=pl.lit(1),
            matched=~pl.Series(unmatched),
        )
        frame = frame.select(CHECKED.names()).cast(CHECKED)
        path = folder / f"scores-{start:08d}.parquet"
        frame.write_parquet(path)
        paths.append(path)
    return paths


def calibrate(paths: list[Path], out: Path) -> tuple[float, float, float]:
    """Run both passes with Parquet in and out, as the stage does.

    Args:
        paths: shards of scores.
        out: folder to write the weights into.

    Returns:
        The seconds spent on calibration itself and on checking the rows, without reading and writing, and the sums of
        the positive and of the negative weights.
    """
    coefficients = RankCoefficients()
    clock = time.perf_counter
    totals = Totals()
    computing = 0.0
    # First pass: the rules that rows keep, and the number and sum of the rewards by polarity, which normalise the
    # weights (eq. 8–9).
    pieces = pieces_of(paths, CHECKED, out / "pieces")
    wanted, ids = rules(), ResponseIds()
    for piece in pieces:
        scores = read_piece(piece, CHECKED)
        began = clock()
        if broken := broken_rules(scores, wanted):
            raise RuntimeError(f"the rows break the rule on {broken[0].column}")
        ids.add(scores["response_id"])
        totals += totals_of(add_rewards(scores, coefficients)["reward"])
        computing += clock() - began
    began = clock()
    if (repeated := next(ids.repeated(paths), None)) is not None:
        raise RuntimeError(f"response_id {repeated[0]} stands twice")
    computing += clock() - began
    # Second pass: the weights. The rewards are computed again, so that no shard stays in memory.
    positive = negative = 0.0
    for piece in pieces:
        scores = read_piece(piece, RANKING)
        began = clock()
        frame = add_weights(add_rewards(scores, coefficients), totals)
        computing += clock() - began
        frame.write_parquet(out / Path(piece).name)
        scored = frame.filter(pl.col("reward").is_not_null())
        positive += scored.filter("label").select(pl.col("weight").sum()).item()
        negative += scored.filter(~pl.col("label")).select(pl.col("weight").sum()).item()
    return computing, positive, negative


def plain_loop(frame: pl.DataFrame) -> np.ndarray:
    """Calibrate the obvious way: for each group six scipy ranks, their sum and its z; then the global weights.

    Args:
        frame: scores of whole groups, the rows of a group next to each other.

    Returns:
        (N,) signed weights.
    """
    coefficients = RankCoefficients()
    metrics = {m: frame[m].to_numpy() for m in RANKED}
    ids = frame["query_id"].to_numpy()
    # Groups are runs of equal ids.
    starts = np.flatnonzero(np.r_[True, ids[1:] != ids[:-1]])
    z = np.full(len(ids), np.nan)  # NaN: unmatched
    for start, end in zip(starts, np.r_[starts[1:], len(ids)], strict=True):
        matched = np.flatnonzero(~np.isnan(metrics["length"][start:end])) + start
        if not len(matched):
            continue
        # Rank 1 is best: the largest value, except for the domain perplexity.
        rho = sum(
            getattr(coefficients, m) * rankdata(values[matched] if m == "ppl_domain" else -values[matched])
            for m, values in metrics.items()
        )
        z[matched] = (rho.mean() - rho) / rho.std() if np.ptp(rho) > 1e-9 else 0.0
    z[np.abs(z) < 1e-9] = 0.0
    weights = np.where(np.isnan(z), -1.0, 0.0)
    positive, negative = z >= 0, z < 0
    weights[positive] = z[positive] * positive.sum() / z[positive].sum()
    weights[negative] = -z[negative] * negative.sum() / z[negative].sum()
    return weights


def main() -> None:
    """Parse the command line, measure, print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--groups", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--shard-groups", type=int, default=25_000)
    parser.add_argument("--loop-groups", type=int, default=20_000, help="groups the plain loop is timed on")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "scores", Path(folder) / "weights"
        source.mkdir()
        out.mkdir()
        paths = write_shards(source, args.groups, args.rows, args.shard_groups)
        began = time.perf_counter()
        computing, positive, negative = calibrate(paths, out)
        seconds = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # ru_maxrss is in KiB on Linux
        part = pl.read_parquet(paths[0]).head(args.loop_groups * args.rows)
        began = time.perf_counter()
        weights = plain_loop(part)
        loop = (time.perf_counter() - began) * args.groups * args.rows / part.height
    # The part has totals of its own, so its weights are computed afresh for the comparison.
    rewards = add_rewards(part, RankCoefficients())
    ours = add_weights(rewards, totals_of(rewards["reward"]))["weight"].to_numpy()
    figures = {
        "groups": args.groups,
        "rows": args.groups * args.rows,
        "seconds_with_parquet": round(seconds, 2),
        "seconds_calibrating": round(computing, 2),
        "peak_gib": round(peak, 2),
        "plain_loop_seconds": round(loop, 1),
        "ratio": round(loop / computing, 1),
        "ratio_with_parquet": round(loop / seconds, 1),
        "largest_difference": float(np.abs(ours - weights).max()),
        "sum_positive": round(positive, 3),
        "sum_negative": round(negative, 3),
    }
    for key, value in figures.items():
        print(f"{key:>22}  {value}")
    print(f"(the plain loop neither reads nor writes; timed on {part.height // args.rows} of the groups and scaled)")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
