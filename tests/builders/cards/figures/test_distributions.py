"""Figures of a dataset: what is drawn of which columns, by hand, and that no data break them."""

import math
import warnings
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.cards.figures.distributions import (
    by_policy_figure,
    metric_columns,
    metrics_figure,
    pairs_figure,
    ratings_figure,
    reward_by_length_figure,
    weights_figure,
)
from builders.cards.figures.drawing import png

WEIGHTS = pl.LazyFrame(
    {
        "query_id": ["a", "a", "a", "b", "b", "b"],
        "weight": [1.5, 0.5, -1.0, -2.0, 0.0, -1.0],
        "reward": [1.2, 0.4, -0.8, -1.6, 0.0, None],
        "label": [True, True, False, False, True, False],
        "length": [10, 20, 30, 40, 50, None],
    }
)


def drawn(draw: Any, rows: pl.LazyFrame) -> Any:
    """The figure, which there has to be."""
    figure = draw(rows)
    assert figure is not None
    return figure


def heights(axes: Any) -> dict[str, dict[float, float]]:
    """The histograms of a panel: by label, the left edge of each bin that has rows, and how many."""
    found = {}
    for patch in axes.patches:
        values, edges, baseline = patch.get_data()
        below = baseline if baseline is not None else [0.0] * len(values)
        found[patch.get_label()] = {
            round(float(edge), 9): float(top - bottom)
            for edge, top, bottom in zip(edges, values, below, strict=False)
            if not math.isnan(top) and top > bottom
        }
    return found


def test_weights_by_label_with_unscored_rows_apart() -> None:
    figure = drawn(weights_figure, WEIGHTS)
    (axes,) = figure.axes
    found = heights(axes)
    assert list(found) == ["positive (3)", "negative (2)", "not scored (1)"]
    assert found["positive (3)"] == {0.0: 1, 0.5: 1, 1.4: 1}
    assert all(edge >= 0 for edge in found["positive (3)"]) and all(edge < 0 for edge in found["negative (2)"])
    (place,) = found["not scored (1)"]
    assert place == pytest.approx(-1.0)
    assert len({patch.get_hatch() for patch in axes.patches}) == 3, "in black and white hatches tell the series apart"
    assert axes.get_xlabel() == "weight W" and axes.get_ylabel() == "rows"


def test_weights_of_somebody_elses_dataset_without_rewards() -> None:
    figure = drawn(weights_figure, WEIGHTS.select("weight", "label"))
    assert list(heights(figure.axes[0])) == ["positive (3)", "negative (3)"]


def test_rewards_against_lengths() -> None:
    figure = drawn(reward_by_length_figure, WEIGHTS)
    (axes,) = figure.axes
    points = {found.get_label(): found.get_offsets().tolist() for found in axes.collections}
    assert points == {"positive": [[10, 1.2], [20, 0.4], [50, 0.0]], "negative": [[30, -0.8], [40, -1.6]]}
    line = next(line for line in axes.lines if line.get_label().startswith("mean"))
    assert line.get_xdata().tolist() == [10, 20, 30, 40, 50]
    # Ranks 1 2 3 4 5 and 5 4 2 1 3: 1 − 6 · 34 / 120.
    assert axes.get_title() == "Spearman's rank correlation −0.70; all 5 rows"
    assert axes.get_xlabel() == "length, tokens"


def test_each_metric_in_its_own_panel_with_its_unit_and_median() -> None:
    rows = WEIGHTS.with_columns(
        rank_length=pl.lit(1.0), top_p=pl.lit(0.9), text=pl.lit("x"), diversity=pl.col("weight")
    )
    assert metric_columns(rows.collect_schema()) == ["length", "diversity"]
    figure = drawn(metrics_figure, rows)
    length, diversity = figure.axes
    assert (length.get_title(), diversity.get_title()) == ("length, tokens", "diversity, %")
    assert length.get_xlabel() == "n = 5"
    (median,) = (line for line in length.lines)
    assert median.get_xdata() == [30, 30]
    outlines = [patch for patch in length.patches if patch.get_label() in ("positive", "negative")]
    shares = {patch.get_label(): sum(patch.get_data().values) for patch in outlines}
    assert shares == pytest.approx({"positive": 100, "negative": 100})
    assert len({patch.get_linestyle() for patch in outlines}) == 2


