"""`grace rehearse`: the whole loop on real tiny models, measured, with nothing left behind."""

import json
import shutil
from pathlib import Path

import pytest
from real_configs import config_on
from typer.testing import CliRunner

from scorers.errors import UserError
from scorers.extraction import extract
from training.cli import app
from training.grace_kto import rehearsal
from training.pipelines import load_config, rehearse

STAGES = ["seed", "generate", "sample", "score", "calibrate", "policy"]


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which throw-away stores are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def test_the_documents_have_the_form() -> None:
    assert all(extract(text) is not None for text in rehearsal.DOCUMENTS.values())


def test_every_stage_runs_once_and_nothing_is_kept(
    tmp_path: Path, temporary: Path, causal_lm_dir: Path, bge_m3_dir: Path
) -> None:
    config = config_on(tmp_path, "train.method=lora", "train.lora_rank=4", policy=causal_lm_dir, relevance=bge_m3_dir)
    parts = rehearse(config)
    assert [part.part for part in parts] == STAGES
    notes = {part.part: part.note for part in parts}
    # A model with random weights writes neither lists nor tags.
    assert "hold no queries" in notes["generate"] and "stand for responses" in notes["sample"]
    assert all(part.seconds > 0 and part.memory > 2**20 for part in parts)
    assert {part.part for part in parts if part.hours is not None} == {"generate", "sample", "score", "policy"}
    assert list(temporary.iterdir()) == [] and not (tmp_path / "store").exists()


def test_random_models_of_the_same_shapes(
    tmp_path: Path, temporary: Path, causal_lm_dir: Path, bge_m3_dir: Path
) -> None:
    folders = []
    for source in (causal_lm_dir, bge_m3_dir):  # the shapes alone
        folders.append(tmp_path / source.name)
        folders[-1].mkdir()
        shutil.copy(source / "config.json", folders[-1])
    config = config_on(tmp_path, policy=folders[0], relevance=folders[1])
    with pytest.raises(UserError, match="safetensors"):
        rehearse(config)
    parts = rehearse(config, random_weights=True)
    assert [part.part for part in parts] == ["random models", *STAGES]
    assert list(temporary.iterdir()) == []


def test_an_interruption_leaves_nothing(
    tmp_path: Path, temporary: Path, causal_lm_dir: Path, bge_m3_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object) -> None:
        assert list(temporary.iterdir())
        raise KeyboardInterrupt

    monkeypatch.setattr(rehearsal, "_build", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rehearse(config_on(tmp_path, policy=causal_lm_dir, relevance=bge_m3_dir))
    assert list(temporary.iterdir()) == []


def test_a_server_has_nothing_to_rehearse() -> None:
    config = load_config("tiny", ["models.policy=writer", "engines.policy={kind: openai}"])
    with pytest.raises(UserError, match=r"grace rehearse needs the policy itself, .*; set engines\.policy\.kind to"):
        rehearse(config)


def test_the_command_prints_json(tmp_path: Path, temporary: Path, causal_lm_dir: Path, bge_m3_dir: Path) -> None:
    names = [f"models.{role}={causal_lm_dir}" for role in ("base", "policy", "general", "domain")]
    sets = [*names, f"models.relevance={bge_m3_dir}"]
    args = ["rehearse", "--config", "tiny", *(word for text in sets for word in ("--set", text)), "--json"]
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 0, done.output
    assert [part["part"] for part in json.loads(done.stdout.splitlines()[-1])["parts"]] == STAGES


@pytest.mark.large
def test_real_shapes_within_twelve_gigabytes(tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    config = load_config("qwen2.5-0.5b", ["score.texts_per_batch=2"], str(tmp_path / "store"))
    parts = rehearse(config, random_weights=True)
    assert [part.part for part in parts] == ["random models", *STAGES]
    assert max(part.memory for part in parts) < 12e9
