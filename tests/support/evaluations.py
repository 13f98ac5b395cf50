"""Evaluations with known means, for the tests of table and figure."""

from typing import Any
from zlib import crc32

import numpy as np

from training.grace_kto.evaluation import COLUMNS, Evaluation

QUERIES = 100


def evaluation(
    name: str = "p", *, matched: float = 1.0, cut: float = 0.0, deviation: float = 0.0, **means: float | None
) -> Evaluation:
    """An evaluation of 100 queries, one answer each; metrics not given are 1.

    Args:
        name: the policy's name; it decides the draws around the means.
        matched: share of matched answers, those of the first queries.
        cut: share of cut answers.
        deviation: standard deviation of every metric over the answers, whose mean is exactly the given one.
        means: by metric; None for one without any value.
    """
    answers = round(QUERIES * matched)
    rng = np.random.default_rng(crc32(name.encode()))
    columns = {}
    values: dict[str, Any] = dict.fromkeys(COLUMNS, 1.0) | means
    for label, mean in values.items():
        column = np.full((QUERIES, 1), np.nan)
        if mean is not None and answers:
            noise = rng.normal(0, 1, (answers, 1))
            noise = (noise - noise.mean()) / noise.std() if answers > 1 else 0 * noise
            column[:answers] = mean + deviation * noise
        columns[label] = column
    for label, share in (("matched", matched), ("cut", cut)):
        columns[label] = (np.arange(QUERIES) < round(QUERIES * share)).astype(np.float64)[:, None]
    return Evaluation(name, f"{name}@rev", columns)
