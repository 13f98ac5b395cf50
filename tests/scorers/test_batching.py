"""Batches by length."""

from hypothesis import given
from hypothesis import strategies as st

from scorers.batching import by_length


def test_gold() -> None:
    assert list(by_length([1, 5, 2, 9], 6)) == [[3], [1], [2, 0]]
    assert list(by_length([4, 4, 4], 100, rows=2)) == [[0, 1], [2]]
    assert list(by_length([4, 4], 0)) == [[0], [1]]
    assert list(by_length([], 6)) == []


@given(st.lists(st.integers(0, 50)), st.integers(0, 200), st.none() | st.integers(1, 5))
def test_each_index_once_and_within_the_limits(lengths: list[int], tokens: int, rows: int | None) -> None:
    batches = list(by_length(lengths, tokens, rows))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    flat = [lengths[i] for batch in batches for i in batch]
    assert flat == sorted(lengths, reverse=True)
    for batch in batches:
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= tokens
        assert rows is None or len(batch) <= rows
