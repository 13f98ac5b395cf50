"""WritingBench's means against a computation by hand, and what holds of any ratings."""

from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorers.rubric import mean_criterion_score, mean_query_score, overall_score, query_score

RATINGS = [
    {"Sections": [7], "Tone": [8, 6], "Length": [3]},
    {"Sections": [10], "Facts": []},
    {},
]
SCORES = st.lists(st.dictionaries(st.text(max_size=3), st.lists(st.integers(1, 10), max_size=3), max_size=4))


def test_by_hand() -> None:
    assert [query_score(ratings) for ratings in RATINGS] == [6.0, 10.0, None]
    # (7 + 8 + 6 + 3 + 10) / 5: every rating counts alike.
    assert overall_score(RATINGS) == pytest.approx(6.8)
    # (6 + 10) / 2: a query without a rating is left out.
    assert mean_query_score(RATINGS) == 8.0
    # Tone 7 and Length 3 of the first, Sections 10 of the second; Facts has no rating, and nobody rated Style.
    names = [["Tone", "Length"], ["Sections", "Facts", "Style"], ["Sections"]]
    assert mean_criterion_score(RATINGS, names) == pytest.approx(20 / 3)


def test_nothing_has_no_mean() -> None:
    assert overall_score([]) is None and mean_query_score([{}]) is None and mean_criterion_score([], []) is None


@given(SCORES)
def test_the_overall_mean_is_that_of_all_ratings_laid_side_by_side(queries: list[dict[str, list[int]]]) -> None:
    flat = [score for ratings in queries for scores in ratings.values() for score in scores]
    assert overall_score(queries) == (fmean(flat) if flat else None)


@given(SCORES)
def test_with_one_rating_of_equally_many_criteria_the_means_agree(queries: list[dict[str, list[int]]]) -> None:
    alike = [{"a": scores[:1], "b": scores[:1]} for ratings in queries for scores in ratings.values() if scores]
    assert overall_score(alike) == pytest.approx(mean_query_score(alike))
    assert mean_criterion_score(alike, [["a", "b"]] * len(alike)) == pytest.approx(mean_query_score(alike))
