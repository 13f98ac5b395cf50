"""The length score of LongBench-Write by hand, and what holds at any length."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorers.length_score import length_score


@pytest.mark.parametrize(
    ("words", "wanted", "score"),
    [
        (500, 500, 100.0),
        (1_000, 500, 100 * (1 - 1 / 3)),
        (1_250, 500, 50.0),
        (2_000, 500, 0.0),
        (9_000, 500, 0.0),
        (250, 500, 50.0),
        (200, 500, 25.0),
        (166, 500, 0.0),
        (0, 500, 0.0),
    ],
)
def test_by_hand(words: int, wanted: int, score: float) -> None:
    assert length_score(words, wanted) == pytest.approx(score)


@given(st.integers(0, 100_000), st.integers(1, 100_000))
def test_it_falls_with_the_distance(words: int, wanted: int) -> None:
    found = length_score(words, wanted)
    assert 0 <= found <= 100 and (found == 100) == (words == wanted)
    nearer = words + (1 if words < wanted else -1 if words > wanted else 0)
    assert length_score(nearer, wanted) >= found


@pytest.mark.parametrize(("words", "wanted"), [(-1, 5), (5, 0)])
def test_numbers_out_of_range(words: int, wanted: int) -> None:
    with pytest.raises(ValueError, match="words of"):
        length_score(words, wanted)
