"""A second pipeline with models in the middle goes through all of the common code: nothing in it knows GRACE-KTO."""

import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hub_clients import TOKEN
from hub_server import HubServer
from toy_pipeline import TOY, toy_config

from builders.core.run import dry_run, run
from builders.core.stage import Context, Shard
from builders.core.work import build_shard, shard_path
from builders.hub.publish import push
from builders.hub.pull import pull
from builders.inspect.diff import diff
from builders.inspect.lineage import lineage
from builders.inspect.status import status
from builders.inspect.verify import verify
from builders.store.files import file_sha256
from builders.store.ref import Ref
from builders.store.store import Store
from scorers.errors import UserError

FOLDS = ["fold-1", "fold-2", "fold-3"]
ORDER = ["numbers", *FOLDS, "totals"]


def test_it_is_built_once_and_only_what_a_change_touches_again(tmp_path: Path) -> None:
    config = toy_config(tmp_path)
    assert [plan.action for plan in dry_run(TOY, config, "totals")] == ["build"] * 5
    first = run(TOY, config, "totals")
    assert [result.stage for result in first] == ORDER and all(result.built for result in first)
    again = run(TOY, config, "totals")
    assert not any(result.built for result in again)
    assert [r.revision for r in again] == [r.revision for r in first]
    total = first[-1].revision.scan().collect()["total"]
    assert total.unique().to_list() == [2 * sum(range(30))]
    more = run(TOY, toy_config(tmp_path, numbers={"rows": 31}), "totals")
    assert [(r.stage, r.reason) for r in more if r.built][:2] == [
        ("numbers", "configuration changed: numbers.rows"),
        ("fold-1", "parent changed: numbers"),
    ]


def test_what_decides_time_alone_makes_nothing_stale_and_is_recorded(tmp_path: Path) -> None:
    run(TOY, toy_config(tmp_path), "totals")
    other = run(TOY, toy_config(tmp_path, workers=4, numbers={"batch_size": 64}), "totals")
    assert not any(result.built for result in other)
    manifest = other[0].revision.manifest
    assert manifest is not None
    assert manifest.configuration == {"numbers": {"rows": 30, "shard_rows": 7}}
    assert manifest.execution == {"numbers": {"batch_size": 2}}
    assert (manifest.format, manifest.pipeline) == (2, "toy")


def test_models_are_trained_in_processes_of_their_own_with_the_same_result(tmp_path: Path) -> None:
    one = run(TOY, toy_config(tmp_path / "one"), "totals")
    three = run(TOY, toy_config(tmp_path / "three", workers=3), "totals")
    assert {r.stage: r.revision.digest for r in one} == {r.stage: r.revision.digest for r in three}
    assert three[-1].stage == "totals"


def test_the_manifest_names_the_kind_of_every_parent(tmp_path: Path) -> None:
    manifest = run(TOY, toy_config(tmp_path), "totals")[-1].revision.manifest
    assert manifest is not None
    assert [(p.stage, p.kind) for p in manifest.parents] == [("numbers", "dataset"), *((f, "model") for f in FOLDS)]


def test_a_shard_is_a_task_of_plain_values_that_another_process_can_run(tmp_path: Path) -> None:
    config, stage = toy_config(tmp_path), TOY.stage("numbers")
    whole = run(TOY, config, "numbers")[-1].revision.data_files()
    task = (stage, Context(config, Store(tmp_path), 0, {}, {}, tmp_path / "elsewhere"), Shard(1, (7, 14)))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "task").write_bytes(pickle.dumps(task))
    code = (
        "import pickle, sys; from builders.core.work import build_shard as b; b(*pickle.load(open(sys.argv[1], 'rb')))"
    )
    path = os.pathsep.join(["tests/support", os.environ.get("PYTHONPATH", "")])
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", code, str(tmp_path / "task")]
    subprocess.run(command, check=True, cwd=root, env={**os.environ, "PYTHONPATH": path})
    assert file_sha256(shard_path(tmp_path / "elsewhere", Shard(1, None))) == file_sha256(whole[1])
    assert build_shard(*task) == shard_path(tmp_path / "elsewhere", Shard(1, None))


