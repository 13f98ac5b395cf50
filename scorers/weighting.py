"""Global weight W and label of every response from its group reward z (GRACE-KTO, equations 8–10).

A response is positive where z ≥ 0 and negative where z < 0. Over all scored responses of a dataset,

    W = z · |Ω+| / Σ_{Ω+} z    (positive, eq. 8)        W = −z · |Ω−| / Σ_{Ω−} z    (negative, eq. 9)

so that the weights of the positive responses sum to their number and those of the negative ones to minus theirs. The
sums run over the whole dataset, which need not be in memory: add the `Totals` of its parts.
"""

from dataclasses import dataclass

import polars as pl

from scorers.forms import Form

CLIP = 2.0
"""Largest magnitude of a clipped weight: twice the mean of its polarity."""


@dataclass(frozen=True)
class Totals:
    """Sum of the rewards and number of rows of each polarity, over a dataset or a part of it (eq. 8–9)."""

    positive_sum: float = 0.0
    positive_rows: int = 0
    negative_sum: float = 0.0
    negative_rows: int = 0

    def __add__(self, other: "Totals") -> "Totals":
        return Totals(
            self.positive_sum + other.positive_sum,
            self.positive_rows + other.positive_rows,
            self.negative_sum + other.negative_sum,
            self.negative_rows + other.negative_rows,
        )


def totals_of(rewards: pl.Series, form: Form = "linear") -> Totals:
    """Return the totals of the rewards z (Float64) of one part; nulls, the unscored rows, stand outside.

    With the form `root` they are totals of √|z|, with the sign of z.

    >>> totals_of(pl.Series([1.5, 0.0, -0.5, None]))
    Totals(positive_sum=1.5, positive_rows=2, negative_sum=-0.5, negative_rows=1)
    """
    scored = _shaped(rewards.drop_nulls(), form)
    positive = scored.filter(scored >= 0)
    negative = scored.filter(scored < 0)
    return Totals(float(positive.sum()), len(positive), float(negative.sum()), len(negative))


def _shaped(rewards: pl.Series, form: Form) -> pl.Series:
    """Return what the weights are in proportion to."""
    return rewards.sign() * rewards.abs().sqrt() if form == "root" else rewards


def global_weights(
    rewards: pl.Series, totals: Totals | None = None, *, binary: bool = False, form: Form = "linear"
) -> pl.DataFrame:
    """Return the columns `weight` (W, Float64) and `label` (W ≥ 0, Boolean), one row for each reward (eq. 8–10).

    Args:
        rewards: z of each row, Float64 and finite; null where the row is unscored.
        totals: those of the whole dataset, of the same form, where `rewards` is a part of it; None takes those of
            `rewards`.
        binary: replace W by ±1 of the same label.
        form: how W follows from z.

    Where the rewards of a polarity sum to 0 its weights are 0. An unscored row gets W = −1 and label False.

    >>> global_weights(pl.Series([1.5, 0.0, -0.5, None]))["weight"].to_list()
    [2.0, 0.0, -1.0, -1.0]
    """
    total = totals_of(rewards, form) if totals is None else totals
    up = total.positive_rows / total.positive_sum if total.positive_sum else 0.0
    down = total.negative_rows / -total.negative_sum if total.negative_sum else 0.0
    if form == "local":
        up = down = 1.0
    z, limit = pl.col("z"), CLIP if form == "clipped" else float("inf")
    scaled = pl.when(z >= 0).then(z * up).otherwise(z * down).clip(-limit, limit)
    weight: pl.Expr = pl.when(z >= 0).then(1.0).otherwise(-1.0) if binary else scaled
    weight = pl.when(z.is_null()).then(-1.0).otherwise(weight)
    label = (z >= 0).fill_null(False)
    return pl.DataFrame({"z": _shaped(rewards, form)}).select(weight=weight, label=label)
