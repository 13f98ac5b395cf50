"""Where shards end: by number, or where the rows' own ids say so."""

import pytest

from builders.core.draws import query_id
from builders.core.stage import content_shards, row_shards


def ids(count: int, text: str = "query") -> list[str]:
    return [query_id(f"{text} {number}") for number in range(count)]


def parts(found: list[str], default: int) -> list[list[str]]:
    return [found[start : start + size] for start, size in (s.spec for s in content_shards(found, None, default))]


def test_every_row_is_in_one_shard_of_bounded_size() -> None:
    found = ids(5_000)
    cut = parts(found, 100)
    assert [identity for part in cut for identity in part] == found
    assert all(25 <= len(part) <= 200 for part in cut[:-1]) and 40 <= len(cut) <= 65
    assert [shard.index for shard in content_shards(found, None, 100)] == list(range(len(cut)))


@pytest.mark.parametrize("place", [0, 1, 2_500, 4_999, 5_000])
def test_inserted_and_removed_rows_move_the_ends_near_them_alone(place: int) -> None:
    before = ids(5_000)
    more = ids(120, "inserted")
    after = before[:place] + more + before[place:]
    old, new = ({tuple(part) for part in parts(rows, 100)} for rows in (before, after))
    assert len(new - old) <= 6 and len(old - new) <= 4


def test_a_given_size_and_a_small_dataset_are_cut_by_number() -> None:
    assert content_shards(ids(10), 3, 100) == row_shards(10, 3, 100)
    assert content_shards(ids(100), None, 100) == row_shards(100, None, 100)
    assert content_shards([], None, 100) == []
    assert len(content_shards(ids(4_000), None, 1)) <= 4_000