def test_metrics_without_labels_are_counted() -> None:
    figure = drawn(metrics_figure, pl.LazyFrame({"score": [1.0, 2.0, 2.0, math.nan, None]}))
    assert heights(figure.axes[0])["rows"] == {1.0: 1, 1.95: 2}
    assert figure.axes[0].get_xlabel() == "n = 3"


def test_a_number_far_out_is_said() -> None:
    figure = drawn(metrics_figure, pl.LazyFrame({"ppl_general": [*(float(n % 7) for n in range(50)), 123456.0]}))
    assert figure.axes[0].get_xlabel() == "n = 51; max 123,456"


@pytest.mark.parametrize(
    ("better", "worse", "names"),
    [
        ("reward_chosen", "reward_rejected", ("chosen", "rejected")),
        ("metric_winner", "metric_loser", ("winner", "loser")),
    ],
)
def test_pairs(better: str, worse: str, names: tuple[str, str]) -> None:
    rows = pl.LazyFrame({better: [3.0, 2.0, 1.0, None], worse: [1.0, 2.0, 0.0, 4.0]})
    figure = drawn(pairs_figure, rows)
    left, right = figure.axes
    assert [text.get_text() for text in left.get_legend().get_texts()] == list(names)
    assert right.get_title().startswith(f"{names[0]} − {names[1]}")
    # Differences 2, 0 and 1; the pair without one of its numbers is none.
    assert sum(next(iter(heights(right).values())).values()) == 3 and figure.get_supxlabel() == "n = 3 pairs"


def ratings(criteria: list[str]) -> pl.LazyFrame:
    rows = [(f"q{query}", name, 4 + query % 3 + place) for query in range(6) for place, name in enumerate(criteria)]
    frame = pl.DataFrame(rows, schema=["query_id", "criterion", "score"], orient="row")
    unread = pl.DataFrame({"query_id": ["q0"], "criterion": [criteria[0]], "score": [None]}, schema=frame.schema)
    return pl.concat([frame, unread]).lazy()


def test_ratings_and_the_mean_of_each_criterion() -> None:
    figure = drawn(ratings_figure, ratings(["Depth", "Style"]))
    left, right = figure.axes
    assert next(iter(heights(left).values())) == {3.5: 2, 4.5: 4, 5.5: 4, 6.5: 2}
    assert left.get_xticks().tolist() == list(range(1, 11))
    assert "n = 12 ratings, 1 without a score; dashed: mean 5.50" in figure.get_supxlabel().replace("\n", " ")
    assert [text.get_text() for text in right.get_yticklabels()] == ["Depth", "Style"]
    means = [container.lines[0].get_xdata().tolist() for container in right.containers]
    assert means == [[5.0], [6.0]]


def test_many_criteria_have_no_means_and_chinese_ones_no_boxes() -> None:
    assert len(drawn(ratings_figure, ratings([f"c{n}" for n in range(9)])).axes) == 1
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Glyph")
        figure = drawn(ratings_figure, ratings(["论证的深度", "Style"]))
        png(figure)
    label = figure.axes[1].get_yticklabels()[1].get_text()
    assert label == "论证的深度" or (
        label == "2" and "a number stands for a name" in figure.get_supxlabel().replace("\n", " ")
    )


