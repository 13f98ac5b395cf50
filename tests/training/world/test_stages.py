"""The generated world as stages: what is made once, shared between runs, and goes on after a kill."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import training.world.models
import training.world.relevance
from builders.core.runner import StageResult
from builders.grace_kto.messages import ask_for_queries
from builders.store.revision import Revision
from builders.store.store import Store
from training.grace_kto.pipeline import GRACE_KTO
from training.pipelines import build, load_config
from training.world.measures import is_well_formed
from training.world.stages import EXERCISES, HELD_OUT_QUERIES, SEED_DOCUMENTS, exercises
from training.world.texts import World

PROMPT = partial(ask_for_queries, prompt="generate.tiny")


def results(store: Path, stage: str, *overrides: str) -> list[StageResult]:
    """Build up to a stage in this process."""
    return build(load_config("tiny", ["workers=1", *overrides], str(store)), stage)


def revision(store: Path, stage: str, *overrides: str) -> Revision:
    return results(store, stage, *overrides)[-1].revision


@pytest.fixture
def one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model of the world is trained by one step."""
    for module, name in (
        (training.world.models, "train_base"),
        (training.world.models, "train_general"),
        (training.world.models, "train_domain"),
        (training.world.relevance, "train_relevance"),
    ):
        monkeypatch.setattr(module, name, partial(getattr(module, name), steps=1))


@pytest.mark.slow
def test_the_texts_are_those_of_the_seed(tmp_path: Path) -> None:
    for seed in (0, 3):
        world = World(seed)
        override = f"world.seed={seed}"
        seeds = revision(tmp_path, "world:seeds", override).scan().collect()
        assert seeds.to_dicts() == world.seed_documents(SEED_DOCUMENTS)
        held_out = revision(tmp_path, "world:heldout", override).scan().collect()["query"].to_list()
        assert held_out == world.heldout_queries(HELD_OUT_QUERIES)
        assert not set(held_out) & set(seeds["query"]) and all(map(is_well_formed, held_out))
        taught = revision(tmp_path, "world:exercises", override).scan().collect()
        assert taught.to_dicts() == exercises(PROMPT, world) and taught.height == EXERCISES
    assert len(held_out) >= load_config("tiny").evaluate.queries


def test_query_exercises_are_those_of_the_seed_and_not_the_base_models() -> None:
    mine = exercises(PROMPT, World(1))
    assert mine == exercises(PROMPT, World(1)) != exercises(PROMPT, World(2))
    learnt = World(1).query_conversations(EXERCISES, PROMPT)
    assert not [row for row in mine if row in learnt]


def test_runs_of_one_store_share_the_world(tmp_path: Path) -> None:
    (first,) = results(tmp_path, "world:seeds")
    assert first.built and first.revision.repo == "local/grace-kto-world-0-seeds"
    (other,) = results(tmp_path, "world:seeds", "name=other", "generate.queries=3", "threads=2")
    assert not other.built and other.revision == first.revision
    (following,) = results(tmp_path, "world:seeds", "random_seed=7")
    assert following.built and following.revision.repo == "local/grace-kto-world-7-seeds"
    (kept,) = results(tmp_path, "world:seeds", "random_seed=7", "world.seed=0")
    assert not kept.built and kept.revision == first.revision


@pytest.mark.slow
def test_the_worlds_models_are_revisions_with_their_results(tmp_path: Path, one_step: None) -> None:
    made = results(tmp_path, "world:domain")
    assert [(r.stage, r.round, r.built) for r in made] == [("world:general", 0, True), ("world:domain", 0, True)]
    general, domain = (result.revision.manifest for result in made)
    assert general is not None and domain is not None
    assert (general.kind, general.repo) == ("model", "local/grace-kto-world-0-general")
    assert set(general.results) == {"parameters", "steps", "loss"} and general.results["steps"] == 1
    assert general.configuration == {"world": {"seed": 0}} and general.execution == {}
    assert general.bytes_depend_on == ["kind of processor"] and general.parents == []
    (parent,) = domain.parents
    assert (parent.stage, parent.kind, parent.revision) == ("world:general", "model", made[0].revision.revision)
    assert parent.digest == general.digest != domain.digest
    assert {"model.safetensors", "tokenizer.json", "config.json"} <= {file.path for file in domain.files}
    assert not any(result.built for result in results(tmp_path, "world:domain", "name=other"))

    relevance = revision(tmp_path, "world:bge-m3").manifest
    assert relevance is not None and 0 < relevance.results["auc_document"] < 1
    assert {"colbert_linear.pt", "sparse_linear.pt"} <= {file.path for file in relevance.files}


