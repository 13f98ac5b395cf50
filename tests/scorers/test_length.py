"""Length (eq. 1)."""

from hypothesis import given
from hypothesis import strategies as st

from scorers.length import lengths


def test_gold() -> None:
    assert lengths([[5, 6, 7], [], [9]]) == [3, 0, 1]
    assert lengths([]) == []


@given(st.lists(st.lists(st.integers(min_value=0))))
def test_sums_to_the_number_of_all_tokens(token_ids: list[list[int]]) -> None:
    assert sum(lengths(token_ids)) == len([token for ids in token_ids for token in ids])
