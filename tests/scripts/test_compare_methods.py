"""The comparison of methods: ranks, intervals over worlds, and the search for the best settings."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from scripts import compare_methods
from scripts.compare_methods import (
    RANKED,
    Setting,
    best,
    choose,
    counts,
    difference_table,
    differences,
    interval,
    ranks_of,
    table,
)
from scripts.demo_seeds import markdown, rows_of
from scripts.runs import Run, seeds_of, sign, value

METRICS = (*RANKED, *compare_methods.OTHERS)


def result(change: float = 0.0, error: float = 0.1, **values: float | None) -> dict[str, Any]:
    """A run's result: metrics not given are 1, and every change has an interval of two errors to both sides."""
    estimates = {label: values.get(label, 1.0) for label in METRICS}
    changes = {label: [change - 2 * error, change + 2 * error] for label in METRICS}
    part = {"queries": 4, "responses": 1, "estimates": estimates, "changes": changes}
    return {"seconds": 1.0, "test": part, "choice": part}


def test_ranks_of() -> None:
    rows = [dict.fromkeys(RANKED, 1.0), dict.fromkeys(RANKED, 2.0), dict.fromkeys(RANKED, 1.0) | {"L": math.nan}]
    # L: 2, 1, 3; each of the four others: 2.5, 1, 2.5.
    assert ranks_of(rows) == pytest.approx([(2 + 4 * 2.5) / 5, 1.0, (3 + 4 * 2.5) / 5])


def test_the_interval_is_students() -> None:
    values = [0.3, 0.1, 0.4, 0.2]
    mean, low, high = interval(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (mean, low, high) == pytest.approx((0.25, expected.low, expected.high))
    # By hand: deviation 0.12910, error 0.06455, t of 3 degrees 3.18245.
    assert high - mean == pytest.approx(0.20543, abs=1e-5)


def test_differences_are_paired_by_world() -> None:
    ours = [result(L=10.0), result(L=30.0), result(L=20.0)]
    base = [result(L=9.0), result(L=29.0), result(L=19.0)]
    methods = {"ours": ours, "base": base}
    lines, ranks = table(methods)
    # L: 1 against 2; the four others are equal, 1.5 each.
    assert ranks == {"ours": [1.4] * 3, "base": [1.6] * 3}
    assert lines[2].startswith("| ours | 20.0 ± 10.0 | 1.0 ± 0.0 | 1.00 ± 0.00 |")
    found = differences(methods, ranks, "base")
    assert list(found) == ["ours"] and found["ours"]["L"] == pytest.approx((1.0, 1.0, 1.0))
    assert found["ours"]["avg. rank"] == pytest.approx((-0.2, -0.2, -0.2))
    (row,) = difference_table(found, "base")[2:]
    assert row.startswith("| ours | **+1.0 (+1.0 … +1.0)** | +0.0 (+0.0 … +0.0) |")


def test_better_and_worse_than_the_first_policy() -> None:
    rose, fell, unclear = result(change=0.5), result(change=-0.5), result(change=0.1)
    assert [sign(found, "L") for found in (rose, fell, unclear)] == [1, -1, 0]
    (row,) = counts({"ours": [rose, rose, fell, unclear]})[2:]
    cells = dict(zip(METRICS, row.split(" | ")[1:], strict=True))
    assert cells["L"] == "2 / 1" and cells["duplicate_sentences"] == "1 / 2"  # fewer of them are better


def test_settings_and_their_neighbours() -> None:
    offline, semi = Setting("x", "kto", 1, rate=1), Setting("y", "kto", 8, rate=1)
    assert (offline.name, semi.name) == ("kto-1x256-0.0002", "kto-8x32-0.0002")
    assert [s.name for s in offline.neighbours()] == ["kto-1x256-0.0001", "kto-1x256-0.0004"]
    assert {s.name for s in semi.neighbours()} == {
        "kto-8x32-0.0001", "kto-8x32-0.0004", "kto-4x64-0.0002", "kto-16x16-0.0002"
    }  # fmt: skip
    most = Setting("x", "grace", 128, rate=-2)
    assert {s.rounds for s in most.neighbours()} == {64, 128} and most.learning_rate == "0.000025"
    assert "loop.rounds=128" in most.run(3).settings and "generate.queries=2" in most.run(3).settings


def test_the_choice_lies_at_no_edge(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With a known optimum, 8e-4 offline and 1e-4 with 16 rounds, the search ends there and has tried all around it."""
    asked: list[Run] = []

    def known(kept: Path, folder: Path, runs: Iterable[Run], jobs: int) -> dict[Run, dict[str, Any]]:
        found = {}
        for run in runs:
            asked.append(run)
            _, shape, rate = run.name.split("-", 2)
            rounds = int(shape.partition("x")[0])
            aim = 8e-4 if rounds == 1 else 1e-4
            distance = abs(math.log2(float(rate) / aim)) + (0 if rounds == 1 else abs(math.log2(rounds / 16)))
            found[run] = result(**dict.fromkeys(RANKED, -distance))
        return found

    monkeypatch.setattr(compare_methods, "results", known)
    chosen, tried = choose(tmp_path / "runs.jsonl", tmp_path, [0, 1], 1)
    assert [setting.name for setting in chosen] == [
        "kto-1x256-0.0008", "kto-16x16-0.0001", "grace-1x256-0.0008", "grace-16x16-0.0001", "steady-16x16-0.0001"
    ]  # fmt: skip
    for setting in chosen:
        assert all(neighbour in tried for neighbour in setting.neighbours())
        assert best({s: rows for s, rows in tried.items() if s.method == setting.method}) == setting
    assert {run.world for run in asked} == {0, 1} and len(asked) == len(set(asked))


def test_the_table_of_the_demo() -> None:
    first = [result(), result()]
    one = [result(change=0.5, L=3.0), result(change=-0.5, L=2.0)]
    two = [result(change=0.5, L=3.0), result(change=0.5, L=4.0)]
    for row in (*first, *one, *two):
        row["test"]["estimates"]["P"] = 1.0
    rows = rows_of(first, [one, two])
    assert "P" not in {row["metric"] for row in rows}  # its median is shown
    (length,) = [row for row in rows if row["metric"] == "L"]
    # Changes 2, 1, 2 and 3: mean 2, deviation sqrt(2 / 3).
    assert length == {
        "metric": "L", "first": 1.0, "last": 3.0, "change": 2.0,
        "deviation": pytest.approx((2 / 3) ** 0.5), "better": [1, 2], "worse": [1, 0],
    }  # fmt: skip
    assert "| L | 1.0 | 3.0 | +2.0 ± 0.8 | 1; 2 | 1; 0 |" in markdown(rows, 2)
    assert "| L | 1.0 | 2.5 | +1.5 ± 0.7 | 1 | 1 |" in markdown(rows_of(first, [one]), 2)


def test_reading_seeds_and_values() -> None:
    assert seeds_of("0-2,5") == [0, 1, 2, 5]
    assert value(result(L=2.5), "L") == 2.5 and math.isnan(value(result(L=None), "L"))
