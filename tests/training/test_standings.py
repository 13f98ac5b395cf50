"""Ranks, average ranks and changes: as the paper prints them, given its own numbers."""

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from training.standings import Column, average_ranks, ranks, relative_change, standings

METHODS = ("Baseline", "KTO", "GRACE (offline)", "GRACE (K=500)", "GRACE (K=250)")
# GRACE-KTO, tables 1, 2 and 4: a metric, its digits, and by method its value and its rank.
AUTOMATIC = {
    "L": (1, (3878.7, 4903.7, 5137.7, 5255.1, 5377.1), (5, 4, 3, 2, 1)),
    "E": (2, (86.58, 87.48, 88.27, 88.41, 90.01), (5, 4, 3, 2, 1)),
    "P": (3, (0.217, 0.213, 0.223, 0.224, 0.257), (4, 5, 3, 2, 1)),
    "R_s": (3, (1.983, 1.991, 1.998, 1.989, 2.002), (5, 3, 2, 4, 1)),
    "R_d": (3, (0.982, 0.987, 0.993, 0.996, 1.003), (5, 4, 3, 2, 1)),
}
JUDGED = {
    "CAR": (2, (80.27, 81.89, 82.73, 82.33, 83.22), (5, 4, 2, 3, 1)),
    "TF": (2, (82.90, 83.03, 83.02, 82.87, 83.68), (4, 2, 3, 5, 1)),
    "IDA": (2, (72.15, 72.91, 74.71, 74.91, 75.59), (5, 4, 3, 2, 1)),
    "SC": (2, (70.75, 69.08, 69.42, 69.94, 70.59), (1, 5, 4, 3, 2)),
    "PE": (2, (67.31, 68.22, 68.43, 69.64, 69.54), (5, 4, 3, 1, 2)),
}
PEOPLE = (82.02, 80.67, 74.04, 63.65, 67.02)
STEPS = ("Baseline (0%)", "GRACE (25%)", "GRACE (50%)", "GRACE (75%)", "GRACE (100%)")
TRAINING = {
    "L": (1, (3878.7, 4166.5, 4856.0, 4833.1, 5377.1), (5, 4, 2, 3, 1)),
    "E": (2, (86.58, 87.63, 87.86, 89.16, 90.01), (5, 4, 3, 2, 1)),
    "P": (3, (0.217, 0.250, 0.225, 0.254, 0.257), (5, 3, 4, 2, 1)),
    "R_s": (3, (1.983, 1.978, 1.987, 1.991, 2.002), (4, 5, 3, 2, 1)),
    "R_d": (3, (0.982, 0.988, 0.998, 0.991, 1.003), (5, 4, 2, 3, 1)),
}
Table = Mapping[str, tuple[int, Sequence[float], Sequence[int]]]


def columns(table: Table) -> list[Column]:
    return [Column(name, values, digits) for name, (digits, values, _) in table.items()]


@pytest.mark.parametrize(
    ("methods", "table", "average"),
    [
        (METHODS, AUTOMATIC, "4.8 4.0 2.8 2.4 1.0"),
        (METHODS, JUDGED, "4.0 3.8 3.0 2.8 1.4"),
        (STEPS, TRAINING, "4.8 4.0 2.8 2.4 1.0"),
    ],
    ids=["table 1", "table 2", "table 4"],
)
def test_the_papers_tables(methods: tuple[str, ...], table: Table, average: str) -> None:
    header, rows = standings(methods, columns(table))
    assert header == ["method", *table, "avg. rank"]
    for place, row in enumerate(rows):
        cells = [f"{values[place]:.{digits}f} ({rank[place]})" for digits, values, rank in table.values()]
        assert row == [methods[place], *cells, average.split()[place]]


def test_the_papers_changes() -> None:
    """The paper took them before it rounded: +18.2 % and +2.2 % are those of no numbers that the table prints."""
    _, rows = standings(METHODS, columns(AUTOMATIC), baseline=0)
    assert rows[-1] == ["GRACE (K=250) from Baseline", "+38.6 %", "+4.0 %", "+18.4 %", "+1.0 %", "+2.1 %", ""]
    printed = {"L": 38.6, "E": 4.0, "P": 18.2, "R_s": 1.0, "R_d": 2.2}
    for name, (digits, values, _) in AUTOMATIC.items():
        half = 0.5 * 10**-digits
        least, most = (relative_change(values[0] + sign * half, values[-1] - sign * half) for sign in (1, -1))
        assert least is not None and most is not None and least - 0.05 <= printed[name] <= most + 0.05


def test_answers_by_people_stand_outside_the_ranks() -> None:
    outside = [Column(c.name, (*c.values, own), c.digits) for c, own in zip(columns(JUDGED), PEOPLE, strict=True)]
    _, rows = standings((*METHODS, "Labeled Answer"), outside, baseline=0, unranked={5})
    assert rows[5] == ["Labeled Answer", "82.02", "80.67", "74.04", "63.65", "67.02", "–"]
    assert rows[:5] == standings(METHODS, columns(JUDGED))[1] and rows[6][0] == "GRACE (K=250) from Baseline"


def test_equal_and_missing_values() -> None:
    assert ranks(Column("a", (1.0, 1.0, 2.0, None))) == [2.5, 2.5, 1.0, 4.0]
    assert ranks(Column("a", (1.0, 1.0, 2.0, None), low=True)) == [1.5, 1.5, 3.0, 4.0]
    assert average_ranks([Column("a", (1.0, 2.0)), Column("b", (1.0, 2.0), low=True)]) == [1.5, 1.5]
    assert standings(["x"], [Column("a", (None,))])[1] == [["x", "–", "–"]]
    assert standings(["x", "y"], [Column("a", (None, 1.0))])[1] == [["x", "–", "2.0"], ["y", "1.000 (1)", "1.0"]]
    assert relative_change(2.0, 1.0) == -50.0 and relative_change(0.0, 1.0) is None
    assert relative_change(-2.0, -1.0) is None and relative_change(-2.0, 1.0) is None
    assert relative_change(None, 1.0) is None and relative_change(1.0, None) is None


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=8), st.booleans())
def test_ranks_are_scipys(values: list[float], low: bool) -> None:
    found = ranks(Column("a", values, low=low))
    assert found == rankdata([value if low else -value for value in values]).tolist()
    assert sum(found) == pytest.approx(len(values) * (len(values) + 1) / 2)
