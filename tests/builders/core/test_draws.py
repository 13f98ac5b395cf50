"""Seeds from names, and the identity of a query."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from builders.core.draws import derive_seed, query_id

PARTS = st.lists(st.one_of(st.integers(-(2**70), 2**70), st.text(st.characters(exclude_categories=["Cs"]))), max_size=4)


def test_gold_values_never_change() -> None:
    # Published datasets hold these; a change would make every round anew.
    assert derive_seed(0, 1, "a") == int(hashlib.sha256(b"int:0\0int:1\0str:a").hexdigest()[:16], 16) >> 1
    assert query_id("Write A.") == hashlib.sha256(b"Write A.").hexdigest()[:16]
    assert query_id("写") == hashlib.sha256("写".encode()).hexdigest()[:16]


def test_every_part_counts_with_its_type_and_place() -> None:
    named: list[tuple[int | str, ...]] = [(), (0,), ("0",), (0, 0), (0, 1), (1, 0), ("0", 1), (0, "1")]
    named += [("01",), ("0", "1"), ("", "01")]
    seeds = {derive_seed(*parts) for parts in named}
    assert len(seeds) == 11


@given(PARTS)
def test_a_seed_is_a_63_bit_number_and_the_same_again(parts: list[int | str]) -> None:
    seed = derive_seed(*parts)
    assert 0 <= seed < 2**63
    assert seed == derive_seed(*parts)
