"""A judge's rating of a response by one criterion (WritingBench, §3.2): a score from 1 to 10 and the reason for it.

    {"score": 7, "reason": "Both sections are there; the second one has a single sentence."}

What cannot be read without doubt is no rating: the response counts as unscored and never as 0.
"""

from typing import Any, NamedTuple

from scorers.replies import json_objects

LOWEST, HIGHEST = 1, 10


class Rating(NamedTuple):
    """What a judge says of a response by one criterion.

    Attributes:
        score: 1 (worst) to 10.
        reason: why; None where the judge gives none.
    """

    score: int
    reason: str | None


def read_rating(reply: str) -> Rating | None:
    """Return the rating in a judge's reply, None where it holds none or contradicting ones; never raises.

    A score is a whole number from 1 to 10, written as a number or as its digits. A reply may repeat its rating, or
    quote a response that holds one; only where all scores in it are the same does it count, with the first reason.

    Args:
        reply: the judge's text, without its thinking block.

    >>> read_rating('```json\\n{"score": 7, "reason": "Too short."}\\n```')
    Rating(score=7, reason='Too short.')
    >>> [read_rating('{"score": %s}' % score) for score in ("11", "7.5", '"8/10"', "null", "true")]
    [None, None, None, None, None]
    """
    said = [found for found in json_objects(reply) if "score" in found]
    scores = {whole_score(found["score"]) for found in said}
    if len(scores) != 1:
        return None
    (score,) = scores
    reasons = (reason.strip() for found in said if isinstance(reason := found.get("reason"), str))
    return None if score is None else Rating(score, next(filter(None, reasons), None))


def whole_score(value: Any) -> int | None:
    """Return a score as a whole number from 1 to 10; None for anything else, such as a share, a truth value or a list.

    >>> [whole_score(value) for value in (7, "7", 7.0, 7.5, "8/10", True, 11, None)]
    [7, 7, 7, None, None, None, None, None]
    """
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit() and len(value) < 8:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # In range first: an infinite number has no whole one.
    return int(value) if LOWEST <= value <= HIGHEST and value == int(value) else None
