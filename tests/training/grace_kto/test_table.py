"""The figure of an evaluation: a panel a metric in its own unit, with intervals and n."""

import math
import warnings
from pathlib import Path
from typing import Any

import pytest
from matplotlib import pyplot  # noqa: TID253

from training.grace_kto.evaluate import COLUMNS
from training.grace_kto.table import RANKED, Evaluation, caption, draw, interval

OTHERS = ("matched", "cut", "ppl_D", "grammaticality")


def evaluation(
    name: str, *, matched: float = 0.8, cut: float = 0.0, error: float | None = 0.5, **means: Any
) -> Evaluation:
    """An evaluation of 100 queries with one measure of the generated world; metrics not given are 10."""
    values: dict[str, float | None] = dict.fromkeys((*COLUMNS, "grammaticality"), 10.0) | means
    return Evaluation(name, f"{name}@rev", 100, matched, cut, values, dict.fromkeys(values, error))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Draws a figure and returns it, with every panel by its title."""
    monkeypatch.setattr(pyplot, "close", lambda figure: None)

    def show(*evaluations: Evaluation) -> tuple[Any, dict[str, Any]]:
        draw(evaluations, tmp_path / "figure.png")
        assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
        figure = pyplot.gcf()
        return figure, {axes.get_title().partition(",")[0]: axes for axes in figure.axes if axes.axison}

    return show


def test_a_panel_a_metric_in_its_own_unit(drawn: Any) -> None:
    figure, panels = drawn(evaluation("first", L=50.0), evaluation("round 1", L=90.0, error=2.0))
    assert list(panels) == [*RANKED, *OTHERS]
    assert panels["L"].get_title() == "L, tokens" and panels["cut"].get_title() == "cut, share"
    # The numbers themselves, which z-scores would have spread alike in every panel.
    assert [container.lines[0].get_ydata().tolist() for container in panels["L"].containers] == [[50.0], [90.0]]
    (low, high) = panels["L"].containers[1].lines[2][0].get_segments()[0][:, 1]
    assert (low, high) == pytest.approx((90 - 1.96 * 2, 90 + 1.96 * 2))
    assert [text.get_text() for text in panels["E"].get_xticklabels()] == ["first", "round 1"]
    assert figure.get_supxlabel() == caption([evaluation("first"), evaluation("round 1")])


def test_what_has_no_mean_or_no_interval(drawn: Any) -> None:
    _, panels = drawn(evaluation("a", P=None), evaluation("b", error=None))
    assert [container.lines[0].get_xdata().tolist() for container in panels["P"].containers] == [[1]]
    assert panels["P"].containers[0].lines[2] == ()
    nothing: dict[str, float | None] = dict.fromkeys(COLUMNS)
    _, panels = drawn(Evaluation("none", "x@rev", 100, 0.0, 1.0, dict(nothing), dict(nothing)))
    assert not panels["L"].containers and len(panels["matched"].containers) == 1


def test_the_caption_says_how_many_answers_count() -> None:
    assert "of each policy (n = 80); matched and cut: share of all answers (n = 100)" in caption([evaluation("a")])
    assert "(n = 80 to 95)" in caption([evaluation("a"), evaluation("b", matched=0.95), evaluation("c", matched=0.9)])


def test_the_intervals() -> None:
    found = interval(evaluation("a", error=0.5), "L")
    assert found == pytest.approx((10 - 0.98, 10 + 0.98))
    # Wilson's interval of 80 in 100 and of 0 in 100, from the tables of Newcombe (1998) to three digits.
    assert interval(evaluation("a"), "matched") == pytest.approx((0.711, 0.867), abs=5e-4)
    low, high = interval(evaluation("a"), "cut") or (math.nan, math.nan)
    assert low == 0 and high == pytest.approx(0.037, abs=5e-4)


def test_names_in_chinese_have_no_boxes_and_many_policies_have_room(drawn: Any) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Glyph")
        figure, panels = drawn(evaluation("策略一"), evaluation("/some/folder/with/a/policy"))
        drawn(*(evaluation(f"round {n}") for n in range(20)))
    labels = [text.get_text() for text in panels["L"].get_xticklabels()]
    # A font of the machine that has the characters, or else the policy's number and a line that says so.
    assert labels[0] == "策略一" or (labels[0] == "1" and "number is its place" in figure.get_supxlabel())
    assert labels[1].startswith("/some") and labels[1].endswith("/policy") and len(labels[1]) == 18
    assert len([text for text in pyplot.gcf().axes[0].get_xticklabels() if text.get_text()]) <= 8
