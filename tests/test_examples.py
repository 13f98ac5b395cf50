"""The scripts in examples/ and the README's Python blocks run as they stand, on tiny models."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODEL = "Qwen/Qwen2.5-0.5B-Instruct"  # in the README; here a tiny model takes its place
LONGEST = 8


def run_python(arguments: list[str], folder: Path) -> str:
    """Run Python in a folder, offline; its stdout."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache"), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=folder, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_texts_are_scored(tmp_path: Path, causal_lm_dir: Path) -> None:
    lines = run_python([str(ROOT / "examples/score_texts.py"), str(causal_lm_dir)], tmp_path).splitlines()
    assert len(lines) == 3 and all("perplexity" in line for line in lines)


def test_scores_are_calibrated(tmp_path: Path) -> None:
    printed = run_python([str(ROOT / "examples/calibrate_scores.py")], tmp_path)
    assert "ferry-0" in printed and "weight" in printed


@pytest.mark.slow
def test_a_model_is_trained(tmp_path: Path, causal_lm_dir: Path) -> None:
    run_python([str(ROOT / "examples/train_on_preferences.py"), str(causal_lm_dir), str(tmp_path / "out")], tmp_path)
    assert (tmp_path / "out" / "model.safetensors").is_file()


def readme_blocks() -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.split("### From Python")[1].split("\n## ")[0].split("\n### ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.S)


def test_there_are_three_short_blocks() -> None:
    blocks = readme_blocks()
    assert len(blocks) >= 3
    assert [block for block in blocks if len(block.strip().splitlines()) > LONGEST] == []


@pytest.mark.slow
@pytest.mark.parametrize("number", range(4))
def test_the_readme_blocks_run(tmp_path: Path, causal_lm_dir: Path, number: int) -> None:
    block = readme_blocks()[number].replace(MODEL, str(causal_lm_dir))
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    run_python(["-c", block], tmp_path)
