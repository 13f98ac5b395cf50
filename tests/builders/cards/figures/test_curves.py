"""Learning curves: which numbers stand where, over all rounds."""

from typing import Any

import polars as pl
import pytest

from builders.cards.figures import curves
from builders.cards.figures.curves import POINTS, running_mean
from builders.store.training_log import SCHEMA


def log(steps: int, rounds: int = 1, **measures: Any) -> pl.DataFrame:
    rows = [
        {
            "step": step,
            "round": 1 + (step - 1) * rounds // steps,
            **{name: made(step) for name, made in measures.items()},
        }
        for step in range(1, steps + 1)
    ]
    return pl.DataFrame(
        [{name.replace("__", "/"): value for name, value in row.items()} for row in rows], schema=SCHEMA
    )


def learning_figure(logs: dict[str, pl.DataFrame]) -> Any:
    return curves.learning_figure(logs)


def margins_figure(logs: dict[str, pl.DataFrame]) -> Any:
    return curves.margins_figure(logs)


def panels_of(figure: Any) -> dict[str, Any]:
    return {axes.get_title(): axes for axes in figure.axes if axes.axison}


def test_curves_run_through_all_rounds_with_a_line_where_one_begins() -> None:
    whole = log(6, 3, loss=lambda step: 1 / step, learning_rate=lambda step: step * 1e-4)
    figure = learning_figure({"": whole})
    panels = panels_of(figure)
    assert list(panels) == ["loss", "learning rate"], "what no step logged has no panel"
    curve = panels["loss"].lines[0]
    assert curve.get_xdata().tolist() == [1, 2, 3, 4, 5, 6] and curve.get_ydata().tolist() == pytest.approx(
        [1 / n for n in range(1, 7)]
    )
    borders = [line.get_xdata() for line in panels["loss"].lines if line.get_linestyle() == ":"]
    assert borders == [[2.5, 2.5], [4.5, 4.5]]
    assert [text.get_text() for text in panels["loss"].texts] == ["1", "2", "3"]
    assert "over 3 rounds" in figure.get_supxlabel()


def test_one_round_has_no_borders() -> None:
    figure = learning_figure({"": log(3, loss=float)})
    assert [len(axes.lines) for axes in panels_of(figure).values()] == [1] and not figure.axes[0].texts


def test_margins_are_of_the_rewards_or_as_they_were_logged() -> None:
    whole = log(4, kl=lambda n: 0.1 * n, rewards__chosen=lambda n: n, rewards__rejected=lambda n: -2.0 * n)
    panels = panels_of(margins_figure({"": whole}))
    assert list(panels) == ["reward, β · log-ratio to the reference", "margin of rewards", "KL estimate z_ref, nats"]
    assert panels["margin of rewards"].lines[0].get_ydata().tolist() == [3, 6, 9, 12]
    rewards = [
        line for line in next(iter(panels.values())).lines if line.get_label() in ("positive rows", "negative rows")
    ]
    assert [line.get_ydata().tolist() for line in rewards] == [[1, 2, 3, 4], [-2, -4, -6, -8]]
    assert len({line.get_linestyle() for line in rewards}) == len({line.get_marker() for line in rewards}) == 2
    of_reward_model = panels_of(margins_figure({"": log(2, margin=float, accuracy=lambda n: 0.5)}))
    assert list(of_reward_model) == ["margin of rewards", "accuracy, share of pairs"]
    assert margins_figure({"": log(3, loss=float)}) is None and learning_figure({"": log(3)}) is None


def test_each_task_has_a_curve_under_its_name() -> None:
    figure = learning_figure({"gec": log(5, loss=float), "fluency": log(5, loss=lambda n: 2.0 * n)})
    axes = panels_of(figure)["loss"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["gec", "fluency"]
    assert [line.get_ydata()[-1] for line in axes.lines] == [5, 10]


def test_a_long_training_has_means_of_several_steps() -> None:
    figure = learning_figure({"": log(2 * POINTS + 1, loss=float)})
    steps = figure.axes[0].lines[0].get_xdata()
    assert len(steps) <= POINTS and steps[0] == 2.0  # of steps 1 to 3
    assert "grey: mean of 3 steps" in figure.get_supxlabel()


def test_one_step_is_a_point_and_nulls_are_left_out() -> None:
    figure = learning_figure({"": log(1, loss=float)})
    assert figure.axes[0].lines[0].get_marker() == "o"
    gaps = log(4, loss=lambda n: None if n == 2 else float(n))
    assert panels_of(learning_figure({"": gaps}))["loss"].lines[0].get_xdata().tolist() == [1, 3, 4]


def test_running_means() -> None:
    assert running_mean(pl.Series([1.0, 5.0])).to_list() == [1.0, 5.0]
    smooth = running_mean(pl.Series([float(n) for n in range(60)]))  # over three
    assert smooth[0] == 0.5 and smooth[10] == 10.0 and smooth[59] == 58.5
