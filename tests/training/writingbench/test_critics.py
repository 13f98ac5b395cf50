"""A critic beside the judge: its figures by hand, and what holds of a critic that is the judge or knows nothing."""

import polars as pl
import pytest
from scipy.stats import spearmanr

from training.writingbench.critics import agreement_of, ordered_pairs


def frame(*rows: tuple[str, str, str, int]) -> pl.DataFrame:
    names = ("query_id", "response_id", "criterion", "score")
    return pl.DataFrame(
        {name: [row[k] for row in rows] for k, name in enumerate(names)}, schema_overrides={"score": pl.Int32}
    )


ROWS = frame(
    ("q1", "q1-0", "tone", 9),
    ("q1", "q1-0", "form", 7),
    ("q1", "q1-1", "tone", 3),
    ("q1", "q1-1", "form", 5),
    ("q2", "q2-0", "tone", 6),
    ("q2", "q2-1", "tone", 6),
    ("q3", "q3-0", "tone", 2),
    ("q3", "q3-1", "tone", 10),
)


def test_by_hand() -> None:
    critic = [8, 4, 3, None, 6, 1, 4, 3]
    found = agreement_of("critic", critic, ROWS)
    assert (found.rows, found.read) == (8, 7 / 8)
    # Differences 1, 3, 0, –, 0, 5, 2, 7.
    assert found.within_one.value == pytest.approx(3 / 7) and found.error.value == pytest.approx(18 / 7)
    judge = [9, 7, 3, 6, 6, 2, 10]
    assert found.correlation == pytest.approx(spearmanr(judge, [8, 4, 3, 6, 1, 4, 3]).statistic)
    # Pairs: of q1 means 8 and 3 by the judge, 6 and 3 by the critic; of q2 equal by the judge; of q3 turned round.
    assert found.pairs.value == pytest.approx(1 / 2)
    # Of form one score is left.
    assert found.criteria["form"] is None and set(found.criteria) == {"form", "tone"}


def test_the_judge_itself_agrees() -> None:
    found = agreement_of("judge", ROWS["score"].to_list(), ROWS)
    assert found.read == found.within_one.value == found.pairs.value == 1.0 and found.error.value == 0.0
    assert found.correlation == pytest.approx(1.0) and found.kappa == pytest.approx(1.0)


def test_one_that_always_says_the_same_orders_nothing() -> None:
    found = agreement_of("same", [7] * ROWS.height, ROWS)
    assert (found.correlation, found.kappa, found.pairs.value) == (None, None, 0.0)


def test_nothing_that_could_be_read() -> None:
    found = agreement_of("mute", [None] * ROWS.height, ROWS)
    assert (found.read, found.within_one.value, found.pairs.value, found.correlation) == (0.0, None, None, None)


def test_pairs_that_the_judge_has_equal_do_not_count() -> None:
    rows = ROWS.with_columns(critic=pl.col("score"))
    assert ordered_pairs(rows)["query_id"].to_list() == ["q1", "q3"]