class Killed(BaseException):
    """Stands for the end of the process, which no code handles."""


@pytest.fixture
def killed_in_domain(one_step: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The first training of the domain model ends half-way, its folder half-written."""
    finished = training.world.models.train_domain
    events: list[str] = []

    def train_domain(folder: Path, **arguments: Any) -> dict[str, float]:
        events.append("domain")
        if len(events) > 1:
            return finished(folder, **arguments)
        (folder / "half.safetensors").write_bytes(b"half")
        raise Killed

    monkeypatch.setattr(training.world.models, "train_domain", train_domain)
    yield events


@pytest.mark.slow
def test_after_a_kill_finished_parts_are_kept_and_leftovers_go(tmp_path: Path, killed_in_domain: list[str]) -> None:
    store = tmp_path / "store"
    with pytest.raises(Killed):
        results(store, "world:domain")
    opened, config = Store(store), load_config("tiny")
    general, domain = (GRACE_KTO.repo(GRACE_KTO.stage(f"world:{name}"), config) for name in ("general", "domain"))
    kept = opened.find(general, "main", "model")
    assert kept is not None and opened.refs(domain, "model") == {}
    assert not opened.repo_path(domain, "model").exists()

    again = results(store, "world:domain")
    assert [(result.stage, result.built) for result in again] == [("world:general", False), ("world:domain", True)]
    assert again[0].revision == kept and killed_in_domain == ["domain", "domain"]
    names = {path.name for path in again[1].revision.path.rglob("*")}
    assert "half.safetensors" not in names and "model.safetensors" in names
    assert not list(store.rglob("half.safetensors"))
    undisturbed = revision(tmp_path / "other", "world:domain")
    assert undisturbed.revision == again[1].revision.revision
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.name != ".lock"}
    results(store, "world:domain")
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.name != ".lock"} == before


def test_every_training_runs_on_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    used: list[int] = []

    def train_base(folder: Path, **arguments: Any) -> dict[str, float]:
        used.append(torch.get_num_threads())
        for name in ("config.json", "model.safetensors", "tokenizer_config.json"):
            (folder / name).write_text("{}")
        if len(used) > 1:
            raise ValueError("broken")
        return {"loss": 1.0}

    monkeypatch.setattr(training.world.models, "train_base", train_base)
    before = torch.get_num_threads()
    try:
        results(tmp_path, "world:base", "threads=2")
        assert used == [1] and torch.get_num_threads() == 2
        with pytest.raises(ValueError, match="broken"):
            results(tmp_path, "world:base", "threads=2", "world.seed=1")
        assert used == [1, 1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_columns_hold_what_sft_reads(tmp_path: Path) -> None:
    taught = revision(tmp_path, "world:exercises").scan().collect()
    roles = pl.element().struct.field("role")
    assert set(taught["prompt"].list.eval(roles).explode()) == {"user"}
    assert set(taught["completion"].list.eval(roles).explode()) == {"assistant"}


DRIVER = Path(__file__).parents[2] / "support" / "world_driver.py"


def session_of(leader: int) -> set[int]:
    """The processes that a command started, itself left out, but for those that have ended."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # one that ends meanwhile
            state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader != int(folder.name) and state != "Z":
                found.add(int(folder.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks processes up in /proc")
def test_killed_while_models_are_trained_no_trainer_is_left_and_a_rerun_makes_whole_models(tmp_path: Path) -> None:
    store = tmp_path / "store"
    run = subprocess.Popen([sys.executable, str(DRIVER), str(store), "1000000"], start_new_session=True)
    deadline = time.monotonic() + 120
    # Both trainings have begun: a tokenizer is the first file of each.
    while len(list(store.glob(".work/*/*/model/tokenizer.json"))) < 2:
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    assert len(session_of(run.pid)) >= 2
    run.kill()
    run.wait()
    deadline = time.monotonic() + 5
    while (left := session_of(run.pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left
    again = subprocess.run([sys.executable, str(DRIVER), str(store), "1"], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr[-2000:]
    models = [set(line.split()) for line in again.stdout.splitlines()]
    whole = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "manifest.json"}
    assert len(models) == 2 and all(whole <= names for names in models)
