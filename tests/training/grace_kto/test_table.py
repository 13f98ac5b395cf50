"""The table of an evaluation: ranks, the sentence, cautions."""

import re
from typing import Any

import numpy as np
import pytest
from evaluations import evaluation
from hypothesis import given
from hypothesis import strategies as st

from builders.report.text_tables import markdown
from training.grace_kto.evaluation import Evaluation
from training.grace_kto.table import RANKED, all_differences, cautions, cells, differences_from, rank_policies, verdict
from training.intervals import difference
from training.pipelines import load_config


def test_ranks_with_ties_and_missing_values() -> None:
    policies = [
        evaluation("a", L=10.0, E=90.0, P=0.5, R_s=None, R_d=1.0),
        evaluation("b", L=30.0, E=90.0, P=-0.5, R_s=2.0, R_d=1.0),
        evaluation("c", L=20.0, E=80.0, P=None, R_s=None, R_d=1.0),
    ]
    ranks, average = rank_policies(policies)
    assert ranks == [
        {"L": 3.0, "E": 1.5, "P": 1.0, "R_s": 2.5, "R_d": 2.0},
        {"L": 1.0, "E": 1.5, "P": 2.0, "R_s": 1.0, "R_d": 2.0},
        {"L": 2.0, "E": 3.0, "P": 3.0, "R_s": 2.5, "R_d": 2.0},
    ]
    assert average == pytest.approx([2.0, 1.5, 2.5])
    assert rank_policies([evaluation()]) == ([dict.fromkeys(RANKED, 1.0)], [1.0])


VALUES = st.lists(st.one_of(st.none(), st.floats(-100, 100)), min_size=5, max_size=5)


@given(st.lists(VALUES, min_size=1, max_size=6))
def test_ranks_of_a_metric_sum_to_the_places(rows: list[list[float | None]]) -> None:
    named: list[dict[str, Any]] = [dict(zip(RANKED, row, strict=True)) for row in rows]
    ranks, average = rank_policies([evaluation(**values) for values in named])
    places = len(rows) * (len(rows) + 1) / 2
    assert all(sum(rank[metric] for rank in ranks) == places for metric in RANKED)
    assert sum(average) == pytest.approx(places)


def test_the_sentence_names_what_changed_beyond_its_interval() -> None:
    # Deviation 1 over 100 queries is an error of 0.1 in each mean, 0.14 in a difference of two that vary on their own.
    first = evaluation("first", L=50.0, E=90.0, P=0.0, R_s=0.5, R_d=0.5, ppl_D=9.0, deviation=1, matched=0.8)
    last = evaluation(
        "round 4", L=95.0, E=80.0, P=0.2, R_s=None, R_d=0.5, ppl_D=7.0, deviation=1, matched=0.95, cut=0.3
    )
    assert verdict([first, evaluation("between"), last]).startswith(
        "From first to round 4, over common queries, better: L 50.0 → 95.0, ppl_D 9.000 → 7.015, ppl_D median "
    )
    assert "matched 0.800 → 0.950; worse: E 90.0 → 80.0, cut 0.000 → 0.300; not distinguishable: P, " in verdict(
        [first, last]
    )


def test_differences_are_paired_by_query() -> None:
    before = evaluation("first", L=50.0, deviation=20)
    after = Evaluation("last", "x", before.columns | {"L": before.columns["L"] + 0.5})
    # Each mean alone is known to 2 tokens; every query's answer became longer by half a token.
    assert "better: L 50.0 → 50.5; worse: nothing" in verdict([before, after])


def test_the_sentence_without_a_change_and_without_a_second_policy() -> None:
    assert verdict([evaluation()]) == "One policy alone: nothing to compare."
    sentence = verdict([evaluation("a"), evaluation("b")])
    assert sentence.startswith(
        "From a to b, over common queries, better: nothing; worse: nothing; not distinguishable: L, E, P, P median, "
    )


def test_what_seems_to_change_by_chance_among_many_is_not_told() -> None:
    # z standard errors of the mean: 2.4 alone has p = 1.6 %, which eleven labels raise above 5 %; 4 has not.
    a = evaluation("a", deviation=1.0)

    def moved(label: str, z: float) -> Evaluation:
        noise = evaluation("noise", deviation=1.0).columns[label] - 1.0
        return Evaluation("b", "b@rev", a.columns | {label: a.columns[label] + noise + z / 10})

    assert "better: E" in verdict([a, moved("E", 4.0)])
    assert "better: nothing; worse: nothing" in verdict([a, moved("E", 2.4)])
    assert difference(a.columns["E"], moved("E", 2.4).columns["E"]).sign == 1


