"""Where shards end: by number, or where the rows' own ids say so."""

from itertools import pairwise

import pytest

from builders.core import stage
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
    assert all(50 <= len(part) <= 300 for part in cut) and 40 <= len(cut) <= 60
    assert [shard.index for shard in content_shards(found, None, 100)] == list(range(len(cut)))


@pytest.mark.parametrize("place", [0, 1, 2_500, 4_999, 5_000])
def test_inserted_and_removed_rows_move_the_ends_near_them_alone(place: int) -> None:
    before = ids(5_000)
    more = ids(120, "inserted")
    after = before[:place] + more + before[place:]
    old, new = ({tuple(part) for part in parts(rows, 100)} for rows in (before, after))
    # The inserted rows are one shard or two long, and touch a shard before and one after them.
    assert len(new - old) <= 4 and len(old - new) <= 2


def test_rows_of_one_id_stay_together() -> None:
    found = [identity for identity in ids(500) for _ in range(8)]
    cut = parts(found, 100)
    assert 30 <= len(cut) <= 50
    assert all(before[-1] != after[0] for before, after in pairwise(cut))


def test_a_few_rows_more_do_not_move_the_ends_of_a_large_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "MANY_SHARDS", 20)
    before = ids(5_000)
    cut = parts(before, 100)
    assert (
        len(cut) <= 20
        and len({tuple(part) for part in parts([*before, *ids(50, "more")], 100)} - set(map(tuple, cut))) == 1
    )


def test_a_given_size_and_a_small_dataset_are_cut_by_number() -> None:
    assert content_shards(ids(10), 3, 100) == row_shards(10, 3, 100)
    assert content_shards(ids(100), None, 100) == row_shards(100, None, 100)
    assert content_shards([], None, 100) == []
    assert len(content_shards(ids(4_000), None, 1)) <= 4_000
