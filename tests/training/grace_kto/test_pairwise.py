"""Policies compared two by two: both orders, ties, a judge that prefers a place, strengths, and people beside it."""

import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from chat_server import Answer, Body, ChatServer, choices, running
from real_configs import SEEDS, config_on
from tiny_models import make_causal_lm

from builders.core.evaluation_table import EvaluationTable
from builders.grace_kto.settings import GraceKTOSettings
from builders.inspect.lineage import lineage
from builders.inspect.verify import verify
from builders.store.store import Store
from scorers.errors import UserError
from training.agreement import agreement
from training.grace_kto.pairwise import bias_line, position_bias
from training.intervals import Estimate
from training.options import judge_of
from training.pipelines import PIPELINES, build, evaluate_policies, load_config

PLACES = re.compile(r"Text ([AB]):\n(=+)\n(.*?)\n\2", re.DOTALL)


def chosen(better: str) -> Answer:
    return 200, choices(json.dumps({"analysis": "So.", "better": better}))


def shown(body: Body) -> dict[str, str]:
    """The two texts of a prompt, by their places."""
    return {match[1]: match[3] for match in PLACES.finditer(body["messages"][-1]["content"])}


def longer(body: Body) -> Answer:
    """A judge that prefers the longer text, wherever it stands."""
    texts = shown(body)
    if len(texts["A"]) == len(texts["B"]):
        return chosen("tie")
    return chosen("A" if len(texts["A"]) > len(texts["B"]) else "B")


@pytest.fixture
def policies(tmp_path: Path, causal_lm_dir: Path) -> list[str]:
    return [str(causal_lm_dir), *(str(make_causal_lm(tmp_path / f"lm-{seed}", seed=seed)) for seed in (5, 6))]


def compared(
    folder: Path, judge: Any, policies: list[str], bge_m3: Path
) -> tuple[EvaluationTable, GraceKTOSettings, int]:
    """A comparison of policies by a judge behind an endpoint, made twice, and how often it was asked."""
    with running(ChatServer(judge)) as server:
        config = config_on(
            folder, "sample.max_new_tokens=9", "score.max_length=256", "evaluate.pairwise=true", "models.judge=writer",
            f"engines.judge={{kind: openai, base_url: '{server.url}', retries: 0}}", "judge.attempts=1",
            policy=Path(policies[0]), relevance=bge_m3,
        )  # fmt: skip
        table = evaluate_policies(config, policies, folder / "out")
        asked = len(server.asked)
        assert evaluate_policies(config, policies, folder / "out").public == table.public
        assert len(server.asked) == asked
    return table, config, asked


def test_every_two_policies_in_both_orders(tmp_path: Path, policies: list[str], bge_m3_dir: Path) -> None:
    table, config, asked = compared(tmp_path, longer, policies, bge_m3_dir)
    assert asked <= 3 * len(SEEDS) * 2
    pairs = table.public["pairs"]
    assert [(pair["policy_a"], pair["policy_b"]) for pair in pairs] == [
        (policies[0], policies[1]), (policies[0], policies[2]), (policies[1], policies[2]),
    ]  # fmt: skip
    store = Store(Path(config.store))
    for pair in pairs:
        repo, _, revision = pair["dataset"].partition("@")
        found = store.find(repo, revision, "dataset")
        assert found is not None and verify(found, PIPELINES) == []
        frame = found.scan().collect()
        assert frame.height == len(SEEDS) and pair["unscored"] == 0 and pair["orders agree"] == len(SEEDS)
        for row in frame.iter_rows(named=True):
            lengths = len(row["response_a"]), len(row["response_b"])
            assert row["preference"] == ("tie" if lengths[0] == lengths[1] else "a" if lengths[0] > lengths[1] else "b")
        assert pair["a"] == (frame["preference"] == "a").sum() and pair["a"] + pair["b"] + pair["tie"] == len(SEEDS)
        # Traced to both policies.
        nodes = lineage(str(found), store)
        assert sum(node.stage == "answers" for node in nodes) == 2
    values = table.public["strengths"]
    assert [row[0] for row in table.rows] == sorted(values, key=lambda name: -values[name]["value"])
    assert sum(value["value"] for value in values.values()) == pytest.approx(0, abs=1e-9)
    assert table.public["first_place"]["value"] in (None, 0.5)  # it never prefers a place
    assert set(table.files) == {f"comparisons.{ending}" for ending in ("json", "md", "csv", "tex")}


