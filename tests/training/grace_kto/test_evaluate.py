"""Evaluation: ranks, the sentence, the table, and a run on policies of which nothing matches."""

import json
import logging
import math
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from datasets_factory import add_dataset, add_model, scores_frame
from huggingface_hub import constants
from hypothesis import given
from hypothesis import strategies as st
from real_configs import SEEDS, config_on, write_lines
from tiny_models import make_causal_lm, make_reciting_lm

from builders.core.models import LocalModel, ModelFinder
from builders.core.pipeline import EvaluationTable
from builders.grace_kto.settings import GraceKTOSettings
from builders.store.manifest import Model
from builders.store.store import Store
from scorers.errors import UserError
from training.grace_kto.evaluate import (
    COLUMNS,
    check_finite,
    evaluation_models,
    held_out_queries,
    named_policies,
    world_columns,
)
from training.grace_kto.table import (
    RANKED,
    Evaluation,
    cautions,
    cells,
    markdown_table,
    rank_policies,
    verdict,
)
from training.pipelines import evaluate_policies, load_config
from training.world.texts import World


def evaluation(
    name: str = "p", *, matched: float = 1.0, cut: float = 0.0, error: float = 0.0, **means: Any
) -> Evaluation:
    """An evaluation of 100 queries; metrics not given are 1."""
    values = dict.fromkeys(COLUMNS, 1.0) | means
    errors = {label: None if value is None else error for label, value in values.items()}
    return Evaluation(name, f"{name}@rev", 100, matched, cut, values, errors)


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


def test_the_sentence_names_what_changed_by_more_than_two_standard_errors() -> None:
    first = evaluation("first", L=50.0, E=90.0, P=0.0, R_s=0.5, R_d=0.5, ppl_D=9.0, error=0.1, matched=0.8)
    last = evaluation("round 4", L=95.0, E=80.0, P=0.2, R_s=None, R_d=0.5, ppl_D=7.0, error=0.1, matched=0.95, cut=0.3)
    # The errors of two policies add as sqrt(0.1² + 0.1²) = 0.141, so P's change of 0.2 is within two of them.
    assert verdict([first, evaluation("between"), last]) == (
        "From first to round 4, better: L 50.0 → 95.0, ppl_D 9.000 → 7.000, matched 0.800 → 0.950; "
        "worse: E 90.0 → 80.0, cut 0.000 → 0.300; within two standard errors: P, R_d."
    )


def test_the_sentence_without_a_change_and_without_a_second_policy() -> None:
    assert verdict([evaluation()]) == "One policy alone: nothing to compare."
    sentence = verdict([evaluation("a"), evaluation("b")])
    assert sentence.startswith("From a to b, better: nothing; worse: nothing; within two standard errors: L, E, P, ")


def test_the_binomial_error_of_a_share() -> None:
    # sqrt(0.5 · 0.5 / 100) = 0.05 and 0.048, together 0.0695: 0.13 is within two of them, 0.15 is not.
    a = evaluation("a", matched=0.5)
    assert "better: nothing" in verdict([a, evaluation("b", matched=0.63)])
    assert "better: matched 0.500 → 0.650" in verdict([a, evaluation("b", matched=0.65)])


def test_the_table_as_markdown() -> None:
    policies = [evaluation("a|b", L=10.25, P=None, matched=0.5), evaluation("c", L=20.0, P=0.1234)]
    lines = markdown_table(*cells(policies, *rank_policies(policies))).splitlines()
    assert lines[0] == "| policy | L | E | P | R_s | R_d | avg. rank | matched | cut | ppl_D |"
    assert lines[1] == "|" + "---|" * 10
    assert (
        lines[2] == "| a\\|b | 10.2 (2) | 1.0 (1.5) | – (2) | 1.000 (1.5) | 1.000 (1.5) | 1.7 | 0.500 | 0.000 | 1.000 |"
    )
    assert (
        lines[3] == "| c | 20.0 (1) | 1.0 (1.5) | 0.123 (1) | 1.000 (1.5) | 1.000 (1.5) | 1.3 | 1.000 | 0.000 | 1.000 |"
    )


