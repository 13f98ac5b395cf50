"""The command line as a user meets it: in a process of its own."""

import importlib.metadata
import json
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from datasets_factory import add_dataset, scores_frame, weights_frame
from forks import Done, command
from real_configs import SEEDS, write_lines
from typer.testing import CliRunner

from builders.inspect.diff import diff
from builders.inspect.lineage import lineage
from builders.inspect.status import status
from builders.store.revision import Revision
from builders.store.store import Store
from training.cli import app
from training.grace_kto.pipeline import GRACE_KTO
from training.pipelines import load_config

TAGGED = "<summary>S{0}.</summary><outline>O.</outline><answer>A.</answer>"
HEAVY = ("torch", "transformers", "vllm", "FlagEmbedding", "trl", "peft", "datasets", "polars", "pydantic", "numpy")


def run(name: str, *args: str, cwd: Path) -> Done:
    """Run a command in a folder, without a token."""
    return command(name, *args, folder=cwd)


def seed_options(folder: Path) -> list[str]:
    source = write_lines(folder / "seeds.jsonl", [json.dumps({"query": seed}) + "\n" for seed in SEEDS])
    # With a number of threads torch would be loaded, which seeds have no use for.
    settings = (f"seed.source={source}", "seed.columns={query: query}", "threads=null")
    return [*(word for text in settings for word in ("--set", text)), "--store", str(folder / "store")]


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
        (
            "build",
            ["--stage", "scor"],
            [
                "--stage scor: unknown, did you mean score?",
                "seed, format, sft, generate, sample, criteria, rate, score, calibrate, policy",
            ],
        ),
        (
            "build",
            ["--stage", "sft"],
            [
                "--stage sft yields a model: `train --stage sft` makes it",
                "seed, format, generate, sample, criteria, rate, score, calibrate, answers, evaluations, comparisons\n",
            ],
        ),
        ("build", ["--stage", "world:base"], ["yields a model: `train --stage world:base` makes it"]),
        ("train", ["--stage", "score"], ["--stage score yields a dataset: `build --stage score` makes it", "policy\n"]),
        ("grace", ["train", "--stage", "world:seeds"], ["yields a dataset: `build --stage world:seeds` makes it"]),
        ("train", ["--stage", "polcy"], ["--stage polcy: unknown, did you mean policy?"]),
        ("train", ["--sft", "--stage", "policy"], ["--sft and --stage policy: give one of them"]),
        ("grace", ["status", "--config", "tinny"], ["tinny", "did you mean tiny?", "paper-72b"]),
        ("grace", ["status", "--set", "sample.topp=1"], ["sample.topp", "did you mean top_p?"]),
        ("grace", ["status", "--set", "sampel.top_p=1"], ["sampel", "did you mean sample?"]),
        ("grace", ["status", "--set", "sample.top_p=2"], ["sample.top_p is 2", "less than or equal to 1"]),
        ("grace", ["status", "--set", "calibrate.coefficients.length=.nan"], ["coefficients.length", "finite"]),
        ("grace", ["status", "--set", "seed"], ["expected section.key=value"]),
        ("build", ["--stage", "seed", "--set", "seed.source=2024-01-01"], ["2024-01-01", "no such file"]),
        ("build", ["--stage", "score", "--from", "no where"], ["names no dataset"]),
        ("build", ["--stage", "score", "--from", "x" * 5000], ["names no dataset"]),
        ("build", ["--stage", "score", "--from", "seeds.jsonl"], ["does not fit this stage: missing"]),
        ("train", ["--revision", "main"], ["--revision main", "--dataset"]),
        ("train", ["--sft", "--revision", "main"], ["--revision main", "--dataset"]),
        ("train", ["--sft", "--dataset", "seeds.jsonl"], ["seeds.jsonl does not fit this stage: missing"]),
        ("train", ["--dataset", "ns/x"], ["dataset ns/x: offline mode is set", "use what the store holds"]),
        ("train", ["--dataset", "ns/x", "--require-pinned"], ["--require-pinned takes a tag or a 40-hex commit"]),
        ("grace", ["status", "--set", "pipeline=grace-kt"], ["pipeline: grace-kt is unknown, did you mean grace-kto?"]),
        ("grace", ["status", "--set", "engines.policy.kind=vlm"], ["engines.policy.kind is 'vlm', did you mean vllm?"]),
        ("build", ["--stage", "seed", "--set", "seed.source=seed"], ["its own parent: seed ← seed"]),
        ("grace", ["init", "no/such/grace.yaml"], ["no folder no/such"]),
        ("build", ["--stage", "seed", "--workers", "0"], ["--workers", "1"]),
        ("build", ["--stage", "seed", "--executor", "slurm"], ["executor.kind is 'slurm'", "'local' or 'ray'"]),
        ("train", ["--address", "cluster"], ["executor.address is 'cluster'", "auto, or host:port such as"]),
        ("grace", ["loop", "--executor", "local", "--address", "auto"], ["set kind to ray too (--executor ray)"]),
        ("build", ["--stage", "seed", "--set", "executor.gpus=1.5"], ["executor.gpus is 1.5", "share of one GPU"]),
        (
            "build",
            ["--stage", "seed", "--set", "seed.source=seeds.jsonl", "--address", "127.0.0.1:1"],
            ["executor.address 127.0.0.1:1: no Ray cluster answers there", "`ray status`", "leave the address out"],
        ),
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
    written = {path for path in files(tmp_path) if path.suffix not in (".lock", "")}
    # A table of another format is read once, and kept as Parquet files.
    assert {path for path in written if path.parent.parent.name != "tables"} == before


