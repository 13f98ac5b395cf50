"""Differences between two methods: what counts, which way is better, and the table."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.differences import difference_table, differences
from training.intervals import Estimate

RAW = {
    "L": Estimate(19.83, 1.0, 17.9, 21.6, 0.001),
    "ppl": Estimate(-0.5, 0.1, -0.7, -0.3, 0.02),
    "E": Estimate(-0.71, 0.4, -1.5, 0.2, 0.1),
    "cut": Estimate(0.25, 0.1, 0.05, 0.4, 0.03),
    "judge": Estimate(None),
    "one": Estimate(1.0),
}
VALUES: dict[str, tuple[float | None, float | None, int]] = {
    "L": (51.2, 71.03, 64), "ppl": (9.5, 9.0, 64), "E": (97.1, 96.39, 60), "cut": (0.0, 0.25, 64),
    "judge": (None, 3.0, 0), "one": (1.0, 2.0, 5),
}  # fmt: skip


def test_what_counts_and_which_way() -> None:
    # Holm: 4 · 0.001, then 3 · 0.02, then no less than that for 2 · 0.03, and 0.1.
    found = differences(VALUES, RAW, {"E": Estimate(0.1, 0.4, -0.8, 1.0, 0.9)}, ["ppl", "cut"])
    assert [one.p for one in found] == [0.004, pytest.approx(0.06), pytest.approx(0.1), pytest.approx(0.06), None, None]
    assert [one.direction for one in found] == [1, 0, 0, 0, 0, 0]
    (alone,) = differences({"ppl": VALUES["ppl"]}, {"ppl": RAW["ppl"]}, {}, ["ppl"])
    assert alone.p == 0.02 and alone.direction == 1 and alone.verdict == "better"
    (alone,) = differences({"cut": VALUES["cut"]}, {"cut": RAW["cut"]}, {}, ["ppl", "cut"])
    assert alone.verdict == "worse"
    header, rows = difference_table(
        found, ("first", "last"), {"L": 1, "ppl": 2, "E": 1, "cut": 3, "judge": 1, "one": 0}
    )
    assert header == ["metric", "n", "first", "last", "verdict", "difference", "at equal length", "p"]
    assert rows == [
        ["L", "64", "51.2", "71.0", "better", "+19.8 (+17.9 … +21.6)", "–", "0.004"],
        ["ppl", "64", "9.50", "9.00", "not distinguishable", "-0.50 (-0.70 … -0.30)", "–", "0.060"],
        ["E", "60", "97.1", "96.4", "not distinguishable", "-0.7 (-1.5 … +0.2)", "+0.1 (-0.8 … +1.0)", "0.100"],
        ["cut", "64", "0.000", "0.250", "not distinguishable", "+0.250 (+0.050 … +0.400)", "–", "0.060"],
        ["judge", "0", "–", "3.0", "no value", "–", "–", "–"],
        ["one", "5", "1", "2", "too few queries", "+1", "–", "–"],
    ]


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(0.001, 1)), min_size=1, max_size=20))
def test_more_metrics_never_make_a_difference_out_of_none(found: list[tuple[float, float]]) -> None:
    raw = {str(place): Estimate(value, 1.0, value, value, p) for place, (value, p) in enumerate(found)}
    values: dict[str, tuple[float | None, float | None, int]] = {name: (0.0, one.value, 9) for name, one in raw.items()}
    together = differences(values, raw, {})
    for one in together:
        (alone,) = differences({one.metric: values[one.metric]}, {one.metric: raw[one.metric]}, {})
        assert one.direction in (0, alone.direction)
