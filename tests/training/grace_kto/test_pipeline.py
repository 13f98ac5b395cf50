"""The graph of GRACE-KTO: which revision and which model each stage of each round is made from, and a round's line."""

from pathlib import Path

import pytest
from datasets_factory import add_dataset, add_model, scores_frame, weights_frame

from builders.core.nodes import Node, needs
from builders.grace_kto.settings import GraceKTOSettings
from builders.store.manifest import Manifest
from builders.store.store import Store
from builders.store.summary import summarise
from training.grace_kto.pipeline import GRACE_KTO, round_line
from training.pipelines import load_config


def models(stage: str, round_: int, *overrides: str) -> dict[str, Node | str]:
    return needs(GRACE_KTO, load_config("tiny", overrides), Node(stage, round_)).models


def test_stages_stand_after_what_they_are_made_from() -> None:
    others = (
        "score.rubric=true",
        *(f"models.{role}=Qwen/Qwen2.5-0.5B" for role in ("teacher", "criteria", "judge", "evaluated")),
    )
    config: GraceKTOSettings = load_config("tiny", others)
    places = {stage.name: place for place, stage in enumerate(GRACE_KTO.stages)}
    assert len(places) == len(GRACE_KTO.stages)
    for stage in GRACE_KTO.stages:
        above = needs(GRACE_KTO, config, Node(stage.name, 1 if stage.per_round else 0)).nodes()
        assert all(places[node.stage] < places[stage.name] for node in above), stage.name


def test_a_round_is_sampled_by_the_policy_of_the_one_before() -> None:
    for stage in ("generate", "sample"):
        assert models(stage, 1) == {"policy": Node("sft", 0)}
        assert models(stage, 2) == {"policy": Node("policy", 1)}
        assert models(stage, 3) == {"policy": Node("policy", 2)}
    assert models("policy", 1) == {"base": Node("sft", 0), "policy": Node("sft", 0)}
    assert models("policy", 3) == {"base": Node("sft", 0), "policy": Node("policy", 2)}


def test_a_given_policy_takes_the_place_of_sft() -> None:
    given = "models.policy=owner/model"
    assert models("sample", 1, given) == {"policy": "owner/model"}
    assert models("sample", 2, given) == {"policy": Node("policy", 1)}
    assert models("policy", 2, given) == {"base": "owner/model", "policy": Node("policy", 1)}


@pytest.mark.parametrize("round_", [1, 3])
def test_one_tokenizer_and_the_same_scorers_serve_all_rounds(round_: int) -> None:
    others: dict[str, Node | str] = {
        "general": Node("world:general", 0),
        "domain": Node("world:domain", 0),
        "relevance": Node("world:bge-m3", 0),
    }
    # SFT keeps the tokenizer of its base, which is there without a training.
    assert models("score", round_) == others | {"tokenizer": Node("world:base", 0)}
    assert models("score", round_, "models.policy=owner/model") == others | {"tokenizer": "owner/model"}
    pulled = models("score", round_, "models.relevance=BAAI/bge-m3", "models.domain=a/b@main")
    assert (pulled["relevance"], pulled["domain"]) == ("BAAI/bge-m3", "a/b@main")


def test_the_parents_of_each_round() -> None:
    config: GraceKTOSettings = load_config("tiny")
    for round_ in (1, 2):
        for stage, parent in (("sample", "generate"), ("score", "sample"), ("calibrate", "score")):
            assert needs(GRACE_KTO, config, Node(stage, round_)).parents == {parent: Node(parent, round_)}
    assert needs(GRACE_KTO, config, Node("policy", 2)).parents == {"calibrate": Node("calibrate", 2)}
    assert needs(GRACE_KTO, config, Node("generate", 3)).parents == {
        "seed": Node("seed", 0),
        "queries round-001": Node("generate", 1),
        "queries round-002": Node("generate", 2),
    }


def manifests(folder: Path, lengths: tuple[tuple[int | None, ...], ...], unscored: int) -> list[Manifest]:
    """The two manifests of a finished round that its line is made from."""
    store = Store(folder)
    stage = GRACE_KTO.stage("calibrate")
    weights = add_dataset(store, "calibrate", weights_frame(scores_frame(lengths)), counts={"unscored": unscored})
    policy = add_model(store, "local/demo-policy", results={"loss": 0.51234})
    assert weights.manifest is not None and policy.manifest is not None
    summary = {"metrics": summarise(weights.data_files(), stage.summaries)}
    return [weights.manifest.model_copy(update=summary), policy.manifest]


def test_the_line_of_a_finished_round(tmp_path: Path) -> None:
    made = manifests(tmp_path, ((10, 20, None), (40,)), unscored=1)
    assert round_line(made) == "4 rows, 75% matched, L 23.3, loss 0.5123"


def test_the_line_of_a_round_in_which_nothing_matched(tmp_path: Path) -> None:
    made = manifests(tmp_path, ((None, None),), unscored=2)
    assert round_line(made) == "2 rows, 0% matched, L –, loss 0.5123"


def test_the_number_of_rounds_is_the_loops() -> None:
    assert GRACE_KTO.rounds(load_config("tiny", ["loop.rounds=7"])) == 7


def test_the_line_of_a_round_whose_policy_alone_is_here(tmp_path: Path) -> None:
    policy = add_model(Store(tmp_path), "alice/demo-policy").manifest
    assert policy is not None
    assert round_line([policy]) == "policy alice/demo-policy kept"
