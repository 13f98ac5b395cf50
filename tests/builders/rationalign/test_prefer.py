"""Which texts are kept by the reward of their best response, and how responses are dealt out to shards."""

import math
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.rationalign.prefer import EXTREMES, _whole_texts, top
from builders.rationalign.settings import PreferSettings
from builders.store.columns import frame_of

Texts = list[tuple[str, str, float]]
TEXTS: Texts = [("1", "a", 1.0), ("2", "b", 9.0), ("3", "a", 3.0), ("4", "a", 2.0), ("5", "b", 8.0), ("6", "a", 0.0)]


def rows(texts: Texts) -> pl.DataFrame:
    """Rows of (text_id, task, reward_chosen)."""
    found: list[dict[str, Any]] = [
        {"text_id": name, "task": task, "chosen_id": f"{name}-0", "rejected_id": f"{name}-1"}
        | {"reward_chosen": reward, "reward_rejected": -1.0}
        for name, task, reward in texts
    ]
    return frame_of(found, EXTREMES)


def kept(texts: Texts, **settings: Any) -> list[str]:
    found = top(rows(texts), PreferSettings(**settings))
    assert found.columns == [column.name for column in EXTREMES]
    return found["text_id"].to_list()


@pytest.mark.parametrize(
    ("share", "within", "expected"),
    [
        (0.5, "task", ["2", "3", "4"]),
        (0.5, "all", ["2", "3", "5"]),
        (0.2, "task", ["2", "3"]),  # ⌈0.2 · 4⌉ and ⌈0.2 · 2⌉
        (0.2, "all", ["2", "5"]),  # ⌈0.2 · 6⌉
        (0.51, "task", ["1", "2", "3", "4", "5"]),
        (1.0, "task", ["1", "2", "3", "4", "5", "6"]),
        (1.0, "all", ["1", "2", "3", "4", "5", "6"]),
    ],
)
def test_by_hand_in_the_order_of_the_rows(share: float, within: str, expected: list[str]) -> None:
    assert kept(TEXTS, share=share, within=within) == expected


@pytest.mark.parametrize("within", ["task", "all"])
def test_of_one_text_and_of_none(within: str) -> None:
    assert kept([("1", "a", -5.0)], share=0.01, within=within) == ["1"]
    assert kept([], share=0.5, within=within) == []


_texts = st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([-1.5, 0.0, 2.0])), max_size=30)


@given(_texts, st.sampled_from([0.1, 0.2, 0.5, 1.0]), st.sampled_from(["task", "all"]), st.randoms())
def test_ties_do_not_depend_on_the_order(drawn: list[tuple[str, float]], share: float, within: str, rng: Any) -> None:
    texts = [(str(k), task, reward) for k, (task, reward) in enumerate(drawn)]
    mixed = rng.sample(texts, len(texts))
    found = kept(texts, share=share, within=within)
    assert set(kept(mixed, share=share, within=within)) == set(found) and found == sorted(found, key=int)
    # Of each group as many as its share, and none that is left out has a higher reward.
    for group in ("a", "b") if within == "task" else ("ab",):
        inside = {name: reward for name, task, reward in texts if task in group}
        rewards = [inside[name] for name in found if name in inside]
        assert sorted(rewards, reverse=True) == sorted(inside.values(), reverse=True)[: len(rewards)]
        assert len(rewards) == math.ceil(round(share * len(inside), 9))


def test_ties_favour_no_place() -> None:
    """Of 200 texts with one reward those that are kept are neither the first nor the last ones."""
    found = kept([(str(k), "a", 1.0) for k in range(200)], share=0.5)
    first = sum(int(name) < 100 for name in found)
    # A hypergeometric draw of 100 from 200: its deviation is 3.5, and 18 is five of it.
    assert len(found) == 100 and abs(first - 50) < 18


@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.integers(1, 30))
def test_a_text_is_never_cut(lengths: list[int], size: int) -> None:
    ids = [f"{k:03}" for k, length in enumerate(lengths) for _ in range(length)]
    shards = _whole_texts(pl.Series("text_id", ids), size)
    assert [shard.index for shard in shards] == list(range(len(shards)))
    parts = [ids[start : start + number] for start, number in (shard.spec for shard in shards)]
    # One after the other, all rows; each text in one shard; none too small but the last, and none larger than it must.
    assert [name for part in parts for name in part] == ids
    assert sum(len(set(part)) for part in parts) == len(lengths)
    assert all(len(part) >= size for part in parts[:-1]) and parts[-1]
    assert all(len([name for name in part if name != part[-1]]) < size for part in parts)


def test_no_text_has_no_shard() -> None:
    """So that a dataset without responses is told as one that leaves no pair, and does not end in a fault."""
    assert sum(shard.spec[1] for shard in _whole_texts(pl.Series("text_id", [], pl.String), 3)) == 0
