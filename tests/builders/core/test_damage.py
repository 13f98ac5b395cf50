"""Damaged revisions: a build, a training and a model's finder refuse them, and there is a way out of each."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets_factory import add_dataset, add_model, plain_frame, scores_frame
from real_configs import config_on
from toy_pipeline import TOY, toy_config
from typer.testing import CliRunner

from builders.core.models import ModelFinder
from builders.core.run import dry_run, run
from builders.grace_kto.columns import QUERIES_COLUMNS
from builders.inspect.status import status
from builders.inspect.verify import verify
from builders.store.revision import Revision
from builders.store.store import Store
from scorers.errors import UserError
from training.cli import app
from training.pipelines import PIPELINES, build, load_config

SHARD = "data/train-00001-of-00004.parquet"
PIPELINES_AND_TOY = (*PIPELINES, TOY)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def remove(path: Path) -> None:
    path.unlink()


def double(path: Path) -> None:
    shutil.copy(path, path.with_name("more.parquet"))


def made_of(store: Path) -> dict[str, Revision]:
    """The toy's revisions, built."""
    return {result.stage: result.revision for result in run(TOY, toy_config(store), "totals")}


@pytest.mark.parametrize(("damage", "word"), [(remove, "missing"), (flip, "damaged"), (double, "not named")])
def test_a_damaged_dataset_given_with_from_is_refused(
    tmp_path: Path, damage: Callable[[Path], None], word: str
) -> None:
    """One shard of four deleted once gave three quarters of the weights, exit status 0, and `verify` said ok."""
    store = Store(tmp_path / "store")
    scores = add_dataset(store, "score", scores_frame(), shards=(2, 2, 2, 2))
    damage(scores.path / SHARD)
    arguments = ["build", "--stage", "calibrate", "--from", str(scores), "--store", str(store.root)]
    done = CliRunner().invoke(app, [*arguments, "--config", "tiny"])
    assert done.exit_code == 2 and len(done.stderr.strip().splitlines()) == 1
    assert f"error: dataset {scores}: data/" in done.stderr and word in done.stderr
    assert store.refs("local/tiny-weights") == {}
    planned = CliRunner().invoke(app, [*arguments, "--config", "tiny", "--dry-run"])
    assert planned.exit_code == 2 and planned.stderr == done.stderr


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        ("numbers", SHARD.replace("4", "5")),
        ("fold-2", "model.safetensors"),
        ("fold-2", "config.json"),
        ("totals", "data"),
    ],
)
@pytest.mark.parametrize("damage", [remove, flip])
def test_a_damaged_parent_or_kept_target_is_refused_and_made_again_when_deleted(
    tmp_path: Path, stage: str, name: str, damage: Callable[[Path], None]
) -> None:
    store = tmp_path / "store"
    made = made_of(store)
    broken = made[stage]
    path = next((broken.path / name).iterdir()) if name == "data" else broken.path / name
    damage(path)
    for attempt in (run, dry_run):
        with pytest.raises(UserError) as error:
            attempt(TOY, toy_config(store), "totals")
        said = str(error.value)
        assert said.startswith(f"{broken.manifest and broken.manifest.kind} {broken}: {path.relative_to(broken.path)}")
        assert said.endswith(f"delete {broken.path} and build it again")
    # The way out that the message names.
    shutil.rmtree(broken.path)
    results = run(TOY, toy_config(store), "totals")
    assert [result.stage for result in results if result.built] == [stage]
    assert {result.stage: result.revision for result in results} == made
    assert verify(broken, PIPELINES_AND_TOY) == []


