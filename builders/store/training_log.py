"""The log of a training: what each optimizer step logged, kept in the revision of the model that it made.

`training_log.jsonl` has one line per step, of a policy also those of the rounds before, which its parent carried::

    {"step": 17, "round": 2, "loss": 0.512, "learning_rate": 0.00018, "grad_norm": 1.73, "kl": 0.041, …}

It holds no clock time, so a training that was interrupted leaves the same bytes as one that was not.
"""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from scorers.errors import UserError

STEP = "step"
ROUND = "round"
MEASURES = (
    "loss",
    "learning_rate",
    "grad_norm",
    "kl",
    "cross_entropy",
    "rewards/chosen",
    "rewards/rejected",
    "logps/chosen",
    "logps/rejected",
    "accuracy",
    "margin",
    "logp_margin",
)
"""What a step may have logged, by the names that the trainers use; a measure that a method does not have is left out.

loss, of the whole optimizer batch; learning_rate, the step's; grad_norm, before clipping; kl, the estimate of z_ref in
nats; cross_entropy, of the positive rows in nats per token; rewards/chosen and rewards/rejected, means over the
positive and the negative rows of β times the log-ratio to the reference, and logps/… of the log-probability in nats;
accuracy, the share of pairs that are ordered rightly, 0 to 1; margin, mean difference of the rewards of a pair;
logp_margin, mean difference of its log-probabilities in nats. A value that is not finite is null.
"""
SCHEMA = pl.Schema({STEP: pl.Int64(), ROUND: pl.Int64(), **{name: pl.Float64() for name in MEASURES}})


def log_rows(
    history: Iterable[Mapping[str, Any]], *, round: int | None = None, first_step: int = 0
) -> list[dict[str, Any]]:
    """Return the rows of a log from what a transformers trainer keeps in `state.log_history`.

    Args:
        history: the trainer's entries; those without a loss, such as the summary at the end, are no steps.
        round: the round that was trained; None for a training outside the rounds.
        first_step: optimizer steps of the rounds before.
    """
    rows = []
    for entry in history:
        if "loss" not in entry:
            continue
        row: dict[str, Any] = {STEP: first_step + int(entry[STEP])}
        if round is not None:
            row[ROUND] = round
        rows.append(row | {name: _finite(entry[name]) for name in MEASURES if name in entry})
    return rows


def _finite(value: Any) -> float | None:
    """Return a number as JSON has it: None for NaN and infinity."""
    number = float(value)
    return number if math.isfinite(number) else None


def log_text(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the content of a log, one line of JSON per row; columns that are null in a row are left out."""
    return "".join(json.dumps({n: v for n, v in row.items() if v is not None}) + "\n" for row in rows)


def read_log(path: Path) -> pl.DataFrame:
    """Read a log.

    Returns:
        The columns of `SCHEMA`, in the order of the steps; null where a step did not log a measure.

    Raises:
        UserError: the file is not readable as a log; it may be somebody else's.
    """
    try:
        content = path.read_bytes()
        found = pl.read_ndjson(content, schema=SCHEMA) if content.strip() else SCHEMA.to_frame()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(
            f"{path}: not readable as the log of a training: {' '.join(str(error).split())}; delete it, or fetch the "
            "model again"
        ) from None
    return found.drop_nulls(STEP).sort(STEP, maintain_order=True)


def earlier_rows(path: Path, round: int, first_step: int) -> list[dict[str, Any]]:
    """Return the rows that a round's log takes over from the policy that the round begins with.

    Args:
        path: that policy's log, which may be missing.
        round: the round that begins.
        first_step: optimizer steps done before it.

    Returns:
        The rows; none where the log does not end with the round before, at its last step.

    Raises:
        UserError: as `read_log`.
    """
    if round == 1 or not path.is_file():
        return []
    rows = read_log(path).to_dicts()
    ends = rows and (rows[-1][ROUND], rows[-1][STEP]) == (round - 1, first_step)
    return rows if ends else []