def test_a_judge_that_prefers_a_place(tmp_path: Path, policies: list[str], bge_m3_dir: Path) -> None:
    table, _, _ = compared(tmp_path, lambda body: chosen("A"), policies[:2], bge_m3_dir)
    (pair,) = table.public["pairs"]
    assert (pair["a"], pair["b"], pair["tie"]) == (0, 0, len(SEEDS))
    assert (
        table.lines[-1] == "The answer that stood first was chosen in 100% (100% … 100%): it prefers the first place."
    )
    assert [value["value"] for value in table.public["strengths"].values()] == pytest.approx([0, 0], abs=1e-6)


def test_a_judge_that_cannot_be_read(tmp_path: Path, policies: list[str], bge_m3_dir: Path) -> None:
    with pytest.raises(UserError, match=r"^no pair of answers has a preference: none of the replies of writer could"):
        compared(tmp_path, lambda body: (200, choices("Hm.")), policies[:2], bge_m3_dir)
    with pytest.raises(UserError, match=r"^grace evaluate --pairwise: one policy alone; give two or more$"):
        compared(tmp_path, longer, policies[:1], bge_m3_dir)


def test_bias_by_hand() -> None:
    frame = pl.DataFrame(
        {"query_id": list("aabc"), "forward": ["a", "b", "tie", None], "backward": ["a", "a", "b", None]}
    )
    assert position_bias(frame).value == pytest.approx(3 / 5)  # a, a, b, a, b
    assert "60%" in bias_line(position_bias(frame)) and "no preference for a place" in bias_line(position_bias(frame))
    assert bias_line(Estimate(0.2, 0.1, 0.1, 0.3)).endswith("it prefers the second place.")
    assert "never chose" in bias_line(position_bias(frame.filter(pl.col("query_id") == "c")))


def test_people_beside_the_choices(tmp_path: Path) -> None:
    (tmp_path / "choices").mkdir()
    pl.DataFrame(
        {
            "query_id": ["q", "q", "p"], "policy_a": ["x@1"] * 3, "policy_b": ["y@2"] * 3,
            "response_id_a": ["q-0", "q-1", "p-0"], "response_id_b": ["q-0", "q-1", "p-0"],
            "preference": ["a", "tie", None],
        }
    ).write_parquet(tmp_path / "choices" / "rows.parquet")  # fmt: skip
    people = tmp_path / "people.csv"
    people.write_text("response_a,response_b,preference\nx@1/q-0,y@2/q-0,a\ny@2/q-0,x@1/q-0,a\nx@1/q-1,y@2/q-1,tie\n")
    found = agreement(str(tmp_path / "choices"), str(people), str(tmp_path / "store")).public
    assert found["agreement"] == pytest.approx(2 / 3) and found["judgements"] == 3
    for row, words in (
        ("x@1/p-0,y@2/p-0,a", "on none of its 1 pairs has the judge a verdict"),
        ("q-0,q-1,a", "was not compared in that dataset"),
    ):
        people.write_text(f"response_a,response_b,preference\n{row}\n")
        with pytest.raises(UserError, match=words):
            agreement(str(tmp_path / "choices"), str(people), str(tmp_path / "store"))


def test_answers_to_other_queries_are_no_pairs(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        rows = {key: [name] for key in ("query_id", "query", "response_id", "response", "document", "policy")}
        pl.DataFrame(rows).write_parquet(tmp_path / name / "rows.parquet")
    base = ["models.judge=writer", "engines.judge={kind: openai, base_url: 'http://127.0.0.1:9/v1'}"]
    with running(ChatServer()) as server:
        base[1] = f"engines.judge={{kind: openai, base_url: '{server.url}'}}"
        config = load_config("tiny", [*base, f"evaluate.other={tmp_path / 'two'}"], str(tmp_path / "store"))
        with pytest.raises(UserError, match="have no response_id in common; compare answers to the same queries"):
            build(config, "comparisons", start=str(tmp_path / "one"))
        config = load_config("tiny", base, str(tmp_path / "store"))
        with pytest.raises(UserError, match=r"^stage comparisons: evaluate\.other is null"):
            build(config, "comparisons", start=str(tmp_path / "one"))


def test_what_the_options_set() -> None:
    assert judge_of(None, load_config("tiny"), pairwise=True) == ["evaluate.pairwise=true"]
    assert judge_of("openai:m", load_config("tiny"), pairwise=True)[0] == "evaluate.pairwise=true"
    with pytest.raises(UserError, match=r"^--pairwise: pipeline rationalign has no judge that chooses; leave it out$"):
        judge_of(None, load_config("tiny-rationalign"), pairwise=True)
