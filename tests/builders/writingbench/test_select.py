"""Which responses a writer is trained on: by hand, and what holds of any scores."""

import math

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from builders.writingbench.select import choose
from builders.writingbench.settings import SelectSettings


def frame(*rows: tuple[str, str, str, float | None]) -> pl.DataFrame:
    """Rows of (query_id, response_id, subdomain, score)."""
    names = ("query_id", "response_id", "subdomain", "score")
    columns = {name: [row[k] for row in rows] for k, name in enumerate(names)}
    schema = {"query_id": pl.String, "response_id": pl.String, "subdomain": pl.String, "score": pl.Float64}
    return pl.DataFrame(columns, schema=schema).with_columns(domain=pl.lit("d")).with_row_index()


ROWS = frame(
    ("a", "a-0", "x", 7.0),
    ("a", "a-1", "x", 9.0),
    ("a", "a-2", "x", None),
    ("b", "b-0", "x", 6.0),
    ("b", "b-1", "x", 6.0),
    ("c", "c-0", "y", 8.0),
    ("d", "d-0", "y", 3.0),
)


def chosen(**settings: object) -> tuple[list[str], dict[str, int]]:
    found, counts = choose(ROWS, SelectSettings(**settings))  # type: ignore[arg-type]
    return found["response_id"].to_list(), counts


def test_by_hand() -> None:
    assert chosen(share=1.0) == (
        ["a-1", "c-0", "b-0", "d-0"],
        {"read": 7, "dropped.unscored": 1, "dropped.not among the best of its query": 2},
    )
    found, counts = chosen()
    assert found == ["a-1", "c-0"] and counts["dropped.below the top share"] == 2
    found, counts = chosen(best=2, floor=6.5, share=1.0)
    assert found == ["a-1", "c-0", "a-0"] and counts["dropped.below the floor"] == 3
    # Half of two and half of two: the best of each subdomain.
    assert chosen(within="subdomain")[0] == ["a-1", "c-0"]
    assert chosen(best=3, within="subdomain", share=0.3)[0] == ["a-1", "c-0", "a-0"]  # ⌈0.3 · 4⌉ and ⌈0.3 · 2⌉


def test_a_random_half_is_of_all_scores_and_the_same_in_any_company() -> None:
    rows = frame(*((f"{k:03}", f"{k:03}-0", "x", float(k)) for k in range(200)))
    settings = SelectSettings(order="random")
    found, counts = choose(rows, settings)
    assert found.height == 100 and counts == {"read": 200, "dropped.below the top share": 100}
    # The mean of 100 drawn of 0 … 199 lies within four standard errors of 99.5: 4 · 57.7 / √100 · √(100/199) < 17.
    assert abs(found["score"].mean() - 99.5) < 17  # type: ignore[operator]
    # Without half of the rows the others are drawn in the same order.
    few, _ = choose(rows.filter(pl.col("index") % 2 == 0), settings.model_copy(update={"share": 1.0}))
    both = [id_ for id_ in few["response_id"] if id_ in set(found["response_id"])]
    assert both == [id_ for id_ in found["response_id"] if id_ in set(few["response_id"])]


def test_nothing_is_chosen_of_nothing() -> None:
    found, counts = choose(ROWS.filter(pl.col("score").is_null()), SelectSettings())
    assert found.is_empty() and counts == {"read": 1, "dropped.unscored": 1}


@given(
    st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from("xy"), st.none() | st.integers(1, 10)), max_size=30),
    st.integers(1, 3),
    st.sampled_from([0.1, 0.5, 1.0]),
    st.sampled_from(["all", "subdomain"]),
)
def test_what_is_left_out_is_never_better(
    drawn: list[tuple[str, str, int | None]], best: int, share: float, within: str
) -> None:
    rows = frame(*((query, f"{query}-{k}", kind, score) for k, (query, kind, score) in enumerate(drawn)))
    found, counts = choose(rows, SelectSettings(best=best, share=share, within=within))  # type: ignore[arg-type]
    assert counts.get("read", 0) == len(drawn) == found.height + sum(counts.values()) - counts.get("read", 0)
    assert found["query_id"].value_counts()["count"].max() in (None, *range(1, best + 1))
    scored = rows.drop_nulls("score")
    for query in scored["query_id"].unique():
        own, kept = (f.filter(pl.col("query_id") == query)["score"] for f in (scored, found))
        if len(kept):
            assert sorted(kept, reverse=True) == sorted(own, reverse=True)[: len(kept)] or within == "subdomain"
    if within == "all" and scored.height:
        most = sum(min(best, count) for count in scored["query_id"].value_counts()["count"])
        assert found.height == math.ceil(share * most)
