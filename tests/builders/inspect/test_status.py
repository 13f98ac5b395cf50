"""`grace status`: one row for each revision that a configuration makes."""

import json
from pathlib import Path

from datasets_factory import add_dataset, add_model, scores_frame, weights_frame
from real_configs import config_on
from toy_pipeline import TOY, toy_config
from typer.testing import CliRunner

from builders.core.run import run
from builders.inspect.status import Status, status
from builders.store.store import Store
from training.cli import app
from training.grace_kto.pipeline import GRACE_KTO
from training.pipelines import build, load_config

ROUND_STAGES = ("generate", "sample", "score", "calibrate", "policy")


def keys(rows: list[Status]) -> list[tuple[int, str]]:
    return [(row.round, row.stage) for row in rows]


def test_an_empty_store_holds_nothing_and_stays_so(tmp_path: Path) -> None:
    policy = tmp_path / "policy"  # a model of somebody else's is no stage, and is not looked at
    config = config_on(tmp_path, "loop.rounds=2", "models.policy=sft", policy=policy, relevance=policy)
    rows = status(GRACE_KTO, config)
    assert keys(rows) == [
        (0, "seed"),
        (0, "sft"),
        *((round_, stage) for round_ in (1, 2) for stage in ROUND_STAGES),
    ]
    assert {row.kind for row in rows if row.stage in ("sft", "policy")} == {"model"}
    assert {row.kind for row in rows if row.stage not in ("sft", "policy")} == {"dataset"}
    assert {(row.state, row.rows, row.revision, row.digest) for row in rows} == {("missing", None, None, None)}
    assert not (tmp_path / "store").exists()


def test_models_that_stages_make_are_shown_with_the_texts_they_come_from(tmp_path: Path) -> None:
    rows = status(GRACE_KTO, load_config("tiny", ["loop.rounds=1"], str(tmp_path / "store")))
    assert keys(rows) == [
        (0, "world:seeds"),
        (0, "world:exercises"),
        (0, "world:bge-m3"),
        (0, "world:base"),
        (0, "world:general"),
        (0, "world:domain"),
        (0, "seed"),
        (0, "sft"),
        *((1, stage) for stage in ROUND_STAGES),
    ]  # world:heldout belongs to the evaluation, not to a round


def test_a_policy_that_no_stage_makes_needs_no_fine_tuning(tmp_path: Path) -> None:
    config = config_on(tmp_path, "loop.rounds=1", policy=tmp_path / "policy", relevance=tmp_path / "policy")
    assert keys(status(GRACE_KTO, config)) == [(0, "seed"), *((1, stage) for stage in ROUND_STAGES)]


def test_what_is_there_is_shown_with_its_rows_and_digest(tmp_path: Path) -> None:
    config = config_on(tmp_path, "loop.rounds=2")
    store = Store(Path(config.store))
    seeds = build(config, "seed")[-1].revision
    scores = add_dataset(store, "score", scores_frame(), repo="local/tiny-scores", round_=2)
    policy = add_model(store, "local/tiny-policy", round_=1)
    built = {(row.round, row.stage): row for row in status(GRACE_KTO, config) if row.state == "built"}
    assert set(built) == {(0, "seed"), (2, "score"), (1, "policy")}
    assert built[0, "seed"].revision == str(seeds) and built[0, "seed"].rows == 6
    assert built[2, "score"] == Status(2, "score", "dataset", "built", 8, str(scores), scores.digest)
    assert built[1, "policy"].revision == str(policy) and built[1, "policy"].kind == "model"


def test_what_was_pulled_stands_for_what_it_was_made_from(tmp_path: Path) -> None:
    """Parents of a revision of the Hub need not be here; they are listed where it would have to be built again."""
    overrides = ("namespace=alice", "loop.rounds=1")
    config = config_on(tmp_path, *overrides, policy=tmp_path / "policy", relevance=tmp_path / "policy")
    store = Store(Path(config.store))
    weights = add_dataset(store, "calibrate", weights_frame(scores_frame()), repo="alice/tiny-weights")
    commit = "0123456789abcdef0123456789abcdef01234567"
    weights.path.rename(weights.path.with_name(commit))
    store.set_refs(weights.repo, "dataset", commit, ["round-001"])
    rows = status(GRACE_KTO, config)
    assert [(row.stage, row.state) for row in rows] == [("calibrate", "built"), ("policy", "missing")]
    assert rows[0].revision == f"alice/tiny-weights@{commit}"
    other = config.model_copy(update={"calibrate": config.calibrate.model_copy(update={"binary": True})})
    assert keys(status(GRACE_KTO, other)) == [(0, "seed"), *((1, stage) for stage in ROUND_STAGES)]


def test_what_a_tag_stood_for_is_shown(tmp_path: Path) -> None:
    """Which revision was round-001 yesterday?"""
    store = Store(tmp_path / "store")
    made = [add_dataset(store, "score", scores_frame(((n, 20),)), repo="local/tiny-scores") for n in range(1, 4)]
    arguments = ["status", "--config", "tiny", "--store", str(store.root)]
    shown = CliRunner().invoke(app, arguments).output
    (line,) = (line for line in shown.splitlines() if line.startswith("round-001 "))
    assert line.startswith(f"round-001 stood for {made[1]} until 20")
    assert line.endswith(", and for 1 other before (--json lists all)")
    rows = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).output.splitlines()[-1])["revisions"]
    found = next(row for row in rows if (row["round"], row["stage"]) == (1, "score"))
    assert found["revision"] == str(made[2])
    assert [(move["repo"], move["ref"], move["revision"]) for move in found["earlier"]] == [
        ("local/tiny-scores", "round-001", made[1].revision),
        ("local/tiny-scores", "round-001", made[0].revision),
    ]


def test_another_pipeline_has_its_own_stages(tmp_path: Path) -> None:
    config = toy_config(tmp_path / "store", workers=1)
    results = run(TOY, config, "fold-2")
    rows = status(TOY, config)
    names = ["numbers", "fold-1", "fold-2", "fold-3", "totals"]
    assert keys(rows) == [(0, name) for name in names]
    assert [row.stage for row in rows if row.state == "built"] == ["numbers", "fold-2"]
    assert rows[2].revision == str(results[-1].revision)


def test_the_command(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    scores = add_dataset(store, "score", scores_frame(), repo="local/tiny-scores", round_=2)
    args = ["status", "--config", "tiny", "--set", "loop.rounds=2", "--store", str(store.root)]
    shown = CliRunner().invoke(app, args)
    assert shown.exit_code == 0, shown.output
    lines = [line.split() for line in shown.output.splitlines() if line.strip()]
    assert lines[0] == ["round", "stage", "kind", "state", "rows", "revision"]
    assert ["2", "score", "dataset", "built", "8", f"{scores.repo}@{scores.revision[:12]}"] in lines
    assert ["1", "policy", "model", "missing"] in lines
    value = json.loads(CliRunner().invoke(app, [*args, "--json"]).output.splitlines()[-1])
    (row,) = (row for row in value["revisions"] if row["state"] == "built")
    assert row == {
        "round": 2,
        "stage": "score",
        "kind": "dataset",
        "state": "built",
        "rows": 8,
        "revision": str(scores),
        "digest": scores.digest,
        "fault": None,
        "earlier": [],
    }