@pytest.mark.parametrize("damage", [remove, flip])
@pytest.mark.parametrize("name", ["manifest.json", SHARD.replace("4", "5")])
def test_force_builds_a_whole_revision_in_the_place_of_a_damaged_one(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    store = tmp_path / "store"
    made = made_of(store)
    damage(made["totals"].path / name)
    damage(made["numbers"].path / name)
    with pytest.raises(UserError):
        run(TOY, toy_config(store), "totals")
    results = run(TOY, toy_config(store), "totals", force=True)
    assert [result.stage for result in results if result.built] == ["numbers", "totals"]
    assert {result.stage: result.revision for result in results} == made
    for revision in made.values():
        assert verify(revision, PIPELINES_AND_TOY) == []
    assert not any(result.built for result in run(TOY, toy_config(store), "totals"))


@pytest.mark.parametrize("text", ["{}", '{"format": 2, "pip', "", '{"format": 3}'])
def test_a_broken_manifest_is_told_before_anything_is_built(tmp_path: Path, text: str) -> None:
    store = tmp_path / "store"
    made = made_of(store)
    shutil.rmtree(made["numbers"].path)
    (made["totals"].path / "manifest.json").write_text(text)
    for attempt in (run, dry_run):
        with pytest.raises(UserError, match=r"manifest\.json: (not a manifest|written by a newer version)"):
            attempt(TOY, toy_config(store), "totals")
    assert not made["numbers"].path.exists()
    rows = {row.stage: row for row in status(TOY, toy_config(store))}
    assert {stage: row.state for stage, row in rows.items()} == {
        "numbers": "missing",
        **{f"fold-{fold}": "built" for fold in (1, 2, 3)},
        "totals": "damaged",
    }
    assert rows["totals"].revision == str(made["totals"]) and "manifest.json: " in str(rows["totals"].fault)


def test_a_policy_of_an_earlier_round_that_lacks_a_file_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    overrides = [f"seed.source={tmp_path / 'seeds.jsonl'}", "models.policy=local/none"]
    (tmp_path / "seeds.jsonl").write_text(json.dumps({"query": "Write a report."}) + "\n")
    config = load_config("tiny", overrides, str(store.root))
    policy = add_model(store, "local/tiny-policy", round_=1)
    add_dataset(store, "generate", plain_frame(QUERIES_COLUMNS), repo="local/tiny-queries")
    (policy.path / "config.json").unlink()
    with pytest.raises(UserError, match=rf"^model {policy}: config\.json is missing; its manifest names it; "):
        build(config, "generate", round_=2)
    (policy.path / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"tiny-policy/snapshots/.*/manifest\.json is missing; delete its folder"):
        build(config, "generate", round_=2)


def test_a_damaged_model_is_not_found_by_name(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    model = add_model(store, "local/demo-policy", round_=1)
    assert ModelFinder(store).find("local/demo-policy").path == model.path
    flip(model.path / "model.safetensors")
    for name in ("local/demo-policy", str(model)):
        with pytest.raises(UserError, match=rf"^model {model}: model\.safetensors is damaged"):
            ModelFinder(store).find(name)


def test_a_folder_that_the_project_wrote_is_compared_with_its_manifest(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    store = Store(tmp_path / "store")
    model = add_model(store, "local/demo-policy", round_=1)
    shutil.copytree(model.path, tmp_path / "copy")
    assert ModelFinder(store).find(str(tmp_path / "copy")).path == tmp_path / "copy"
    (tmp_path / "copy" / "config.json").unlink()
    with pytest.raises(UserError, match=rf"^model {model}: config\.json is missing; .*; give a whole copy$"):
        ModelFinder(store).find(str(tmp_path / "copy"))
    # Other software has files of that name.
    (tmp_path / "copy" / "manifest.json").write_text('{"name": "app"}')
    (tmp_path / "copy" / "config.json").write_text("{}")
    save_file({}, tmp_path / "copy" / "model.safetensors")
    assert ModelFinder(store).find(str(tmp_path / "copy")).path == tmp_path / "copy"
    (tmp_path / "copy" / "model.safetensors").write_bytes(b"half of it")
    with pytest.raises(UserError, match=r"copy/model\.safetensors: damaged"):
        ModelFinder(store).find(str(tmp_path / "copy"))


def test_a_damaged_grandparent_stops_nothing_but_leaves_its_language_out(tmp_path: Path) -> None:
    """What is not an input is not refused; a card only asks it for its language."""
    config = config_on(tmp_path)
    store = Store(Path(config.store))
    seed = build(config, "seed")[-1].revision
    scores = add_dataset(store, "score", scores_frame(), parents=[seed])
    remove(seed.data_files()[0])
    weights = build(config, "calibrate", start=str(scores))[-1].revision
    assert "\nlanguage:" not in (weights.path / "README.md").read_text(encoding="utf-8")


def test_status_shows_what_lacks_a_file_as_damaged(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    scores = add_dataset(store, "score", scores_frame(), repo="local/tiny-scores", shards=(2, 2, 2, 2))
    (scores.path / SHARD).unlink()
    broken = add_model(store, "local/tiny-policy", round_=1)
    (broken.path / "manifest.json").write_text("{}")
    arguments = ["status", "--config", "tiny", "--set", "loop.rounds=1", "--store", str(store.root)]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    lines = [line.split() for line in shown.output.splitlines()]
    assert ["1", "score", "dataset", "damaged", "8", str(scores)[:30]] in lines
    assert ["1", "policy", "model", "damaged", str(broken)[:30]] in lines
    assert f"damaged: {scores}: {SHARD} is missing; its manifest names it" in shown.output
    rows: list[dict[str, Any]] = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).output)["revisions"]
    found = {row["stage"]: row for row in rows}
    assert found["score"]["digest"] == scores.digest and found["policy"]["digest"] is None
    assert "not a manifest" in found["policy"]["fault"]


def test_damaged_seeds_are_told_before_the_prompts_are_chosen_from_them(tmp_path: Path) -> None:
    """The stage below reads their languages to know its own prompts; polars failed on the file."""
    config = config_on(tmp_path)
    seeds = build(config, "seed")[-1].revision.data_files()[0]
    seeds.write_bytes(seeds.read_bytes()[:50])
    with pytest.raises(UserError, match=r"^dataset local/tiny-seed@\w+: data/\S+ is damaged: it has 50 bytes"):
        build(config, "generate")