def test_a_failing_source_leaves_no_dataset(tmp_path: Path) -> None:
    (tmp_path / "seeds.jsonl").write_text('{"text": "Write A."}\n')
    done = run("build", "--stage", "seed", *seed_options(tmp_path), cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "no column query (for query); it has text" in done.stderr
    assert not list((tmp_path / "store").rglob("datasets--*"))


def test_one_split_of_a_dataset_from_elsewhere(tmp_path: Path) -> None:
    for split, groups in {"train": ((1, 2, 3), (4, 5)), "test": ((6, 7),)}.items():
        scores_frame(groups).write_parquet(tmp_path / f"{split}.parquet")

    def build(*choice: str) -> Any:
        done = CliRunner().invoke(app, ["build", "--stage", "calibrate", *choice, *options])
        return json.loads(done.stdout.splitlines()[-1])["rows"] if done.exit_code == 0 else done.stderr

    options = ["--store", str(tmp_path / "store"), "--json"]
    assert build("--from", str(tmp_path)) == 5
    assert build("--from", str(tmp_path), "--split", "test") == 2
    refused = build("--from", str(tmp_path), "--split", "tests")
    assert refused.count("\n") == 1 and "no split tests, did you mean test?; it has train, test" in refused
    assert "no subset zh; it has default" in build("--from", str(tmp_path), "--subset", "zh")
    assert "--subset and --split choose a part of the dataset to start from" in build("--split", "test")


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
    assert all(list(step) == ["stage", "round", "repo", "action", "reason"] for step in steps)
    actions = {step["stage"]: step["action"] for step in steps}
    assert actions == {"seed": "keep"} | dict.fromkeys(("world:exercises", "world:base", "sft", "generate"), "build")
    assert steps[-1]["stage"] == "generate" and steps[-1]["reason"] == "sft is built first"
    forced = run("build", "--stage", "seed", "--force", "--json", *options, cwd=tmp_path)
    assert json.loads(forced.stdout.splitlines()[-1]) == found

    status = run("grace", "status", *options, "--json", cwd=tmp_path)
    rows = json.loads(status.stdout.splitlines()[-1])["revisions"]
    assert [row["stage"] for row in rows if row["state"] == "built"] == ["seed"]
    table = run("grace", "status", *options, cwd=tmp_path)
    assert f"local/tiny-seed@{found['revision'][:12]}" in table.stdout


def test_a_dry_run_of_the_whole_default_needs_nothing(tmp_path: Path) -> None:
    done = run("build", "--stage", "calibrate", "--dry-run", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    steps = json.loads(done.stdout.splitlines()[-1])["plan"]
    assert {step["action"] for step in steps} == {"build"}
    # All but what is held out, evaluated or needs a teacher or a judge, and each stage after those it is made from.
    names = [step["stage"] for step in steps]
    others = {"world:heldout", "format", "criteria", "rate", "policy", "answers"}
    every = {stage.name for stage in GRACE_KTO.stages} - others - {"evaluations", "comparisons"}
    assert set(names) == every and len(names) == len(every) and names[-1] == "calibrate"
    reasons = {step["stage"]: step["reason"] for step in steps}
    assert reasons["world:seeds"] == "missing" and reasons["seed"] == "world:seeds is built first"
    assert reasons["world:domain"] == "world:general is built first"
    assert files(tmp_path) == set()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Revision, Revision, Revision]:
    """A folder whose store holds scores of two rounds and the weights of the second."""
    folder = tmp_path_factory.mktemp("demo")
    store = Store(folder / "store")
    first = add_dataset(store, "score", scores_frame())
    second = add_dataset(store, "score", scores_frame(((1, 9, 4), (7, None, 2))), round_=2)
    frame = weights_frame(second.scan().collect())
    return folder, first, second, add_dataset(store, "calibrate", frame, round_=2, parents=[second])


def printed(folder: Path, *args: str, code: int = 0) -> Any:
    """What a command prints with --json, on one line of stdout; nothing is on stderr."""
    done = run("grace", *args, "--store", "store", "--json", cwd=folder)
    assert (done.returncode, done.stderr) == (code, "")
    (line,) = done.stdout.splitlines()
    return json.loads(line, parse_constant=pytest.fail)


@pytest.mark.slow
def test_commands_print_the_data_that_the_library_returns(demo: tuple[Path, Revision, Revision, Revision]) -> None:
    folder, first, second, weights = demo
    config = load_config("tiny", ["name=demo", "loop.rounds=2"], str(folder / "store"))
    held = printed(folder, "status", "--set", "name=demo", "--set", "loop.rounds=2")
    rows = status(GRACE_KTO, config)
    assert held == {"revisions": [asdict(row) for row in rows]}
    fields = ["round", "stage", "kind", "state", "rows", "revision", "digest", "fault", "earlier"]
    assert list(held["revisions"][0]) == fields
    built = [(row["stage"], row["round"]) for row in held["revisions"] if row["state"] == "built"]
    assert built == [("score", 1), ("score", 2), ("calibrate", 2)]

    compared = printed(folder, "diff", str(first), str(second))
    assert compared == json.loads(json.dumps(diff(first, second, GRACE_KTO.summaries())))
    assert list(compared) == ["a", "b", "queries_in_common", "metrics", "only", "warnings"]

    traced = printed(folder, "lineage", "local/demo-weights")
    nodes = lineage("local/demo-weights", Store(folder / "store"))
    assert traced == {"ref": nodes[0].id, "nodes": [asdict(node) for node in nodes]}
    assert [node["id"] for node in traced["nodes"]] == [f"dataset:{weights}", f"dataset:{second}"]


@pytest.mark.slow
def test_verify_prints_what_differs_and_says_so_by_its_status(
    demo: tuple[Path, Revision, Revision, Revision],
) -> None:
    folder, first, _, weights = demo
    sound = printed(folder, "verify", str(weights))
    assert list(sound) == ["repo", "revision", "digest", "rows", "files", "ok", "findings"]
    assert (sound["ok"], sound["findings"], sound["rows"], sound["files"]) == (True, [], 6, 1)
    assert f"{sound['repo']}@{sound['revision']}" == str(weights)
    card = first.path / "README.md"
    text = card.read_text()
    try:
        card.unlink()
        found = printed(folder, "verify", str(first), code=1)
        assert found["findings"] == [
            {"where": "README.md", "what": "card", "stored": "a card", "found": "missing or empty"}
        ]
        assert not found["ok"]
        table = run("grace", "verify", str(first), "--store", "store", cwd=folder)
        assert table.returncode == 1 and "missing or empty" in table.stdout and table.stderr == ""
    finally:
        card.write_text(text)
    people = run("grace", "verify", str(first), "--store", "store", cwd=folder)
    assert people.stdout == f"ok: {first}, digest {first.digest}, 8 rows, 1 files\n"


@pytest.mark.slow
def test_training_a_stage_by_its_name_and_by_its_option(tmp_path: Path, causal_lm_dir: Path) -> None:
    lines = [json.dumps({"query": seed, "reference": TAGGED.format(n)}) + "\n" for n, seed in enumerate(SEEDS)]
    write_lines(tmp_path / "seeds.jsonl", lines)
    settings = [f"models.base={causal_lm_dir}", "seed.source=seeds.jsonl", "sft.steps=1", "sft.batch_size=6"]
    settings.append("seed.columns={query: query, reference: reference}")
    options = ["--store", "store", *(word for text in settings for word in ("--set", text))]
    first = run("train", "--stage", "sft", "--json", *options, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    # Progress goes to stderr, the one JSON object to stdout.
    *said, last = first.stderr.splitlines()
    assert said == ["sft: training", f"sft: {causal_lm_dir.name} on 6 seed documents (6 with the form)"]
    assert re.fullmatch(r"sft: trained in \d+ s", last)
    (line,) = first.stdout.splitlines()
    found = json.loads(line)
    assert list(found) == ["stage", "repo", "revision", "digest", "rows", "path", "pushed"]
    assert (found["stage"], found["repo"], found["rows"], found["pushed"]) == ("sft", "local/tiny-sft", 6, None)
    assert (tmp_path / found["path"] / "model.safetensors").is_file()

    again = run("train", "--sft", "--json", *options, cwd=tmp_path)
    assert (again.stdout, again.stderr) == (first.stdout, "")
    both = run("grace", "train", "--sft", "--stage", "sft", *options, cwd=tmp_path)
    assert both.returncode == 0 and both.stderr == ""
    assert "kept" in both.stdout and found["revision"][:12] in both.stdout

    # A seed dataset may be given, by either name of the stage.
    start = ["--dataset", "local/tiny-seed", "--revision", "round-000"]
    given = run("train", "--sft", *start, "--json", *options, cwd=tmp_path)
    assert given.stdout == first.stdout, given.stderr


HIDING = """
import sys
from importlib.machinery import PathFinder

hidden = sys.argv.pop(1)

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] == hidden else PathFinder.find_spec(name, path, target)

sys.meta_path[:] = [Without if finder is PathFinder else finder for finder in sys.meta_path]
from training.cli import app
app()
"""


def run_without(module: str, *args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `grace` where a module is not installed."""
    return subprocess.run(
        [sys.executable, "-c", HIDING, module, *args], cwd=cwd, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.parametrize(("module", "threads"), [("torch", 1), ("transformers", "null")])
def test_a_missing_extra_is_one_line(tmp_path: Path, causal_lm_dir: Path, module: str, threads: object) -> None:
    write_lines(tmp_path / "seeds.jsonl", [json.dumps({"query": "Write A.", "reference": TAGGED}) + "\n"])
    settings = ["seed.source=seeds.jsonl", "seed.columns={query: query, reference: reference}", f"threads={threads}"]
    options = [word for text in (*settings, f"models.base={causal_lm_dir}") for word in ("--set", text)]
    done = run_without(module, "train", "--sft", *options, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    *progress, last = done.stderr.splitlines()
    assert last == (
        f"error: this needs {module}, which is not installed; install the extra that brings it: "
        "pip install 'grace-data[train]'"
    )
    assert all(line.startswith("sft: ") for line in progress)
    assert not list(tmp_path.rglob("models--*"))


def test_a_missing_package_that_no_extra_brings_is_a_fault_of_the_installation(tmp_path: Path) -> None:
    done = run_without("polars", "build", "--stage", "seed", *seed_options(tmp_path), cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.endswith("ModuleNotFoundError: No module named 'polars'\n")


def test_every_package_of_an_extra_is_named_with_one_that_brings_it() -> None:
    from training.command import EXTRAS

    brought: dict[str, set[str]] = {}
    for requirement in importlib.metadata.requires("grace-data") or []:
        found = re.match(r"([A-Za-z0-9_-]+).*extra == '(hub|sample|score|train|ray)'", requirement)
        if found:  # of one package the name to install is not the name to import
            name = found[1].lower().replace("scikit-learn", "sklearn")
            brought.setdefault(name, set()).add(found[2])
    assert {"torch", "datasets"} <= brought.keys() == {package.lower() for package in EXTRAS}
    for package, extra in EXTRAS.items():
        assert extra in brought[package.lower()]
    assert brought["torch"] == {"sample", "score", "train"}


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