def test_the_worlds_measures_have_the_same_names_without_a_document() -> None:
    empty = world_columns([])
    some = world_columns([("Write about it.", "A sentence. A sentence.")])
    assert list(empty) == list(some) != []
    assert all(len(values) == 0 and values.mean() is None for values in empty.values())
    assert some["duplicate_sentences"].to_list() == [0.5] and some["on_topic"].to_list() == [None]


def test_a_metric_that_is_not_finite() -> None:
    check_finite({"P": pl.Series([1.0, None])}, "p")
    with pytest.raises(
        UserError, match=r"evaluation of round 2: P is inf for matched response 2, counted from 0; look"
    ):
        check_finite({"L": pl.Series([1.0]), "P": pl.Series([1.0, None, math.inf, math.nan])}, "round 2")


def test_held_out_queries(tmp_path: Path) -> None:
    def held_out(*overrides: str) -> list[str]:
        return held_out_queries(config_on(tmp_path, *overrides))

    assert held_out() == list(SEEDS)
    assert held_out("evaluate.queries=2", "evaluate.skip=1") == list(SEEDS[1:3])
    source = tmp_path / "numbers.csv"
    source.write_text("n,text\n3,\n3,\n5,  \n")
    assert held_out(f"evaluate.source={source}", "evaluate.column=n") == ["3", "5"]
    for overrides, words in (
        (["evaluate.skip=6"], "holds no query after the first 6"),
        ([f"evaluate.source={source}", "evaluate.column=text"], "holds no query after the first 0"),
        ([f"evaluate.source={source}"], "no column query; it has n, text; set evaluate.column"),
        (["evaluate.source=none.jsonl"], "none.jsonl: no such file"),
    ):
        with pytest.raises(UserError, match=words):
            held_out(*overrides)


def test_held_out_queries_of_the_world(tmp_path: Path) -> None:
    config = config_on(tmp_path, "evaluate.source=world:heldout", "evaluate.queries=5", "evaluate.skip=2")
    assert held_out_queries(config) == World(0).heldout_queries(7)[2:]
    (made,) = (Path(config.store) / "datasets--local--grace-kto-world-0-heldout" / "snapshots").iterdir()
    assert held_out_queries(config) == World(0).heldout_queries(7)[2:]
    assert list(made.parent.iterdir()) == [made]
    with pytest.raises(UserError, match=r"^source world:heldouts: no such file"):
        held_out_queries(config_on(tmp_path, "evaluate.source=world:heldouts"))


def names_and_models(config: GraceKTOSettings, *references: str, first: LocalModel | None = None) -> dict[str, str]:
    store = Store(Path(config.store))
    found = named_policies(config, store, ModelFinder(store), references, first)
    return {name: str(model.record) for name, model in found}


def test_without_a_name_the_first_policy_and_every_rounds_that_is_there(tmp_path: Path, causal_lm_dir: Path) -> None:
    config = config_on(tmp_path, "loop.rounds=3", policy=causal_lm_dir)
    store = Store(Path(config.store))
    first = LocalModel(Model(id="local/tiny-sft", revision="0" * 40), causal_lm_dir)
    assert names_and_models(config, first=first) == {"first": str(first.record)}
    made = {round_: add_model(store, "local/tiny-policy", round_=round_) for round_ in (1, 3, 4)}
    expected = {"first": str(first.record), "round 1": str(made[1]), "round 3": str(made[3])}
    assert names_and_models(config, first=first) == expected


def test_policies_by_name(tmp_path: Path, causal_lm_dir: Path) -> None:
    config = config_on(tmp_path, policy=causal_lm_dir)
    store = Store(Path(config.store))
    old, new = (add_model(store, "local/tiny-policy", round_=round_) for round_ in (1, 2))
    folder = str(causal_lm_dir)
    references = ("local/tiny-policy", "local/tiny-policy@round-001", str(old.path), folder)
    found = names_and_models(config, *references)
    assert list(found) == list(references)
    assert list(found.values())[:3] == [str(new), str(old), str(old)]
    assert found[folder].startswith(f"{causal_lm_dir.name}@")
    for reference, words in (
        ("policy", "^stage policy is made anew in every round"),
        ("no policy", "'no policy' names no dataset"),
    ):
        with pytest.raises(UserError, match=words):
            names_and_models(config, reference)


