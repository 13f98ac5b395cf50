"""The command line as a user meets it: in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from real_configs import SEEDS, write_lines

HEAVY = ("torch", "transformers", "vllm", "FlagEmbedding", "trl", "peft", "datasets", "polars", "pydantic", "numpy")


def run(name: str, *args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run an installed command in a folder, without a token."""
    command = Path(sys.executable).with_name(name)
    environment = {key: value for key, value in os.environ.items() if key != "HF_TOKEN"} | {"HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [str(command), *args], cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


def seed_options(folder: Path) -> list[str]:
    source = write_lines(folder / "seeds.jsonl", [json.dumps({"query": seed}) + "\n" for seed in SEEDS])
    return ["--set", f"seed.source={source}", "--set", "seed.columns={query: query}", "--store", str(folder / "store")]


def files(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    code = f"""
import sys
sys.argv = ["grace", "--help"]
from training.cli import app
try:
    app()
except SystemExit as end:
    assert not end.code, end.code
loaded = sorted(set({HEAVY!r}) & set(sys.modules))
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in ("build", "train", "loop", "evaluate", "status", "lineage", "init"))


def test_help_answers_within_a_third_of_a_second_of_processor_time(tmp_path: Path) -> None:
    # Processor time of the child, so that other work on the machine does not count; the first call fills the caches.
    code = """
import resource, subprocess, sys
def used():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
times = []
for _ in range(4):
    before = used()
    subprocess.run([sys.argv[1], "--help"], check=True, stdout=subprocess.DEVNULL)
    times.append(used() - before)
print(min(times[1:]))
"""
    grace = str(Path(sys.executable).with_name("grace"))
    done = subprocess.run([sys.executable, "-c", code, grace], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert float(done.stdout) <= 0.3


@pytest.mark.parametrize(
    ("command", "args", "words"),
    [
        ("grace", ["biuld"], ["biuld", "grace --help"]),
        ("grace", ["build"], ["--stage", "grace build --help"]),
        ("build", ["--stage", "seed", "--rond", "2"], ["--rond", "--round", "build --help"]),
        ("grace", ["build", "--stage", "seed", "--round", "0"], ["--round", "1"]),
        ("build", ["--stage", "scor"], ["scor", "seed, generate, sample, score, calibrate"]),
        ("grace", ["status", "--config", "tinny"], ["tinny", "did you mean tiny?", "paper-72b"]),
        ("grace", ["status", "--set", "sample.topp=1"], ["sample.topp", "did you mean top_p?"]),
        ("grace", ["status", "--set", "sampel.top_p=1"], ["sampel", "did you mean sample?"]),
        ("grace", ["status", "--set", "sample.top_p=2"], ["sample.top_p is 2", "less than or equal to 1"]),
        ("grace", ["status", "--set", "calibrate.coefficients.length=.nan"], ["coefficients.length", "finite"]),
        ("grace", ["status", "--set", "seed"], ["expected section.key=value"]),
        ("build", ["--stage", "seed", "--set", "seed.source=2024-01-01"], ["2024-01-01", "no such file"]),
        ("build", ["--stage", "score", "--from", "no where"], ["names no dataset"]),
        ("build", ["--stage", "score", "--from", "x" * 5000], ["names no dataset"]),
        ("build", ["--stage", "score", "--from", "seeds.jsonl"], ["not readable as Parquet"]),
        ("train", ["--revision", "main"], ["--revision main", "--dataset"]),
        ("train", ["--sft", "--dataset", "ns/x"], ["--sft", "--dataset"]),
        ("grace", ["init", "no/such/grace.yaml"], ["no folder no/such"]),
        ("grace", ["init", "seeds.jsonl"], ["exists already"]),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    tmp_path: Path, command: str, args: list[str], words: list[str]
) -> None:
    (tmp_path / "seeds.jsonl").write_text('{"query": "Write A."}\n')
    before = files(tmp_path)
    done = run(command, *args, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    assert {path for path in files(tmp_path) if path.suffix not in (".lock", "")} == before


def test_a_failing_source_leaves_no_dataset(tmp_path: Path) -> None:
    (tmp_path / "seeds.jsonl").write_text('{"text": "Write A."}\n')
    done = run("build", "--stage", "seed", *seed_options(tmp_path), cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "no column query (for query); it has text" in done.stderr
    assert not list((tmp_path / "store").rglob("datasets--*"))


def test_building_and_building_again(tmp_path: Path) -> None:
    options = seed_options(tmp_path)
    dry = run("build", "--stage", "seed", "--dry-run", *options, cwd=tmp_path)
    assert dry.returncode == 0 and "missing" in dry.stdout and not (tmp_path / "store").exists()
    first = run("build", "--stage", "seed", "--json", *options, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    found = json.loads(first.stdout.splitlines()[-1])
    assert list(found) == ["stage", "repo", "revision", "digest", "rows", "path", "pushed"]
    assert (found["stage"], found["repo"], found["rows"], found["pushed"]) == ("seed", "local/tiny-seed", 6, None)
    assert len(found["revision"]) == 40 and (Path(found["path"]) / "manifest.json").is_file()
    assert first.stderr == ""

    again = run("grace", "build", "--stage", "seed", *options, cwd=tmp_path)
    assert "kept" in again.stdout and found["revision"][:12] in again.stdout
    plan = run("build", "--stage", "generate", "--dry-run", "--json", *options, cwd=tmp_path)
    steps = json.loads(plan.stdout.splitlines()[-1])["plan"]
    assert [(step["stage"], step["action"]) for step in steps] == [("seed", "keep"), ("generate", "build")]
    forced = run("build", "--stage", "seed", "--force", "--json", *options, cwd=tmp_path)
    assert json.loads(forced.stdout.splitlines()[-1]) == found

    status = run("grace", "status", *options, "--json", cwd=tmp_path)
    rows = json.loads(status.stdout.splitlines()[-1])["revisions"]
    assert [row["stage"] for row in rows if row["state"] == "built"] == ["seed"]
    table = run("grace", "status", *options, cwd=tmp_path)
    assert f"local/tiny-seed@{found['revision']}" in table.stdout


def test_a_dry_run_of_the_whole_default_needs_nothing(tmp_path: Path) -> None:
    done = run("build", "--stage", "calibrate", "--dry-run", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    steps = json.loads(done.stdout.splitlines()[-1])["plan"]
    assert [step["action"] for step in steps] == ["build"] * 5
    assert "world:seeds is not made yet" in steps[0]["reason"]
    assert files(tmp_path) == set()


def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file where the store should be")
    done = run("build", "--stage", "seed", *seed_options(tmp_path), cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "is a file, a folder is needed; give --store another name" in done.stderr


def test_a_configuration_file_in_the_folder_is_taken(tmp_path: Path) -> None:
    assert run("grace", "init", cwd=tmp_path).stdout == "wrote grace.yaml\n"
    (tmp_path / "grace.yaml").write_text("preset: tiny\nname: mine\nsample: {responses: two}\n")
    done = run("grace", "status", cwd=tmp_path)
    assert done.returncode == 2 and "grace.yaml: sample.responses is 'two'" in done.stderr
    (tmp_path / "grace.yaml").write_text("- a list")
    assert "holds list, a mapping of sections is needed" in run("grace", "status", cwd=tmp_path).stderr
    (tmp_path / "grace.yaml").write_bytes(b"a: \xff")
    assert "not readable as YAML" in run("grace", "status", cwd=tmp_path).stderr
