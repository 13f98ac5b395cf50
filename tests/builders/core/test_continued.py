"""A run that goes on from another one's rounds: what is taken from there, what is made here, what is refused."""

from pathlib import Path

import pytest
from datasets_factory import add_dataset, add_model, plain_frame, scores_frame
from real_configs import config_on

from builders.core.nodes import Node
from builders.core.plan import Graph
from builders.grace_kto.columns import QUERIES_COLUMNS, SEED_COLUMNS
from builders.grace_kto.settings import GraceKTOSettings
from builders.inspect.status import status
from builders.settings.base import identities
from builders.store.manifest import Model
from builders.store.revision import Revision
from builders.store.store import Store
from scorers.errors import UserError
from training.grace_kto.pipeline import GRACE_KTO
from training.pipelines import build, plan

OTHER = "continues=local/other@round-002"


def graph_of(config: GraceKTOSettings, stage: str, round_: int) -> Graph:
    return Graph(GRACE_KTO, config, Store(Path(config.store)), [Node(stage, round_)], {})


def add_queries(store: Store, run: str, round_: int) -> Revision:
    return add_dataset(store, "generate", plain_frame(QUERIES_COLUMNS), repo=f"local/{run}-queries", round_=round_)


def other_run(store: Store) -> dict[int, Revision]:
    """Queries and policies of two rounds of a run called other; the policies."""
    for round_ in (1, 2):
        add_queries(store, "other", round_)
    return {round_: add_model(store, "local/other-policy", round_=round_) for round_ in (1, 2)}


def test_the_rounds_up_to_the_named_one_are_the_other_runs(tmp_path: Path) -> None:
    config = config_on(tmp_path, OTHER, "name=mine", "loop.rounds=3", policy=tmp_path)
    policies = other_run(Store(Path(config.store)))
    graph = graph_of(config, "policy", 3)
    assert graph.given[Node("policy", 2)] == policies[2]
    assert graph.kept == dict.fromkeys(graph.given, "of local/other@round-002")
    assert set(graph.given) == {Node("policy", 2), Node("generate", 1), Node("generate", 2)}
    # What is made from there on has this run's name.
    assert {node.round for node in graph.needs if node.stage in ("sample", "calibrate")} == {3}
    plans = {(found.stage, found.round): found for found in plan(config, "policy", round_=3)}
    assert plans["policy", 2].repo == "local/other-policy" and plans["policy", 2].action == "keep"
    assert plans["policy", 3].repo == "local/mine-policy" and plans["policy", 3].action == "build"
    rows = {(row.stage, row.round): row for row in status(GRACE_KTO, config)}
    assert rows["policy", 1].revision == str(policies[1]) and rows["policy", 2].revision == str(policies[2])
    assert rows["policy", 3].state == "missing"


def test_an_own_revision_of_such_a_round_does_not_count(tmp_path: Path) -> None:
    config = config_on(tmp_path, OTHER, "name=mine", policy=tmp_path)
    store = Store(Path(config.store))
    policies = other_run(store)
    add_model(store, "local/mine-policy", round_=2)
    assert graph_of(config, "generate", 3).given[Node("policy", 2)] == policies[2]
    mine = add_model(store, "local/mine-policy", round_=3)
    queries = add_queries(store, "mine", 3)
    graph = graph_of(config, "generate", 4)
    assert graph.given[Node("policy", 3)] == mine and graph.given[Node("generate", 3)] == queries
    assert Node("policy", 2) not in graph.needs


def test_what_all_rounds_share_is_taken_while_its_settings_are_the_same(tmp_path: Path) -> None:
    config = config_on(tmp_path, OTHER, "name=mine", policy=tmp_path)
    store = Store(Path(config.store))
    other_run(store)
    assert Node("seed", 0) not in graph_of(config, "generate", 3).given  # the other run has none
    theirs = build(config_on(tmp_path, "name=other", policy=tmp_path), "seed")[-1].revision
    assert graph_of(config, "generate", 3).given[Node("seed", 0)] == theirs
    changed = config_on(tmp_path, OTHER, "name=mine", "seed.max_query_chars=77", policy=tmp_path)
    assert Node("seed", 0) not in graph_of(changed, "generate", 3).given
    assert build(changed, "seed")[-1].revision.repo == "local/mine-seed"


