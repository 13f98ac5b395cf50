"""Diversity (eq. 2)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorers.diversity import diversity

TOKENS = st.lists(st.integers(min_value=0, max_value=5), max_size=60)


@pytest.mark.parametrize(
    ("ids", "n", "expected"),
    [
        ([1, 2, 3, 4, 5], 4, 100.0),  # 2 of 2
        ([1, 1, 1, 1, 1, 1], 4, 100 / 3),  # 1 of 3
        ([1, 2, 1, 2, 1, 2, 1], 4, 50.0),  # 1212 2121 1212 2121
        ([1, 2, 1, 2, 1], 2, 50.0),  # 12 21 12 21
        ([3, 3, 4], 1, 200 / 3),
        ([1, 2, 3, 4], 4, 100.0),
        ([1, 1, 1], 4, 100.0),  # no 4-gram
        ([], 4, 100.0),
        ([2**40, 7, 2**40, 7, 2**40], 2, 50.0),
    ],
)
def test_gold(ids: list[int], n: int, expected: float) -> None:
    assert diversity([ids], n) == [pytest.approx(expected, rel=1e-15)]


def test_default_is_4_grams_and_rows_stand_alone() -> None:
    rows = [[1, 1, 1, 1, 1, 1], [1, 2, 3, 4, 5], []]
    assert diversity(rows) == diversity(rows, 4) == [diversity([row])[0] for row in rows]


@pytest.mark.parametrize("n", [0, -1])
def test_n_below_1(n: int) -> None:
    with pytest.raises(ValueError, match="at least 1 token"):
        diversity([[1]], n)


@given(TOKENS, st.integers(min_value=1, max_value=6))
def test_range_and_equality_with_counting(ids: list[int], n: int) -> None:
    (value,) = diversity([ids], n)
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    assert 0 < value <= 100
    assert value == (100 * len(set(grams)) / len(grams) if grams else 100)


@given(TOKENS, st.permutations(range(6)), st.integers(min_value=1, max_value=5))
def test_renaming_tokens_or_reversing_changes_nothing(ids: list[int], names: list[int], n: int) -> None:
    value = diversity([ids], n)
    assert diversity([[names[token] for token in ids]], n) == value
    assert diversity([ids[::-1]], n) == value


@given(TOKENS.filter(bool), st.randoms(use_true_random=False))
def test_the_order_of_tokens_does_not_matter_for_single_tokens(ids: list[int], random: "object") -> None:
    shuffled = list(ids)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert diversity([shuffled], 1) == diversity([ids], 1)


WIDE = st.lists(st.sampled_from([-3, 0, 1, 2**16, 2**22, 2**31, 2**62]), max_size=30)


@given(st.lists(WIDE, max_size=5), st.integers(min_value=1, max_value=12))
def test_documents_and_ids_of_any_size_are_counted_exactly(rows: list[list[int]], n: int) -> None:
    """Ids far apart and long n-grams do not fit 64 bits side by side."""
    for ids, value in zip(rows, diversity(rows, n), strict=True):
        grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
        assert value == (100 * len(set(grams)) / len(grams) if grams else 100)


def test_n_grams_of_a_long_text_with_a_large_vocabulary() -> None:
    import numpy as np

    ids = np.random.default_rng(0).integers(0, 150_000, 24_000).tolist()
    ids[12_000:] = ids[:12_000]
    for n in (1, 4, 7):
        grams = {tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)}
        assert diversity([ids], n) == [100 * len(grams) / (len(ids) - n + 1)]
