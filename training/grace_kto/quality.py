"""The quality of a round's data and training: what `grace loop` prints and keeps after it, and when it stops.

The loop feeds on itself: a policy that loses the tagged form, runs into the length limit or learns that length pays
makes worse data for the round after. So each round is looked at, and the loop stops where it should not go on::

    quality: matched 83%, cut 0%, effective sample 64% of rows, reward and length r +0.31, near-duplicates 0%,
    KL 0.0212, drift L +0.4, R_s +0.2

Kept as `.loop/<run>/round-001.json` in the store, with the lines about the held-out queries.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from builders.core.continued import continued
from builders.core.near_duplicates import near_duplicates, signatures_of
from builders.grace_kto.settings import GraceKTOSettings
from builders.grace_kto.stages import CALIBRATE
from builders.store.files import write_text
from builders.store.manifest import Manifest
from builders.store.ref import round_tag
from builders.store.revision import Revision
from builders.store.store import Store
from scorers.errors import UserError
from training.grace_kto.evaluation import COLUMNS

Quality = dict[str, float | None]
NEAR = 0.8  # share of common word 3-grams from which a query counts as a repetition, where generate sets none
DRIFT = 0.1  # standard deviations of the round before, below which a metric is not told
DRIFTING = "drift "  # begins the names of drifts


def quality_of(
    config: GraceKTOSettings, weights: Revision, policy: Manifest, before: Mapping[str, tuple[float, float]]
) -> Quality:
    """Return the numbers of one round.

    Args:
        config: the configuration.
        weights: the round's dataset of stage `calibrate`.
        policy: manifest of the policy that was trained on it.
        before: by symbol of a metric, mean and standard deviation in the round before; empty in the first one.

    Returns:
        `matched` and `cut`: shares of the responses. `effective sample`: (Σ|W|)² / (n ΣW²) of the signed weights, the
        share of rows that equal weights would need for the same variance (Kish). `reward and length`: Spearman's
        correlation over scored rows. `near-duplicates`: share of the round's queries that repeat another of them. `KL`:
        mean z_ref of the training, in nats. `drift …`: by metric, change of its mean since the round before, in
        standard deviations of that round. None where there is nothing to count.
    """
    rows = (
        weights.scan().select("query_id", "query", "matched", "finish_reason", "weight", "reward", "length").collect()
    )
    sizes = np.abs(rows["weight"].to_numpy())
    scored = rows.drop_nulls(["reward", "length"])
    correlation = scored.select(pl.corr("reward", "length", method="spearman")).item() if scored.height > 1 else None
    queries = rows.unique("query_id", maintain_order=True)["query"].drop_nulls().to_list()
    threshold = config.generate.near_duplicate_threshold or NEAR
    repeated = near_duplicates(signatures_of(queries), threshold).mean() if queries else None
    found: Quality = {
        "matched": _mean(rows["matched"]),
        "cut": _mean(rows["finish_reason"] == "length"),
        "effective sample": float(sizes.sum() ** 2 / (len(sizes) * (sizes**2).sum())) if sizes.any() else None,
        "reward and length": _finite(correlation),
        "near-duplicates": None if repeated is None else float(repeated),
        "KL": _finite(policy.results.get("kl")),
    }
    for symbol, (mean, deviation) in before.items():
        now = _metrics(weights).get(symbol)
        if now is not None and deviation > 0:
            found[f"{DRIFTING}{symbol}"] = (now[0] - mean) / deviation
    return found


def quality_line(found: Quality) -> str:
    """Say the numbers of a round in one line; of the drifts those of a tenth of a standard deviation and more."""
    shares = ("matched", "cut", "near-duplicates")
    told = {name: "–" if found[name] is None else f"{found[name]:.0%}" for name in shares}
    sample, r, kl = found["effective sample"], found["reward and length"], found["KL"]
    drifts = [
        f"{name.removeprefix(DRIFTING)} {value:+.1f}"
        for name, value in found.items()
        if name.startswith(DRIFTING) and value is not None and abs(value) >= DRIFT
    ]
    return (
        f"quality: matched {told['matched']}, cut {told['cut']}, "
        f"effective sample {'–' if sample is None else f'{sample:.0%} of rows'}, "
        f"reward and length r {'–' if r is None else f'{r:+.2f}'}, near-duplicates {told['near-duplicates']}, "
        f"KL {'–' if kl is None else f'{kl:.4f}'}" + (f", drift {', '.join(drifts)}" if drifts else "")
    )


def look_at(
    config: GraceKTOSettings, round_: int, made: Mapping[str, Revision], lines: Sequence[str]
) -> tuple[str | None, str | None]:
    """Measure a finished round and keep what was found.

    Args:
        config: the configuration.
        round_: the round.
        made: the round's revisions by stage.
        lines: what is told of the held-out queries.

    Returns:
        The line to print, None for a round whose data is not here; why the loop should stop, None where it need not.
    """
    weights, policy = made.get(CALIBRATE.name), made.get("policy")
    if weights is None or policy is None or policy.manifest is None:
        return None, None  # a policy that was pulled, or is of a run that this one continues
    store = Store(Path(config.store))
    earlier = None if round_ == 1 else _weights_of(config, store, round_ - 1)
    found = quality_of(config, weights, policy.manifest, {} if earlier is None else _metrics(earlier))
    record = {
        "round": round_,
        "weights": str(weights),
        "policy": str(policy),
        "quality": found,
        "held_out": list(lines),
    }
    path = store.root / ".loop" / config.local_namespace / config.name / f"{round_tag(round_)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return quality_line(found), alarm(config, round_, found, policy.manifest.results)


def alarm(config: GraceKTOSettings, round_: int, found: Quality, results: Mapping[str, float]) -> str | None:
    """Return why a loop should not go on after a round, with the way to go on; None where it may."""
    broken = next((name for name, value in results.items() if not math.isfinite(value)), None)
    if broken is not None:
        return (
            f"round {round_}: {broken} of the training is {results[broken]}; lower train.learning_rate and run the "
            "loop again"
        )
    matched, cut = found["matched"], found["cut"]
    if matched is not None and matched < config.loop.min_matched:
        return (
            f"round {round_}: {matched:.0%} of the responses have the tagged form, fewer than loop.min_matched "
            f"{config.loop.min_matched:.0%}, which leaves little to learn from; raise train.mu or lower "
            "train.learning_rate and run the loop again, or go on all the same: add --set loop.min_matched=0"
        )
    if cut is not None and cut > config.loop.max_cut:
        return (
            f"round {round_}: {cut:.0%} of the responses are cut at the length limit, more than loop.max_cut "
            f"{config.loop.max_cut:.0%}: length runs away; raise sample.max_new_tokens or train.mu and run the loop "
            "again, or go on all the same: add --set loop.max_cut=1"
        )
    return None


def require_no_alarm(reason: str | None) -> None:
    """Stop the loop where there is a reason to.

    Raises:
        UserError: that reason.
    """
    if reason is not None:
        raise UserError(reason)


def _weights_of(config: GraceKTOSettings, store: Store, round_: int) -> Revision | None:
    """Return a round's weights; None where they are not here."""
    from training.grace_kto.pipeline import GRACE_KTO

    return continued(GRACE_KTO, config, store, CALIBRATE.name, round_) or store.find(
        GRACE_KTO.repo(CALIBRATE, config), round_tag(round_), "dataset"
    )


def _metrics(weights: Revision) -> dict[str, tuple[float, float]]:
    """Return mean and standard deviation of each metric, by its symbol, as the manifest has them."""
    summaries = {} if weights.manifest is None else weights.manifest.metrics
    return {
        symbol: (summaries[name].mean, summaries[name].std) for symbol, name in COLUMNS.items() if name in summaries
    }


def _mean(values: pl.Series) -> float | None:
    """Return the share of true values; None of nothing."""
    return _finite(values.cast(pl.Float64).mean())


def _finite(value: object) -> float | None:
    """Return a number, None for what is none: a correlation of equal values is not defined."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
