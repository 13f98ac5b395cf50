"""Evaluation: what is compared, on which queries, and a run on policies of which nothing matches."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
from datasets_factory import add_dataset, add_model, scores_frame
from huggingface_hub import constants
from real_configs import SEEDS, config_on, write_lines
from tiny_models import make_causal_lm, make_reciting_lm

from builders.core.evaluation_table import EvaluationTable
from builders.core.models import LocalModel, ModelFinder
from builders.grace_kto.settings import GraceKTOSettings
from builders.store.manifest import Model
from builders.store.store import Store
from scorers.errors import UserError
from training.grace_kto import evaluate
from training.grace_kto.answers import answer_queries
from training.grace_kto.compared import compared_answers
from training.grace_kto.evaluate import (
    answers_of,
    evaluation_models,
    held_out_queries,
    learned,
    named_policies,
)
from training.grace_kto.evaluations import EVALUATIONS
from training.grace_kto.pipeline import GRACE_KTO
from training.grace_kto.table import RANKED
from training.pipelines import evaluate_policies
from training.world.texts import World


def test_held_out_queries(tmp_path: Path) -> None:
    def held_out(*overrides: str) -> list[str]:
        return held_out_queries(config_on(tmp_path, *overrides))

    assert held_out() == list(SEEDS)
    assert held_out("evaluate.queries=2", "evaluate.skip=1") == list(SEEDS[1:3])
    source = tmp_path / "numbers.csv"
    source.write_text("n,text\n3,\n3,\n5,  \n")
    assert held_out(f"evaluate.source={source}", "evaluate.column=n") == ["3", "5"]
    (tmp_path / "header.csv").write_text("query\n")
    for overrides, words in (
        (["evaluate.skip=6"], "holds no query after the first 6"),
        ([f"evaluate.source={tmp_path / 'header.csv'}"], "holds no query after the first 0"),
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


def test_a_judge_that_a_stage_makes_is_asked_by_its_revision(
    tmp_path: Path, causal_lm_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the stage's name it would be made anew: the base model of an evaluation is a revision, no stage."""
    config = config_on(tmp_path, "models.judge=sft", policy=causal_lm_dir)
    made = add_model(Store(Path(config.store)), "local/tiny-sft", folder=causal_lm_dir)
    model = ModelFinder(Store(Path(config.store))).of(made)
    asked: list[GraceKTOSettings] = []

    def run(_: object, own: GraceKTOSettings, __: str) -> list[SimpleNamespace]:
        asked.append(own)
        return [SimpleNamespace(revision=made)]

    monkeypatch.setattr(evaluate, "run", run)
    scorers = dict.fromkeys(("general", "domain", "relevance", "tokenizer"), model)
    answers_of(config, [("a", model)], scorers | {"judge": model}, EVALUATIONS)
    answers_of(config_on(tmp_path, "models.judge=gpt-4o"), [("a", model)], scorers, EVALUATIONS)
    assert [own.models.judge for own in asked] == [str(model.record), "gpt-4o"]
    assert {own.models.base for own in asked} == {str(model.record)}


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
        return table, [line.partition("@")[0] for line in lines if line.startswith("evaluate: ")]

    table, done = evaluated(str(causal_lm_dir), str(other))
    assert done == [f"evaluate: {causal_lm_dir.name}", "evaluate: other"]
    assert evaluated(str(causal_lm_dir), str(other))[1] == []
    found = table.public["policies"]
    for policy in found:
        assert (policy["queries"], policy["responses"]) == (len(SEEDS), 1)
        values = {label: estimate["value"] for label, estimate in policy["estimates"].items()}
        assert values.pop("matched") == 0.0 < values.pop("cut") <= 1
        assert set(values.values()) == {None}

    record = json.loads((tmp_path / "out" / "evaluation.json").read_text(), parse_constant=pytest.fail)
    printed = json.loads(json.dumps(table.public), parse_constant=pytest.fail)
    assert list(printed) == ["policies", "verdict", "cautions", "path"]
    assert printed["policies"] == record and printed["path"] == str(tmp_path / "out")
    assert [policy["average_rank"] for policy in record] == [1.5, 1.5]
    assert record[0]["policy"].startswith(f"{causal_lm_dir.name}@") and record[0]["policy"] != record[1]["policy"]
    markdown = (tmp_path / "out" / "evaluation.md").read_text()
    assert "(1.5)" not in markdown and printed["verdict"] in markdown
    assert "6 held-out queries are too few to tell a difference; evaluate.queries of 20 and more" in printed["verdict"]
    assert (tmp_path / "out" / "evaluation.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (tmp_path / "out" / "evaluation.svg").read_bytes()
    assert table.title == "6 held-out queries, means over matched responses (rank)"
    assert [row[0] for row in table.rows] == [*(policy["name"] for policy in found), table.rows[-1][0]]
    assert table.rows[-1][0] == f"{other} from {causal_lm_dir}" and {len(row) for row in table.rows} == {
        len(table.header)
    }
    (differences,) = table.beside
    assert [row[4] for row in differences.rows[-2:]] == 2 * ["too few queries"]
    assert {row[4] for row in differences.rows[:-2]} == {"no value"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"{name}.{ending}" for name in ("evaluation", "differences") for ending in ("json", "md", "csv", "tex")
    } | {"evaluation.png", "evaluation.svg"}
    # A page of the answers has the same tables and the figure, without any model.
    store = Store(Path(config.store))
    named = [policy["dataset"].partition("@") for policy in found]
    kept = [store.find(repo, revision) for repo, _, revision in named]
    shown = compared_answers([revision for revision in kept if revision is not None])
    assert shown is not None and len(shown.pictures) == 1 and b"<svg" in shown.pictures[0][1]
    assert [row[1:] for row in shown.rows] == [row[1:] for row in table.rows]
    assert [row[0] for row in shown.rows[:2]] == [causal_lm_dir.name, "other"]
    assert shown.beside[0].rows == differences.rows and compared_answers([]) is None
    # Random models run on to the limit of five tokens.
    assert [line.partition(";")[0] for line in printed["cautions"][:2]] == [
        "no answer of " + str(name) + " has the tagged form, so it has no metrics" for name in (causal_lm_dir, other)
    ]
    (caution,) = printed["cautions"][2:]
    assert "length runs away" in caution and table.lines[-1] == f"Caution: {caution}."
    assert len(table.lines) == 4 and table.lines[0] == printed["verdict"]

    with pytest.raises(UserError, match=r"^grace evaluate: .* and .*link are the same model, .*; leave one out$"):
        (tmp_path / "link").symlink_to(causal_lm_dir)
        evaluated(str(causal_lm_dir), str(tmp_path / "link"))
    with pytest.raises(UserError, match=r"^grace evaluate: .* is named twice; leave one out$"):
        evaluated(str(causal_lm_dir), str(causal_lm_dir))

    # The first policy is taken where none is named; a dataset has the name that the table gives its policy.
    again, _ = evaluated()
    assert again.title == table.title
    assert [policy.pop("dataset").partition("@")[0] for policy in (*found, *again.public["policies"])] == [
        f"local/tiny-{causal_lm_dir.name}-answers", "local/tiny-other-answers", "local/tiny-first-answers",
    ]  # fmt: skip
    ranks = dict.fromkeys(RANKED, 1.0)
    assert again.public["policies"] == [found[0] | {"name": "first", "ranks": ranks, "average_rank": 1.0}]
    # Batches and devices decide nothing, the temperature does.
    models = {"policy": causal_lm_dir, "relevance": bge_m3_dir}
    small = config_on(tmp_path, *overrides, "engines.policy.batch_size=2", "score.texts_per_batch=1", **models)
    assert evaluated(config=small)[1] == []
    greedy = config_on(tmp_path, *overrides, "evaluate.temperature=0", **models)
    assert evaluated(config=greedy)[1] == [f"evaluate: {causal_lm_dir.name}"]


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
    assert thinks["estimates"]["matched"]["value"] == 1.0 and thinks["estimates"] == plain["estimates"]


def test_several_answers_to_a_query_and_a_query_without_room(
    tmp_path: Path, causal_lm_dir: Path, bge_m3_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    long = "Write about " + "the pier, " * 400
    source = write_lines(
        tmp_path / "piers.jsonl", [json.dumps({"query": query}) + "\n" for query in ("Write.", long, "Sing.")]
    )
    overrides = ("sample.max_new_tokens=5", "score.max_length=256", f"evaluate.source={source}")
    config = config_on(tmp_path, *overrides, "evaluate.responses=4", policy=causal_lm_dir, relevance=bge_m3_dir)
    (record,) = evaluate_policies(config, [str(causal_lm_dir)], tmp_path / "out").public["policies"]
    assert (record["queries"], record["responses"]) == (3, 4)
    assert "1 of 3 held-out queries count as not matched: they leave no room for sample.max_new_tokens 5" in caplog.text
    assert record["estimates"]["matched"]["value"] == 0.0
    assert 0 < record["estimates"]["cut"]["value"] <= 2 / 3  # the four answers that were never given are not cut

    # The first answers are those that one answer each would be.
    engine_answers = {}
    for responses in (1, 4):
        few = config_on(
            tmp_path, *overrides, f"evaluate.responses={responses}", policy=causal_lm_dir, relevance=bge_m3_dir
        )
        model = LocalModel(Model(id="policy", revision="0"), causal_lm_dir)
        completions, _ = answer_queries(few, model, ["Write.", "Sing."])
        engine_answers[responses] = [completion.text for completion in completions if completion is not None]
    assert engine_answers[4][::4] == engine_answers[1] and len(set(engine_answers[4][:4])) > 1

    nothing = write_lines(tmp_path / "long.jsonl", [json.dumps({"query": long}) + "\n"])
    config = config_on(tmp_path, *overrides, f"evaluate.source={nothing}", policy=causal_lm_dir, relevance=bge_m3_dir)
    with pytest.raises(UserError, match=r"evaluate: none of 1 held-out queries leaves room for sample"):
        evaluate_policies(config, [str(causal_lm_dir)], tmp_path / "out")


def test_what_a_round_has_learned(tmp_path: Path, causal_lm_dir: Path, bge_m3_dir: Path) -> None:
    query = "Write about a pier."
    tagged = "<summary>S.</summary><outline>O.</outline><answer>The harbour grew and grew.</answer>"
    source = write_lines(tmp_path / "piers.jsonl", [json.dumps({"query": query}) + "\n"])
    first = make_reciting_lm(tmp_path / "first", query, tagged.replace(" and grew", ""))
    overrides = ("sample.max_new_tokens=70", "score.max_length=256", f"evaluate.source={source}")
    config = config_on(tmp_path, *overrides, policy=first, relevance=bge_m3_dir, domain=causal_lm_dir)
    later = make_reciting_lm(tmp_path / "later", query, tagged)
    add_model(Store(Path(config.store)), "local/tiny-policy", folder=later)
    (line,) = learned(config, 1)
    assert line.startswith("1 held-out queries, from the first policy: L ")
    assert "matched 1.000 → 1.000, cut 0.000 → 0.000" in line

    (line,) = learned(config_on(tmp_path, *overrides, "evaluate.source=none.jsonl", policy=first), 1)
    assert line.startswith("nothing is shown of what it learned: source ") and "none.jsonl: no such file;" in line
    assert line.endswith("; or set loop.held_out: 0")
    assert GRACE_KTO.watch is not None
    assert list(GRACE_KTO.watch(config_on(tmp_path, "loop.held_out=0"), 1, {})) == []
