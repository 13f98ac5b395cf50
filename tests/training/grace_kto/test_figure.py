"""The figure of an evaluation: a panel a metric in its own unit, with intervals and n."""

import math
import warnings
from pathlib import Path
from typing import Any

import evaluations
import numpy as np
import pytest

from training.grace_kto.evaluation import COLUMNS, Evaluation
from training.grace_kto.figure import caption, draw, figure_of, interval, rounds_of
from training.grace_kto.table import RANKED

OTHERS = ("matched", "cut", "P median", "ppl_D", "ppl_D median", "grammaticality")
CONSTANT: dict[str, float | None] = dict.fromkeys((*COLUMNS, "grammaticality"), 10.0)


def evaluation(name: str, *, matched: float = 0.8, deviation: float = 0.5, **means: float | None) -> Evaluation:
    """An evaluation of 100 queries with one measure of the generated world; metrics not given are 10."""
    values: dict[str, Any] = {**CONSTANT, **means}
    return evaluations.evaluation(name, matched=matched, deviation=deviation, **values)


def drawn(*evaluations: Evaluation) -> tuple[Any, dict[str, Any]]:
    """The figure, with every panel by its title."""
    figure = figure_of(evaluations)
    return figure, {axes.get_title().partition(",")[0]: axes for axes in figure.axes if axes.axison}


def test_a_panel_a_metric_in_its_own_unit() -> None:
    first, later = evaluation("first", L=50.0), evaluation("round 1", L=90.0, deviation=20.0)
    figure, panels = drawn(first, later)
    assert list(panels) == [*RANKED, *OTHERS]
    assert panels["L"].get_title() == "L, tokens" and panels["cut"].get_title() == "cut, share"
    assert panels["ppl_D median"].get_title() == "ppl_D median, perplexity"
    # The numbers themselves, which z-scores would have spread alike in every panel.
    values = [container.lines[0].get_ydata().tolist() for container in panels["L"].containers]
    assert values == [[first.value("L")], [later.value("L")]] and values[1][0] == pytest.approx(90)
    (low, high) = panels["L"].containers[1].lines[2][0].get_segments()[0][:, 1]
    # 80 answers with a deviation of 20; 2,000 resamples of them know the interval's ends to a twentieth.
    assert (low, high) == pytest.approx((90 - 1.96 * 20 / 80**0.5, 90 + 1.96 * 20 / 80**0.5), abs=0.7)
    assert [text.get_text() for text in panels["E"].get_xticklabels()] == ["first", "round 1"]
    assert figure.get_supxlabel().replace("\n", " ") == caption([evaluation("first"), evaluation("round 1")])
    # In black and white the markers tell the policies apart.
    assert [container.lines[0].get_marker() for container in panels["L"].containers] == ["o", "s"]


def test_the_rounds_of_a_training_are_joined_at_their_places() -> None:
    _, panels = drawn(evaluation("first", L=50.0), evaluation("round 1", L=None), evaluation("round 4", L=90.0))
    (line,) = (line for line in panels["L"].lines if len(line.get_xdata()) == 3)
    assert line.get_xdata().tolist() == [0, 1, 4]
    assert np.isnan(line.get_ydata()).tolist() == [False, True, False] and line.get_ydata()[2] == pytest.approx(90)
    assert panels["L"].get_xlabel() == "round (0: the first policy)"
    assert rounds_of(["round 2", "round 1", "first"]) is None and rounds_of(["round 1", "b", "round 3"]) is None


def test_both_formats_are_written_and_are_equal_for_equal_numbers(tmp_path: Path) -> None:
    written = [draw([evaluation("a"), evaluation("b")], tmp_path / name) for name in ("one", "two")]
    assert written == [("one.png", "one.svg"), ("two.png", "two.svg")]
    for ending, begins in (("png", b"\x89PNG"), ("svg", b"<?xml")):
        first, second = ((tmp_path / f"{name}.{ending}").read_bytes() for name in ("one", "two"))
        assert first == second and first.startswith(begins)


def test_what_has_no_value_or_no_interval() -> None:
    single = Evaluation("b", "b@rev", {label: np.ones((1, 1)) for label in (*CONSTANT, "matched", "cut")})
    _, panels = drawn(evaluation("a", P=None), single)
    assert [container.lines[0].get_xdata().tolist() for container in panels["P"].containers] == [[1]]
    assert panels["P"].containers[0].lines[2] == ()
    _, panels = drawn(evaluation("none", matched=0.0))
    assert not panels["L"].containers and len(panels["matched"].containers) == 1


def test_the_caption_says_how_many_answers_count() -> None:
    assert "of each policy (n = 80); matched and cut: share of all answers (n = 100)" in caption([evaluation("a")])
    assert "(n = 80 to 95)" in caption([evaluation("a"), evaluation("b", matched=0.95), evaluation("c", matched=0.9)])


def test_the_intervals() -> None:
    some = evaluation("a", deviation=5)
    assert interval(some, "L") == (some.estimates["L"].low, some.estimates["L"].high)
    # Wilson's interval of 80 in 100 and of 0 in 100, from the tables of Newcombe (1998) to three digits.
    assert interval(evaluation("a"), "matched") == pytest.approx((0.711, 0.867), abs=5e-4)
    low, high = interval(evaluation("a"), "cut") or (math.nan, math.nan)
    assert low == 0 and high == pytest.approx(0.037, abs=5e-4)


def test_names_in_chinese_have_no_boxes_and_many_policies_have_room() -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Glyph")
        figure, panels = drawn(evaluation("策略一"), evaluation("/some/folder/with/a/policy"))
        _, many = drawn(*(evaluation(f"policy {n}") for n in range(20)))
    labels = [text.get_text() for text in panels["L"].get_xticklabels()]
    # A font of the machine that has the characters, or else the policy's number and a line that says so.
    assert labels[0] == "策略一" or (
        labels[0] == "1" and "number is its place" in figure.get_supxlabel().replace("\n", " ")
    )
    assert labels[1].startswith("/some") and labels[1].endswith("/policy") and len(labels[1]) == 18
    assert 4 < len([text for text in many["L"].get_xticklabels() if text.get_text()]) <= 8