def test_metrics_by_policy() -> None:
    rows = pl.LazyFrame(
        {
            "query_id": ["a", "a", "b", "b"],
            "policy": ["p@1", "q@1"] * 2,
            "num_tokens": [10, 20, 30, 60],
            "logprob": [None] * 4,
        }
    ).with_columns(pl.col("logprob").cast(pl.Float64))
    figure = drawn(by_policy_figure, rows)
    (axes,) = (axes for axes in figure.axes if axes.axison)
    assert axes.get_title() == "num_tokens, tokens"
    assert [container.lines[0].get_xdata().tolist() for container in axes.containers] == [[20.0], [40.0]]
    assert [container.lines[0].get_marker() for container in axes.containers] == ["o", "s"]
    assert by_policy_figure(rows.filter(pl.col("policy") == "p@1")) is None
    # A policy keeps its place and its marker where it has no number.
    (axes,) = drawn(
        by_policy_figure,
        rows.filter((pl.col("policy") == "q@1") | (pl.col("num_tokens") < 0))
        .collect()
        .vstack(rows.filter(pl.col("policy") == "p@1").with_columns(num_tokens=pl.lit(None, pl.Int64)).collect())
        .lazy(),
    ).axes
    (container,) = axes.containers
    assert (container.lines[0].get_ydata().tolist(), container.lines[0].get_marker()) == ([1], "s")


FIGURES = (weights_figure, reward_by_length_figure, metrics_figure, pairs_figure, ratings_figure, by_policy_figure)
NUMBERS = st.none() | st.floats() | st.sampled_from([0.0, 1.0, -1.0, 1e-300, 1e14])
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            **dict.fromkeys(("weight", "reward", "diversity", "reward_chosen", "reward_rejected"), NUMBERS),
            "length": st.none() | st.integers(-5, 10**9),
            "score": st.none() | st.integers(-5, 20),
            "label": st.none() | st.booleans(),
            "query_id": st.none() | st.sampled_from(["a", "b"]),
            "policy": st.none() | st.sampled_from(["p", "q"]),
            "criterion": st.none() | st.sampled_from(["x", "y"]),
        }
    ),
    max_size=8,
)
SCHEMA = {
    **dict.fromkeys(("weight", "reward", "diversity", "reward_chosen", "reward_rejected"), pl.Float64),
    **dict.fromkeys(("length", "score"), pl.Int64),
    "label": pl.Boolean,
    **dict.fromkeys(("query_id", "policy", "criterion"), pl.String),
}


@settings(max_examples=30)
@given(ROWS)
def test_no_rows_break_a_figure(rows: list[dict[str, Any]]) -> None:
    """Null, NaN, infinite, equal and huge numbers, one row or none: a build must not end in its card's picture."""
    frame = pl.LazyFrame(rows, schema=SCHEMA)
    for draw in FIGURES:
        if (figure := draw(frame)) is not None:
            figure.set_dpi(20)
            figure.canvas.draw()


@pytest.mark.parametrize("draw", FIGURES)
def test_nothing_is_drawn_of_nothing(draw: Any) -> None:
    assert draw(pl.LazyFrame(schema=SCHEMA)) is None
    assert draw(pl.LazyFrame({"text": ["a"], "id": [1]})) is None
    # Texts under the names of numbers are no numbers.
    texts = ("weight", "reward", "length", "score", "label", "diversity", "reward_chosen", "reward_rejected")
    assert draw(pl.LazyFrame({name: ["1"] for name in texts})) is None


def test_a_name_between_dollar_signs_is_no_formula() -> None:
    figure = metrics_figure(pl.LazyFrame({"$\\frac{$": [0.5, 1.5], "cost in $": [1.5, 2.5], "$a_b$": [1.5, 2.5]}))
    assert figure is not None and png(figure).startswith(b"\x89PNG")
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == [r"\$\frac{\$", r"cost in \$", r"\$a_b\$"]


def test_more_metrics_than_there_is_room_for_are_counted() -> None:
    figure = metrics_figure(pl.LazyFrame({f"m{n}": [0.5, 1.5] for n in range(26)}))
    assert figure is not None and figure.get_supxlabel().endswith("; the first 24 of 26 metrics")