@pytest.mark.parametrize(
    ("references", "overrides", "words"),
    [
        (["local/tiny-polcy"], [], "did you mean local/tiny-policy?"),
        (["local/tiny-policy@round-01"], [], "the store has local/tiny-policy at round-001"),
        (["stf"], [], "did you mean sft?"),
        (
            ["policy"],
            [],
            "policy policy: each round has its own; give one of them, such as local/tiny-policy@round-001",
        ),
        (["seeds.jsonl"], [], "seeds.jsonl: is a file; give the folder of a model"),
        (["empty"], [], "model empty: no config.json in it; give the folder of a whole model"),
        (["local/tiny-scores"], [], "in the store local/tiny-scores is a dataset"),
        ([], ["evaluate.source=missing.jsonl"], "missing.jsonl: no such file"),
        ([], ["models.domain=empty"], "empty: no config.json in it"),
        ([], ["models.policy=stf"], "model stf: offline mode is set.*did you mean sft"),
        ([], ["models.relevance=world:bge-m4"], "did you mean world:bge-m3"),
    ],
)
def test_mistakes_are_told_before_a_model_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, references: list[str], overrides: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "empty").mkdir()
    config = config_on(tmp_path, *overrides)  # the models are those of the generated world, which is not made yet
    store = Store(Path(config.store))
    add_model(store, "local/tiny-policy")
    add_dataset(store, "score", scores_frame(), repo="local/tiny-scores")
    before = sorted(store.root.iterdir())
    with pytest.raises(UserError, match=words):
        evaluate_policies(config, references, tmp_path / "out")
    assert [path for path in sorted(store.root.iterdir()) if path.name != ".lock"] == before
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("output", ["seeds.jsonl", "seeds.jsonl/out", "loop"])
def test_an_output_that_is_a_file_is_told_first(tmp_path: Path, output: str) -> None:
    config = config_on(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(
        UserError, match=r"--output .*(seeds.jsonl|loop) is a file, a folder is needed; give another name"
    ):
        evaluate_policies(config, [], tmp_path / output)
    assert not Path(config.store).exists()


def test_the_models_that_score_are_those_of_the_stage(tmp_path: Path, causal_lm_dir: Path, bge_m3_dir: Path) -> None:
    domain = make_causal_lm(tmp_path / "domain", seed=5)
    config = config_on(tmp_path, policy=causal_lm_dir, relevance=bge_m3_dir, domain=domain)
    models, _ = evaluation_models(config)
    paths = {role: model.path for role, model in models.items()}
    assert paths == {
        "tokenizer": causal_lm_dir,
        "general": causal_lm_dir,
        "domain": domain,
        "relevance": bge_m3_dir,
        "first": causal_lm_dir,
    }
    assert "first" not in evaluation_models(config, first=False)[0]


def test_policies_of_which_nothing_matches(
    tmp_path: Path, causal_lm_dir: Path, bge_m3_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    other = make_causal_lm(tmp_path / "other", seed=5)
    overrides = ("sample.max_new_tokens=5", "score.max_length=256", "loop.rounds=1")
    config = config_on(tmp_path, *overrides, policy=causal_lm_dir, relevance=bge_m3_dir)

    def evaluated(*references: str, config: GraceKTOSettings = config) -> tuple[EvaluationTable, list[str]]:
        """The table, and the policies that were evaluated and not read from what an earlier call kept."""
        caplog.clear()
        table = evaluate_policies(config, references, tmp_path / "out")
        lines = [record.getMessage() for record in caplog.records]
        return table, [line.partition(",")[0] for line in lines if line.startswith("evaluate: ")]

    table, done = evaluated(str(causal_lm_dir), str(other))
    assert done == [f"evaluate: {causal_lm_dir}", f"evaluate: {other}"]
    found = table.public["policies"]
    assert [policy["matched"] for policy in found] == [0.0, 0.0] and all(0 < policy["cut"] <= 1 for policy in found)
    for policy in found:
        assert policy["queries"] == len(SEEDS)
        assert set(policy["means"].values()) == {None} == set(policy["errors"].values())

    record = json.loads((tmp_path / "out" / "evaluation.json").read_text(), parse_constant=pytest.fail)
    printed = json.loads(json.dumps(table.public), parse_constant=pytest.fail)
    assert list(printed) == ["policies", "verdict", "cautions", "path"]
    assert printed["policies"] == record and printed["path"] == str(tmp_path / "out")
    assert [policy["average_rank"] for policy in record] == [1.5, 1.5]
    assert record[0]["policy"].startswith(f"{causal_lm_dir.name}@") and record[0]["policy"] != record[1]["policy"]
    markdown = (tmp_path / "out" / "evaluation.md").read_text()
    assert markdown.count("– (1.5)") == 10 and printed["verdict"] in markdown
    assert "within two standard errors: matched" in printed["verdict"]
    assert (tmp_path / "out" / "evaluation.png").read_bytes().startswith(b"\x89PNG")
    assert table.title == "6 held-out queries, means over matched responses (rank)"
    assert len(table.rows) == 2 and {len(row) for row in table.rows} == {len(table.header)}
    # Random models run on to the limit of five tokens.
    (caution,) = printed["cautions"]
    assert "length runs away" in caution and table.lines == [printed["verdict"], f"Caution: {caution}."]

    # The second call reads what the first one kept, and takes the first policy where none is named.
    again, done = evaluated()
    assert done == [] and again.title == table.title
    ranks = dict.fromkeys(RANKED, 1.0)
    assert again.public["policies"] == [found[0] | {"name": "first", "ranks": ranks, "average_rank": 1.0}]
    # Batches and devices decide nothing, the temperature does.
    models = {"policy": causal_lm_dir, "relevance": bge_m3_dir}
    small = config_on(tmp_path, *overrides, "engines.policy.batch_size=2", "score.texts_per_batch=1", **models)
    assert evaluated(config=small)[1] == []
    greedy = config_on(tmp_path, *overrides, "evaluate.temperature=0", **models)
    assert evaluated(config=greedy)[1] == ["evaluate: first"]


def test_a_policy_that_thinks_is_judged_by_its_answers(tmp_path: Path, causal_lm_dir: Path, bge_m3_dir: Path) -> None:
    tagged = "<summary>S.</summary><outline>O.</outline><answer>The harbour grew.</answer>"
    queries = [{"query": f"Write about pier {n}."} for n in (1, 2)]
    source = write_lines(tmp_path / "piers.jsonl", [json.dumps(query) + "\n" for query in queries])
    overrides = ("sample.max_new_tokens=70", "score.max_length=256", f"evaluate.source={source}")
    config = config_on(tmp_path, *overrides, policy=causal_lm_dir, relevance=bge_m3_dir)
    policies = [
        make_reciting_lm(tmp_path / name, queries[0]["query"], answer)
        for name, answer in (("thinks", f"<think>A plan.</think>\n\n{tagged}"), ("plain", tagged))
    ]
    thinks, plain = evaluate_policies(config, list(map(str, policies)), tmp_path / "out").public["policies"]
    assert thinks["matched"] == plain["matched"] == 1.0 and thinks["means"] == plain["means"]


def test_cautions_name_what_the_metrics_hide() -> None:
    config = load_config("tiny")
    first = evaluation("first", ppl_D=6.0)
    assert cautions(config, [first, evaluation("last", ppl_D=8.9, cut=0.05)]) == []
    runaway, decay = cautions(config, [first, evaluation("last", ppl_D=9.1, cut=0.06)])
    assert "6% of last's responses are cut" in runaway and "length runs away" in runaway
    assert "rose from 6.00 to 9.10" in decay
    assert cautions(config, [first, evaluation("last", ppl_D=None)]) == []
    (cold,) = cautions(load_config("tiny", ["sample.temperature=0.7"]), [first])
    assert "sample.temperature is 0.7" in cold
