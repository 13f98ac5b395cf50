"""The comparison of selections: its table, and differences paired by world."""

import pytest

from builders.settings.base import section_at
from scripts.compare_selection import (
    BASE,
    EXAM,
    KEPT,
    MEAN,
    SELECTION,
    SHARED,
    WRITERS,
    short,
)
from scripts.paired_tables import difference_table, differences, table
from training.pipelines import load_config

#: How much better than the random half a writer is, in each of three worlds.
BETTER = {
    "all": (-0.1, 0.0, 0.1),
    BASE: (0.0, 0.0, 0.0),
    "judge's half": (0.5, 0.6, 0.7),
    "critic's half": (0.3, 0.3, 0.3),
}
WORLDS = [
    {writer: {MEAN: 5.0 + world + BETTER[writer][world], "on topic": 4.0, KEPT: 7.0, SHARED: 0.5} for writer in WRITERS}
    for world in range(3)
]


def test_the_table() -> None:
    lines = table(WORLDS, "writer")
    assert lines[0] == f"| writer | {MEAN} | on topic | {KEPT} | {SHARED} |"
    assert lines[3] == f"| {BASE} | 6.00 ± 1.00 | 4.00 ± 0.00 | 7.00 ± 0.00 | 0.50 ± 0.00 |"


def test_differences_are_paired_by_world() -> None:
    found = differences(WORLDS, BASE)
    assert found.keys() == WRITERS.keys() - {BASE}
    # By hand: mean 0.6, deviation 0.1, error 0.057735, Student's t of 2 degrees 4.30265.
    mean, low, high = found["judge's half"][MEAN]
    assert (mean, low, high) == pytest.approx((0.6, 0.6 - 0.248414, 0.6 + 0.248414), abs=1e-5)
    lines = difference_table(found, BASE, (KEPT, SHARED))
    assert lines[0] == f"| less {BASE} | {MEAN} | on topic |"
    assert "| **+0.60 (+0.35 … +0.85)** |" in lines[3]
    assert "(-0.25 … +0.25)" in lines[2] and "**" not in lines[2]


def test_every_writers_settings_are_the_presets() -> None:
    for writer, (_, settings) in WRITERS.items():
        config = load_config("tiny-writingbench", [f"name={short(writer)}", *SELECTION, *settings, *EXAM])
        assert section_at(config, "select.best") == 1000
    assert len({short(writer) for writer in WRITERS}) == len(WRITERS)
