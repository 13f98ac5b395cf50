"""The semi-online loop end to end on the trained tiny world, undisturbed, repeated, and killed again and again."""

import gc
import json
import re
import shutil
import time
from collections.abc import Collection
from pathlib import Path

import polars as pl
import pytest
from forks import script
from tiny_store import copy_store, small_config
from typer.testing import CliRunner

from builders.core.runner import StageResult
from builders.grace_kto.settings import GraceKTOSettings
from builders.inspect.status import status
from builders.store.revision import Revision
from builders.store.store import Store
from training.cli import app
from training.grace_kto.pipeline import GRACE_KTO
from training.pipelines import build, plan

pytestmark = pytest.mark.slow
KILLS = 12


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[GraceKTOSettings, list[StageResult], float]:
    """Two rounds undisturbed: configuration, results, seconds."""
    from training.loop import run_loop

    config = small_config(copy_store(tmp_path_factory.mktemp("loop") / "store"))
    began = time.monotonic()
    return config, run_loop(config), time.monotonic() - began


def last(results: list[StageResult], stage: str) -> Revision:
    return [result.revision for result in results if result.stage == stage][-1]


def test_the_loop_builds_and_trains_every_round(finished: tuple[GraceKTOSettings, list[StageResult], float]) -> None:
    config, results, _ = finished
    rounds = [(r.stage, r.round) for r in results if r.round]
    assert rounds == [(s, n) for n in (1, 2) for s in ("generate", "sample", "score", "calibrate", "policy")]
    assert all(row.state == "built" for row in status(GRACE_KTO, config))
    weights = last(results, "calibrate").scan().collect()
    assert weights.height == 32 and weights["round"].unique().to_list() == [2]
    scored = weights.filter(pl.col("reward").is_not_null())
    for label, sign in ((True, 1), (False, -1)):
        rows = scored.filter(pl.col("label") == label)
        assert rows["weight"].sum() == pytest.approx(sign * rows.height, abs=1e-6)


def test_the_second_round_is_sampled_by_the_first_rounds_policy(
    finished: tuple[GraceKTOSettings, list[StageResult], float],
) -> None:
    _, results, _ = finished
    trained = [result.revision for result in results if result.stage == "policy"]
    assert last(results, "sample").scan().collect()["policy"].unique().to_list() == [str(trained[0])]
    queries = [set(r.revision.scan().collect()["query_id"]) for r in results if r.stage == "generate"]
    assert not queries[0] & queries[1]
    assert trained[1].manifest is not None and trained[1].manifest.models["policy"].revision == trained[0].revision


def test_a_finished_loop_is_kept(finished: tuple[GraceKTOSettings, list[StageResult], float]) -> None:
    from training.loop import run_loop

    config, results, _ = finished
    again = run_loop(config)
    assert gc.get_freeze_count() == 0  # what stays frozen is reported as leaked when the process ends
    assert not any(result.built for result in again)
    assert [r.revision.revision for r in again] == [r.revision.revision for r in results]
    assert {found.action for found in plan(config, "calibrate", round_=2)} == {"keep"}


def test_only_what_a_change_touches_is_built_again(
    finished: tuple[GraceKTOSettings, list[StageResult], float], tmp_path: Path
) -> None:
    config, _, _ = finished
    store = tmp_path / "store"
    shutil.copytree(config.store, store)
    changed = small_config(store, "calibrate.coefficients.length=2.0")
    actions = {found.stage: found.action for found in plan(changed, "calibrate")}
    assert actions.pop("calibrate") == "build"
    assert set(actions.values()) == {"keep"} and {"seed", "sft", "sample", "score"} <= actions.keys()
    assert [result.stage for result in build(changed, "calibrate") if result.built] == ["calibrate"]


def test_a_later_round_builds_the_rounds_it_stands_on(tmp_path: Path) -> None:
    config = small_config(copy_store(tmp_path / "store"))
    results = build(config, "generate", round_=2)
    assert [(r.stage, r.round) for r in results if r.built] == [
        ("generate", 1),
        ("sample", 1),
        ("score", 1),
        ("calibrate", 1),
        ("policy", 1),
        ("generate", 2),
    ]


def without_round_2(config: GraceKTOSettings, target: Path, kept: Collection[str] = ()) -> GraceKTOSettings:
    """A copy of the finished store without what round 2 made and without the working folder."""
    shutil.copytree(config.store, target, symlinks=True, ignore=shutil.ignore_patterns(".work"))
    store = Store(target)
    for stage in GRACE_KTO.stages:
        repo = GRACE_KTO.repo(stage, config)
        commit = store.refs(repo, stage.kind).get("round-002")
        if commit is not None and stage.name not in kept:
            shutil.rmtree(store.repo_path(repo, stage.kind) / "snapshots" / commit)
            (store.repo_path(repo, stage.kind) / "refs" / "round-002").unlink()
    return config.model_copy(update={"store": str(target)})


def test_a_copied_store_goes_on_to_the_same_end(
    finished: tuple[GraceKTOSettings, list[StageResult], float], tmp_path: Path
) -> None:
    from training.loop import run_loop

    config, results, _ = finished
    again = run_loop(without_round_2(config, tmp_path / "copy"))
    assert [(r.stage, r.round) for r in again if r.built] == [(r.stage, 2) for r in results if r.round == 2]
    for stage in ("calibrate", "policy"):
        assert last(again, stage).revision == last(results, stage).revision
        assert last(again, stage).digest == last(results, stage).digest


def test_the_card_of_a_later_policy_reproduces_it(
    finished: tuple[GraceKTOSettings, list[StageResult], float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, results, _ = finished
    policy = last(results, "policy")
    copy = without_round_2(config, tmp_path / "copy", kept=("generate", "sample", "score", "calibrate"))
    card = (policy.path / "README.md").read_text(encoding="utf-8").partition("## Reproduce")[2]
    (command,) = re.findall(r"```bash\n(.+)\n```", card)
    (tmp_path / "grace.yaml").write_text(card.partition("```yaml\n")[2].partition("\n```")[0], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    program, *arguments = command.split()
    assert program == "train"
    done = CliRunner().invoke(app, [program, *arguments, "--store", copy.store, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.splitlines()[-1])["digest"] == policy.digest


def test_killed_at_random_moments_it_ends_with_the_same_weights(
    finished: tuple[GraceKTOSettings, list[StageResult], float], tmp_path: Path
) -> None:
    _, results, seconds = finished
    expected = (last(results, "calibrate").digest, last(results, "policy").digest)
    driver = Path(__file__).parents[1] / "support" / "kill_driver.py"
    done = script(driver, str(copy_store(tmp_path / "fresh")), str(tmp_path), str(seconds), str(KILLS))
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("finished")]
    assert lines and all(tuple(line[1:3]) == expected for line in lines), done.stdout
    assert f"kills {KILLS}" in done.stdout
