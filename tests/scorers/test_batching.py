"""Batches by length."""

from hypothesis import given
from hypothesis import strategies as st

from scorers.batching import FEW_TOKENS, PADDING, by_length


def test_gold() -> None:
    assert list(by_length([1, 5, 2, 9], 6)) == [[3], [1], [2, 0]]
    assert list(by_length([4, 4, 4], 100, rows=2)) == [[0, 1], [2]]
    assert list(by_length([4, 4], 0)) == [[0], [1]]
    assert list(by_length([], 6)) == []
    assert list(by_length([1000, 900, 500, 480], 10_000)) == [[0, 1], [2, 3]]
    assert list(by_length([100, 10, 10, 10, 10, 10], 10_000)) == [[0, 1, 2, 3, 4], [5]]


@given(st.lists(st.integers(0, 900)), st.integers(0, 3000), st.none() | st.integers(1, 5))
def test_each_index_once_and_within_the_limits(lengths: list[int], tokens: int, rows: int | None) -> None:
    batches = list(by_length(lengths, tokens, rows))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    flat = [lengths[i] for batch in batches for i in batch]
    assert flat == sorted(lengths, reverse=True)
    for batch in batches:
        padded = max(lengths[i] for i in batch) * len(batch)
        assert len(batch) == 1 or padded <= tokens
        assert padded <= FEW_TOKENS or padded - sum(lengths[i] for i in batch) <= PADDING * padded
        assert rows is None or len(batch) <= rows