def test_another_model_makes_what_is_shared_anew(tmp_path: Path) -> None:
    config = config_on(tmp_path, OTHER, "name=mine", "models.policy=sft", "models.base=local/b")
    store = Store(Path(config.store))
    other_run(store)
    stage = GRACE_KTO.stage("sft")
    theirs = add_model(
        store, "local/other-sft", round_=0, stage_version=stage.version,
        models={"base": Model(id="alice/b", revision="0" * 40)}, configuration=identities(config, stage.sections),
    )  # fmt: skip
    assert graph_of(config, "policy", 3).given[Node("sft", 0)] == theirs
    changed = config.model_copy(update={"models": config.models.model_copy(update={"base": "local/c"})})
    assert Node("sft", 0) not in graph_of(changed, "policy", 3).given


def test_the_run_itself_and_rounds_made_anew_are_refused(tmp_path: Path) -> None:
    config = config_on(tmp_path, OTHER, "name=mine", policy=tmp_path)
    other_run(Store(Path(config.store)))
    for stage in ("policy", "calibrate"):
        with pytest.raises(UserError, match="--force makes round 2 anew, which is of local/other@round-002"):
            build(config, stage, round_=2, force=True)
    with pytest.raises(UserError, match="continues local/other@round-002: is this run itself"):
        plan(config_on(tmp_path, OTHER, "name=other"), "seed")
    with pytest.raises(UserError, match=r"local/other-policy.*; the store has local/other-policy at round-002"):
        plan(config_on(tmp_path, "continues=local/other@round-003", "name=mine"), "generate", round_=1)


def test_a_plan_and_the_status_ask_nothing_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    config = config_on(tmp_path, "continues=alice/demo@round-001", "name=mine", "loop.rounds=2", policy=tmp_path)
    plans = {(found.stage, found.round): found for found in plan(config, "sample", round_=2)}
    policy = plans["policy", 1]
    assert (policy.repo, policy.action) == ("alice/demo-policy", "keep")
    assert policy.reason == "of alice/demo@round-001, pulled first"
    assert plans["generate", 2].action == "build"
    rows = {(row.stage, row.round): row for row in status(GRACE_KTO, config)}
    assert rows["policy", 1].state == rows["seed", 0].state == "unpulled"
    assert rows["policy", 2].state == "missing" and not Path(config.store).exists()


def test_a_round_that_is_nowhere_is_named_with_what_is_near(tmp_path: Path) -> None:
    config = config_on(tmp_path, "continues=local/other@round-003", policy=tmp_path)
    other_run(Store(Path(config.store)))
    with pytest.raises(UserError) as error:
        graph_of(config, "policy", 3)
    assert str(error.value).startswith("continues local/other@round-003: model local/other-policy")
    assert str(error.value).endswith("the store has local/other-policy at round-002, round-001")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", ["other", "local/other", "local/other@main", "local/other@round-2", "../x@round-001"])
def test_what_names_no_round_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(UserError, match="expected namespace/name@round-NNN, such as alice/demo@round-002"):
        config_on(tmp_path, f"continues={value}")


def test_the_setting_makes_nothing_stale_and_stands_on_the_card(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    scores = add_dataset(store, "score", scores_frame())
    add_dataset(store, "seed", plain_frame(SEED_COLUMNS), repo="local/other-seed")
    other_run(store)
    made = build(config_on(tmp_path), "calibrate", start=str(scores))[-1]
    again = build(config_on(tmp_path, "continues=local/other@round-001"), "calibrate", round_=2, start=str(scores))[-1]
    assert made.built and again.built and made.revision.digest == again.revision.digest
    assert again.revision.manifest is not None
    assert again.revision.manifest.execution["continues"] == "local/other@round-001"
    card = (again.revision.path / "README.md").read_text(encoding="utf-8")
    assert "\ncontinues: local/other@round-001\n" in card
