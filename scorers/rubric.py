"""Means of ratings as WritingBench publishes them: by criterion, query, domain, requirement, and overall.

A query's ratings are the scores of each of its criteria, several where a criterion was rated more than once::

    {"Sections": [7], "Register": [8, 6]}

The overall mean is micro: every rating counts alike. Domains and requirements take means of query scores, the column C
of a requirement the mean of criterion scores. What was not rated has no score: it is left out of every mean, never 0.
"""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

Ratings = Mapping[str, Sequence[float]]
"""Scores of one query's response by criterion, 1 to 10 each; a criterion without a score may have an empty list."""


def query_score(ratings: Ratings) -> float | None:
    """Mean of all ratings of all criteria of one query; None where there is none.

    >>> query_score({"Sections": [7], "Register": [8, 6]})
    7.0
    """
    return _mean(score for scores in ratings.values() for score in scores)


def overall_score(queries: Iterable[Ratings]) -> float | None:
    """Micro mean: the sum of all ratings of all queries over their number; None where there is none.

    >>> overall_score([{"Sections": [9], "Register": [9, 9]}, {"Sections": [5]}])
    8.0
    """
    return _mean(score for ratings in queries for scores in ratings.values() for score in scores)


def mean_query_score(queries: Iterable[Ratings]) -> float | None:
    """Mean of query scores: a domain's, a language's, and the column R of a requirement.

    >>> mean_query_score([{"Sections": [9], "Register": [9, 9]}, {"Sections": [5]}, {}])
    7.0
    """
    return _mean(score for ratings in queries if (score := query_score(ratings)) is not None)


def mean_criterion_score(queries: Iterable[Ratings], criteria: Iterable[Iterable[str]]) -> float | None:
    """Mean of criterion scores, each the mean of its own ratings: the column C of a requirement.

    Args:
        queries: the ratings of each query.
        criteria: for each query the names that count; one without a rating is left out.

    >>> mean_criterion_score([{"Length": [4, 6], "Tone": [1]}, {"Length": [8]}], [["Length"], ["Length", "Style"]])
    6.5
    """
    found = (_mean(ratings.get(name, ())) for ratings, names in zip(queries, criteria, strict=True) for name in names)
    return _mean(score for score in found if score is not None)


def _mean(scores: Iterable[float]) -> float | None:
    """Return a mean, None of nothing."""
    scores = list(scores)
    return fmean(scores) if scores else None