def test_killed_at_random_moments_it_ends_with_the_same_digests(tmp_path: Path) -> None:
    expected = {r.stage: r.revision.digest for r in run(TOY, toy_config(tmp_path / "calm"), "totals")}
    draw, store = random.Random(1), tmp_path / "killed"
    kills = 0
    while kills < 12:
        child = os.fork()
        if child == 0:
            run(TOY, toy_config(store), "totals")
            os._exit(0)
        time.sleep(draw.uniform(0.002, 0.15))
        os.kill(child, signal.SIGKILL)
        kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        if Store(store).find("local/demo-totals", "main") is not None:
            again = {r.stage: r.revision.digest for r in run(TOY, toy_config(store), "totals")}
            assert again == expected
            assert not list((store / ".work").glob("*/*"))
            shutil.rmtree(store)
    assert {r.stage: r.revision.digest for r in run(TOY, toy_config(store), "totals")} == expected


def test_it_is_verified_by_its_own_check(tmp_path: Path) -> None:
    revision = run(TOY, toy_config(tmp_path), "totals")[-1].revision
    assert verify(revision, (TOY,)) == []
    assert [f.what for f in verify(revision, ())] == ["pipeline"]
    model = run(TOY, toy_config(tmp_path), "fold-2")[-1].revision
    assert verify(model, (TOY,)) == []
    (model.path / "config.json").write_text("{}")
    assert {f.what for f in verify(model, (TOY,))} == {"size", "sha256", "digest"}


def test_a_wrong_total_is_found_by_the_check(tmp_path: Path) -> None:
    results = run(TOY, toy_config(tmp_path), "totals")
    numbers, totals = results[0].revision, results[-1].revision
    shutil.copy(totals.data_files()[0], tmp_path / "kept")
    assert numbers.manifest is not None and totals.manifest is not None
    fewer = totals.manifest.model_copy(update={"files": totals.manifest.files[:1]})
    from toy_pipeline import check_totals

    found = check_totals(fewer, {"data/a": totals.data_files()[0]}, True)
    assert [(f.what, f.stored) for f in found] == [("total", str(2.0 * sum(range(30))))]


def test_status_and_diff_know_its_stages(tmp_path: Path) -> None:
    config = toy_config(tmp_path)
    run(TOY, config, "fold-2")
    rows = {row.stage: (row.kind, row.state) for row in status(TOY, config)}
    assert rows["numbers"] == ("dataset", "built") and rows["fold-2"] == ("model", "built")
    assert rows["fold-1"] == ("model", "missing") and rows["totals"] == ("dataset", "missing")
    revision = run(TOY, config, "totals")[-1].revision
    assert list(diff(revision, revision, TOY.summaries())["metrics"]) == ["total"]


def test_its_cards_are_rendered_from_its_own_data(tmp_path: Path) -> None:
    results = {r.stage: r.revision for r in run(TOY, toy_config(tmp_path), "totals")}
    totals = (results["totals"].path / "README.md").read_text()
    assert "- toy\n" in totals and "- stage-totals\n" in totals and "- totals\n" in totals
    assert f"build --stage totals --from local/demo-numbers@{results['numbers'].revision}" in totals
    assert "sum of what the models of all folds hold" in totals
    fold = (results["fold-1"].path / "README.md").read_text()
    assert "stage-fold-1" in fold and "train --stage fold-1 --dataset local/demo-numbers" in fold


def test_an_unknown_stage_names_the_close_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--stage fold-4: unknown, did you mean fold-"):
        run(TOY, toy_config(tmp_path), "fold-4")


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    from huggingface_hub import constants

    with HubServer() as server:
        server.add_token(TOKEN, "alice")
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


def test_it_is_published_pulled_verified_and_traced(tmp_path: Path, published: object) -> None:
    config = toy_config(tmp_path / "mine")
    made = run(TOY, config, "totals")[-1].revision
    there = push(str(made), config, TOY.page)
    assert there["repo"] == "alice/demo-totals" and there["tag"] == "round-000"
    theirs = Store(tmp_path / "theirs")
    pulled = pull(Ref("alice/demo-totals", "round-000"), theirs)
    assert pulled.digest == made.digest and verify(pulled, (TOY,)) == []
    nodes = lineage("alice/demo-totals@round-000", theirs)
    assert {(node.kind, node.stage, node.state) for node in nodes} == {
        ("dataset", "totals", "found"),
        ("dataset", "numbers", "found"),
        *(("model", fold, "found") for fold in FOLDS),
    }
    # What was pulled is taken as it is: nothing above it has to be here, and nothing is built again.
    stranger = toy_config(tmp_path / "theirs", namespace="alice")
    assert [(r.stage, r.built, r.reason) for r in run(TOY, stranger, "totals")] == [
        ("totals", False, "as it was pulled")
    ]