def test_a_metric_that_follows_length_is_told_at_equal_length() -> None:
    short, long = evaluation("short", L=400.0, deviation=50.0), evaluation("long", L=600.0, deviation=50.0)
    for one in (short, long):
        one.columns["E"] = 10 * np.log(one.columns["L"])
    table = differences_from(short, long)
    cells_of = dict(zip(table.header, next(row for row in table.rows if row[0] == "E"), strict=True))
    assert cells_of["difference"].startswith("+4.1 (") and cells_of["verdict"] == "better"
    assert re.fullmatch(r"[+-]0\.0 \([+-]0\.0 … [+-]0\.0\)", cells_of["at equal length"])
    assert next(row for row in table.rows if row[0] == "L")[6] == "–"
    raw = long.change_from(short)["E"].value
    controlled = long.change_at_equal_length(short)["E"].value
    assert raw == pytest.approx(10 * np.log(1.5), abs=0.2) and controlled == pytest.approx(0, abs=1e-9)
    assert "L" not in long.change_at_equal_length(short)


def test_the_differences_of_all_policies_stand_in_one_table_for_a_file() -> None:
    a, b, c = (evaluation(name, L=value, deviation=1.0) for name, value in (("a", 10.0), ("b", 12.0), ("c", 10.0)))
    table, records = all_differences([a, b, c])
    assert table.header[:4] == ["policy", "metric", "n", "a"] and len(table.rows) == 2 * len(a.labels)
    assert [row[5] for row in table.rows if row[1] == "L"] == ["better", "not distinguishable"]
    assert [r["verdict"] for r in records if r["metric"] == "L"] == ["better", "not distinguishable"]
    assert differences_from(a, b).title == (
        f"b from a, over common queries, with 95 % intervals; p corrected for {len(a.labels)} metrics"
    )


def test_a_share_is_known_as_well_as_its_answers_allow() -> None:
    # The same queries match and some more: 4 of 100 more are within chance, 12 are not.
    a = evaluation("a", matched=0.5)
    assert "matched" in verdict([a, evaluation("b", matched=0.52)]).partition("not distinguishable")[2]
    assert "better: matched 0.500 → 0.620" in verdict([a, evaluation("b", matched=0.62)])


def test_medians_are_not_moved_by_one_document() -> None:
    before = evaluation("first", ppl_D=6.0)
    column = before.columns["ppl_D"].copy()
    column[3] = 5_000.0
    after = Evaluation("last", "x", before.columns | {"ppl_D": column})
    assert after.value("ppl_D") == pytest.approx((99 * 6 + 5_000) / 100)
    assert after.value("ppl_D median") == 6.0 and cautions(load_config("tiny"), [before, after]) == []


def test_the_table_as_markdown() -> None:
    policies = [evaluation("a|b", L=10.25, P=None, matched=0.5), evaluation("c", L=20.0, P=0.1234)]
    lines = markdown(*cells(policies)).splitlines()
    assert lines[0] == (
        "| policy | L | E | P | R_s | R_d | avg. rank | matched | cut | P median | ppl_D | ppl_D median |"
    )
    assert lines[1] == "|" + " --- |" * 12
    assert lines[2] == (
        "| a\\|b | 10.2 (2) | 1.0 (1.5) | – | 1.000 (1.5) | 1.000 (1.5) | 1.7 | 0.500 | 0.000 | – | 1.000 | 1.000 |"
    )
    assert lines[3] == (
        "| c | 20.0 (1) | 1.0 (1.5) | 0.123 (1) | 1.000 (1.5) | 1.000 (1.5) | 1.3 | 1.000 | 0.000 | 0.123 | 1.000 "
        "| 1.000 |"
    )
    assert lines[4].startswith("| c from a\\|b | +95.1 % | +0.0 % | – | +0.0 % | +0.0 % |  | +100.0 % | – | – |")


def test_cautions_name_what_the_metrics_hide() -> None:
    config = load_config("tiny")
    first = evaluation("first", ppl_D=6.0, E=99.0, matched=0.9)
    assert cautions(config, [first, evaluation("last", ppl_D=8.9, E=94.1, cut=0.05, matched=0.73)]) == []
    lines = cautions(config, [first, evaluation("last", ppl_D=9.1, E=93.9, cut=0.06, matched=0.71)])
    runaway, decay, repeated, untagged = lines
    assert "6% of last's responses are cut" in runaway and "length runs away" in runaway
    assert "median perplexity under the domain model rose from 6.00 to 9.10" in decay
    assert "diversity E fell from 99.0 to 93.9: last repeats itself" in repeated
    assert "71% of last's responses have the tagged form, 90% of first's" in untagged
    assert cautions(config, [first, evaluation("last", ppl_D=None, E=None, matched=0.9)]) == []
    (silent,) = cautions(config, [evaluation("mute", matched=0.0), evaluation("b", matched=0.0)])[:1]
    assert silent == "no answer of mute has the tagged form, so it has no metrics; grace report shows what it wrote"
    (cold,) = cautions(load_config("tiny", ["sample.temperature=0.7"]), [first])
    assert "sample.temperature is 0.7" in cold
