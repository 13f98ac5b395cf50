"""The commands that build nothing, and what every command says of itself."""

import json
import os
import re
from pathlib import Path

import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner

from builders.settings.base import MAX_ROUNDS, shown_values
from training import options
from training.cli import app
from training.pipelines import load_config

COMMANDS = sorted(get_command(app).commands)  # type: ignore[attr-defined]


def printed(*args: str) -> str:
    """What a command prints on stdout."""
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_examples_that_call_it(command: str) -> None:
    text = printed(command, "--help")
    assert max(map(len, text.splitlines())) <= 80
    examples = [line.strip() for line in text.partition("Examples:\n")[2].splitlines()]
    name = command if command in ("build", "train") else f"grace {command}"
    assert examples and all(example.startswith(name) for example in examples)
    for example in examples:
        options = set(re.findall(r"--[a-z-]+", example))
        assert options <= set(re.findall(r"--[a-z-]+", text.partition("Examples:")[0]))
    assert "Examples:" in printed("--help")


def test_the_version() -> None:
    assert re.fullmatch(r"grace \d+\.\d+\.\d+\n", printed("--version"))


def test_the_configuration_that_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    printed("init", "--config", "qwen2.5-0.5b")
    path = Path("grace.yaml")
    path.write_text(path.read_text() + "name: mine\nseed: {source: data/seeds.jsonl}\n")
    args = ["--set", "sample.top_p=0.5", "--set", "random_seed=3", "--store", "there"]
    text = printed("config", *args)
    expected = load_config(None, ["sample.top_p=0.5", "random_seed=3"], "there")
    assert yaml.safe_load(text) == shown_values(expected)
    origins = dict(re.findall(r"^ *(\w+): .*# (.+)$", text, flags=re.MULTILINE))
    assert (origins["name"], origins["store"], origins["rounds"]) == ("grace.yaml", "--store", "preset qwen2.5-0.5b")
    assert re.search(r"^  top_p: 0.5 +# --set$", text, flags=re.MULTILINE)
    assert f"source: {tmp_path}/data/seeds.jsonl" in text
    Path("whole.yaml").write_text(text)
    assert load_config("whole.yaml") == expected

    value = json.loads(printed("config", *args, "--json").splitlines()[-1])
    assert list(value) == ["configuration", "origins"]
    assert value["configuration"] == shown_values(expected)
    assert value["origins"]["sample.top_p"] == "--set" and value["origins"]["train.seed"] == "random_seed"
    assert value["origins"]["sample.temperature"] == "default"


def test_init_writes_the_values_of_a_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert printed("init", "--config", "paper-72b", "paper.yaml") == "wrote paper.yaml\n"
    assert load_config("paper.yaml").generate == load_config("paper-72b").generate
    unknown = CliRunner().invoke(app, ["init", "--config", "tinny", "other.yaml"])
    assert (unknown.exit_code, unknown.stdout) == (2, "") and "did you mean tiny?" in unknown.stderr
    assert os.listdir() == ["paper.yaml"]


def test_a_folder_without_a_manifest_is_not_read_to_be_verified(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").mkdir()
    done = CliRunner().invoke(app, ["verify", str(tmp_path)])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == f"error: {tmp_path}: no manifest.json in it, so there is nothing to verify it against\n"


def test_rounds_are_bounded() -> None:
    assert MAX_ROUNDS == options.MAX_ROUNDS
    done = CliRunner().invoke(app, ["build", "--stage", "seed", "--round", "99999999", "--dry-run"])
    assert done.exit_code == 2 and "10000" in done.stderr
