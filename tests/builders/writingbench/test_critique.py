"""Which ratings a critic learns from: queries in one part alone, scores balanced in training, none in the test."""

from collections import Counter

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from builders.writingbench.critique import choose
from builders.writingbench.settings import CritiqueSettings


def frame(scores: list[tuple[str, int | None]]) -> pl.DataFrame:
    """Ratings of (query_id, score), each of a response of its own."""
    return pl.DataFrame(
        {
            "query_id": [query for query, _ in scores],
            "response_id": [f"{query}-{k}" for k, (query, _) in enumerate(scores)],
            "criterion": ["c"] * len(scores),
            "repeat": [0] * len(scores),
            "score": [score for _, score in scores],
        },
        schema_overrides={"score": pl.Int32, "repeat": pl.Int32},
    ).with_row_index()


def test_frequent_scores_lose_rows_in_training_alone() -> None:
    # Of training alone: 40 tens, 8 sevens, 4 threes; the median of (40, 8, 4) is 8.
    rows = frame([("q", 10)] * 40 + [("q", 7)] * 8 + [("q", 3)] * 4 + [("q", None)] * 5)
    found, counts = choose(rows, CritiqueSettings(test_share=0.0), 0)
    assert Counter(found["score"].to_list()) == {10: 8, 7: 8, 3: 4} and set(found["split"]) == {"train"}
    assert counts == {"read": 57, "dropped.unscored": 5, "dropped.too many of their score": 32}
    assert choose(rows, CritiqueSettings(test_share=0.0, balance=2.0), 0)[0].height == 16 + 8 + 4
    assert choose(rows, CritiqueSettings(test_share=0.0, balance=None), 0)[0].height == 52
    # Which of them stay is drawn, and the same for the same seed.
    other = choose(rows, CritiqueSettings(test_share=0.0), 1)[0]
    assert found.equals(choose(rows, CritiqueSettings(test_share=0.0), 0)[0]) and not found.equals(other)


def test_a_share_of_the_queries_is_kept_for_the_test() -> None:
    rows = frame([(f"q{k}", 5) for k in range(2_000)])
    found, _ = choose(rows, CritiqueSettings(test_share=0.25), 0)
    share = (found["split"] == "test").mean()
    assert isinstance(share, float) and abs(share - 0.25) < 4 * (0.25 * 0.75 / 2_000) ** 0.5


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.none() | st.integers(1, 10)), max_size=60), st.integers(0, 9))
def test_no_query_is_in_both_parts(scores: list[tuple[str, int | None]], seed: int) -> None:
    rows = frame(scores)
    found, counts = choose(rows, CritiqueSettings(test_share=0.4), seed)
    train, test = (set(found.filter(pl.col("split") == part)["query_id"]) for part in ("train", "test"))
    assert not train & test
    assert counts.get("read", 0) == len(scores) == found.height + sum(counts.values()) - counts.get("read", 0)
    # The test part keeps every rating of its queries.
    kept = rows.drop_nulls("score").filter(pl.col("query_id").is_in(list(test)))
    assert found.filter(pl.col("split") == "test").height == kept.height
