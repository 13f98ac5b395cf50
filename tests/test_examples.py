"""The scripts in examples/ and the README's Python blocks run as they stand, on tiny models."""

import json
import re
from pathlib import Path

import pytest
from forks import commands

ROOT = Path(__file__).parents[1]
MODEL = "Qwen/Qwen2.5-0.5B-Instruct"  # in the README; here a tiny model takes its place
LONGEST = 8
# One process for all of them: most of the time of each alone would be imports.
DRIVER = """
import contextlib, io, json, runpy, sys
printed = []
for script, *arguments in json.loads(sys.argv[1]):
    sys.argv = [script, *arguments]
    with contextlib.redirect_stdout(io.StringIO()) as text:
        runpy.run_path(script, run_name="__main__")
    printed.append(text.getvalue())
print(json.dumps(printed))
"""


def readme_blocks() -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.split("### From Python")[1].split("\n## ")[0].split("\n### ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.S)


def run_all(scripts: list[list[str]], folder: Path) -> list[str]:
    """Run scripts in a folder, offline; what each printed."""
    done = commands().run(DRIVER, [json.dumps(scripts)], folder, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr[-3000:]
    printed = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(printed, list)
    return printed


def test_there_are_four_short_blocks_in_the_readme() -> None:
    blocks = readme_blocks()
    assert len(blocks) == 4
    assert [block for block in blocks if len(block.strip().splitlines()) > LONGEST] == []


@pytest.mark.slow
def test_the_examples_and_the_readme_blocks_run(tmp_path: Path, causal_lm_dir: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    blocks = []
    for number, block in enumerate(readme_blocks()):
        script = tmp_path / f"block{number}.py"
        script.write_text(block.replace(MODEL, str(causal_lm_dir)), encoding="utf-8")
        blocks.append([str(script)])
    scored, calibrated, trained, *printed = run_all(
        [
            ["examples/score_texts.py", str(causal_lm_dir)],
            ["examples/calibrate_scores.py"],
            ["examples/train_on_preferences.py", str(causal_lm_dir), "out"],
            *blocks,
        ],
        tmp_path,
    )
    lines = [line for line in scored.splitlines() if "perplexity" in line]
    distinct = [float(re.findall(r"([\d.]+) % distinct", line)[0]) for line in lines]
    # The second text repeats itself.
    assert len(distinct) == 3 and distinct[1] < 60 < 90 < min(distinct[0], distinct[2])
    assert "ferry-0" in calibrated and "weight" in calibrated
    assert (tmp_path / "out" / "model.safetensors").is_file(), trained
    assert "local/tiny-seed@" in printed[3]
