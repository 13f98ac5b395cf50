"""Try the mistakes and damages of scripts/mishaps/*.yaml on the installed commands and say which did not end well.

A mishap ends well where the command prints one line that begins with `error:` and holds the expected words, exits with
status 2 and leaves nothing half-written: no temporary file, no revision without its manifest, no ref to nothing. Each
case runs in a fresh copy of one small folder with seeds, scores, a store and a model. A case in YAML::

    - title: a shard of the scores is cut in half
      damage: {truncate: store/datasets--local--tiny-scores/snapshots/*/data/*.parquet}
      run: build --stage calibrate
      says: [train-00000-of-00001.parquet, grace verify]

Prints one line for each case that did not end well, a table and one line of JSON.

    python -m scripts.mishaps --jobs 2
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

TABLES = Path(__file__).with_suffix("")
FORKS = multiprocessing.get_context("forkserver")
PRELOADED = ["__main__", "training.pipelines", "training.cli", "builders.inspect.verify", "torch", "transformers"]
SECONDS = 120  # after which a case counts as hanging
CHECKS = ("one line", "words", "exit 2", "nothing half-written")
SEEDS = [
    {
        "query": f"Please write a report on harbour {number}.",
        "reference": f"<summary>Harbour {number}.</summary><outline>1. Ships</outline><answer>Ships call.</answer>",
    }
    for number in range(8)
]
SETTINGS = (
    "seed.source=seeds.jsonl",
    "seed.columns={query: query, reference: reference}",
    *(f"models.{role}=./model" for role in ("base", "policy", "general", "domain")),
    "generate.queries=4",
    "sample.responses=4",
    "threads=1",
)


@dataclass(frozen=True)
class Case:
    """One mishap.

    Attributes:
        table: name of the file that lists it.
        title: what went wrong, in words.
        run: the command line.
        says: words that the error has to hold.
        files: texts of files that are written before, by path.
        rows: Parquet files that are written before, by path: `from` a file, `set` columns to a value or values,
            `drop` columns, `keep` so many rows.
        damage: what is done to files before, by kind (delete, truncate, flip, empty, unreadable) and glob.
        setup: a command line that has to succeed before.
        environment: further environment variables; the case then runs in a process of its own.
        plain: leave out the settings of the prepared folder.
        status: the exit status that is expected.
    """

    table: str
    title: str
    run: str
    says: Sequence[str] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    rows: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    damage: Mapping[str, str] = field(default_factory=dict)
    setup: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    plain: bool = False
    status: int = 2


@dataclass(frozen=True)
class Ended:
    """How a case ended.

    Attributes:
        status: exit status.
        out: what was printed on stdout.
        err: what was printed on stderr.
        left: what it left half-written.
    """

    status: int
    out: str
    err: str
    left: Sequence[str]


def read_cases(tables: Path) -> list[Case]:
    """Read all tables; a table is a YAML list of cases."""
    return [
        Case(table=path.stem, **entry)
        for path in sorted(tables.glob("*.yaml"))
        for entry in yaml.safe_load(path.read_text(encoding="utf-8"))
    ]


def prepare_folder(folder: Path) -> None:
    """Fill a folder with what the cases start from: seeds, scores, a model, and a store with three revisions."""
    from builders.core.console import quiet_libraries
    from scripts.bench_scale import make_model

    quiet_libraries()
    folder.mkdir(parents=True)
    (folder / "seeds.jsonl").write_text("".join(json.dumps(seed) + "\n" for seed in SEEDS), encoding="utf-8")
    make_model(folder / "model")
    scores_frame().write_parquet(folder / "scores.parquet")
    for command in (
        "build --stage seed",
        "build --stage calibrate --from scores.parquet",
        "train --dataset local/tiny-weights --set train.batch_size=4 --set train.device_batch_size=4",
    ):
        status, _, error = execute(command_line(command, plain=False), folder)
        if status:
            raise RuntimeError(f"{command}: {error}")


def scores_frame() -> Any:
    """Return scores of two queries with four responses each, one of them unmatched."""
    import polars as pl

    from builders.grace_kto.columns import SCORES_COLUMNS
    from builders.store.columns import frame_of

    rows: list[dict[str, object]] = []
    for index in range(8):
        matched = index != 3
        parts = dict.fromkeys(("summary", "outline", "document"), f"Text {index}." if matched else None)
        fixed = {
            "query_id": f"{index // 4:016x}",
            "query": f"Please write about harbour {index // 4}.",
            "round": 1,
            "response_id": f"{index // 4:016x}-{index % 4}",
            "response": "".join(f"<{tag}>Text {index}.</{tag}>" for tag in ("summary", "outline", "answer")),
            "matched": matched,
            "finish_reason": "stop",
            "num_tokens": 40 + index,
            "logprob": -40.0 - index,
            "sample_seed": index,
            "policy": "bench@0",
            "length": 20 + index if matched else None,
        } | parts
        for place, column in enumerate(SCORES_COLUMNS):
            fixed.setdefault(column.name, 1.0 + (index * 7 + place * 3) % 11 if matched else None)
        rows.append(fixed)
    frame: pl.DataFrame = frame_of(rows, SCORES_COLUMNS)
    return frame


def command_line(text: str, *, plain: bool) -> list[str]:
    """Return the words of a command line, with the settings of the prepared folder for those that take them."""
    words = shlex.split(text)
    name = words[1] if words[0] == "grace" and len(words) > 1 else words[0]
    if plain or name not in ("build", "train", "loop", "evaluate", "status", "plan", "config"):
        return words
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    after = 2 if words[0] == "grace" else 1
    # Before the case's own settings, which count more.
    return [*words[:after], "--store", "store", *settings, *words[after:]]


def execute(words: Sequence[str], folder: Path) -> tuple[int, str, str]:
    """Run a command in a fork of a server that has imported what the commands need, and done nothing else.

    Returns:
        Exit status, 1 after an exception and −1 after `SECONDS`; what was printed on stdout and on stderr.
    """
    process = FORKS.Process(target=_child, args=(list(words), folder))
    process.start()
    process.join(SECONDS)
    hangs = process.is_alive()
    if hangs:
        process.kill()
        process.join()
    out, err, status = (_take(folder / name) for name in (".out", ".err", ".status"))
    # The child's own word: the fork server now and then loses a status, and says 255.
    return (-1 if hangs else int(status or process.exitcode or 0)), out, err


def _child(words: list[str], folder: Path) -> None:
    """Run a command as its installed program does, in the forked process."""
    from training.cli import app, build_main, train_main

    os.chdir(folder)
    for name, stream in ((".out", 1), (".err", 2)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    sys.argv = [f"/{words[0]}", *words[1:]]
    status = 1
    try:
        programs: dict[str, Callable[[], object]] = {"grace": app, "build": build_main, "train": train_main}
        programs[words[0]]()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
        sys.stderr.flush()
    with contextlib.suppress(OSError):  # as where no file may grow
        (folder / ".status").write_text(str(status))
    os._exit(status)


def execute_apart(words: Sequence[str], folder: Path, environment: Mapping[str, str]) -> tuple[int, str, str]:
    """Run the installed command in a process of its own, with environment variables."""
    command = [str(Path(sys.executable).with_name(words[0])), *words[1:]]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, **environment},
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return -1, "", "hangs"
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


def _take(path: Path) -> str:
    """Read a file and remove it."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    path.unlink(missing_ok=True)
    return text


def prepare(case: Case, folder: Path) -> None:
    """Do what goes wrong before the command runs."""
    for name, text in case.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        # Latin-1 keeps each character of the table one byte, so that any bytes can be written: \xff in YAML.
        encoding = "latin-1" if name.endswith((".latin1", ".bytes")) else "utf-8"
        (folder / name.removesuffix(".latin1").removesuffix(".bytes")).write_bytes(text.encode(encoding))
    for name, how in case.rows.items():
        write_rows(folder, name, how)
    if case.setup is not None:
        status, _, error = execute(command_line(case.setup, plain=case.plain), folder)
        if status:
            raise RuntimeError(f"{case.title}: its set-up failed: {error}")
    for kind, pattern in case.damage.items():
        paths = sorted(folder.glob(pattern))
        if not paths:
            raise RuntimeError(f"{case.title}: nothing is at {pattern}")
        damage(kind, paths[0])


def write_rows(folder: Path, name: str, how: Mapping[str, Any]) -> None:
    """Write a Parquet file, made from another one."""
    import polars as pl

    frame = pl.read_parquet(folder / how.get("from", "scores.parquet"))
    frame = frame.head(how.get("keep", frame.height)).drop(how.get("drop", []))
    for column, values in how.get("set", {}).items():
        listed = values if isinstance(values, list) else [values] * frame.height
        frame = frame.with_columns(pl.Series(column, listed[: frame.height], strict=False))
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(folder / name)


def damage(kind: str, path: Path) -> None:
    """Damage a file or a folder."""
    if kind == "delete":
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        return
    if kind == "folder":
        path.unlink()
        path.mkdir()
        return
    content = path.read_bytes()
    middle = len(content) // 2
    changed = {
        "truncate": content[:middle],
        "flip": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "empty": b"",
        "garbage": os.urandom(64),
    }[kind]
    path.unlink()  # not in place: a file of the store may be a hard link
    path.write_bytes(changed)


def half_written(folder: Path) -> set[str]:
    """Return what is half-written: temporary files, revisions without a manifest, and refs that name no revision.

    Whole revisions of the stages above the one that failed are kept, as finished shards are.
    """
    found: set[str] = set()
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        lost = path.parent.name == "snapshots" and not (path / "manifest.json").is_file()
        if "/refs/" in name and path.is_file():
            commit = path.read_text(encoding="utf-8", errors="replace").strip()
            lost = not (folder / name.partition("/refs/")[0] / "snapshots" / commit).is_dir()
        if lost or name.endswith((".partial", ".tmp", ".incomplete")):
            found.add(name)
    return found


def run_case(case: Case, prepared: Path, scratch: Path) -> Ended:
    """Run one case in a copy of the prepared folder."""
    folder = Path(tempfile.mkdtemp(dir=scratch)) / "case"
    shutil.copytree(prepared, folder, symlinks=True)
    try:
        prepare(case, folder)
        before = half_written(folder)
        words = command_line(case.run, plain=case.plain)
        if case.environment:
            status, out, err = execute_apart(words, folder, case.environment)
        else:
            status, out, err = execute(words, folder)
        after = half_written(folder)
    finally:
        shutil.rmtree(folder.parent, ignore_errors=True)
    return Ended(status, out, err, sorted(after - before))


def faults(case: Case, ended: Ended) -> list[str]:
    """Return which of `CHECKS` a case fails."""
    errors = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    # Progress of the work before the mistake shows is no fault; a traceback or a second error is.
    stray = re.search(r"^(Traceback|\s+File \"|\w*(Error|Exception):)", ended.err, re.MULTILINE)
    said = ended.err + ended.out
    passed = {
        "one line": not stray and (len(errors) == 1 if case.status == 2 else not errors),
        "words": all(word in said for word in case.says),
        "exit 2": ended.status == case.status,
        "nothing half-written": not ended.left,
    }
    return [name for name in CHECKS if not passed[name]]


def report(cases: Sequence[Case], found: Sequence[list[str]], seconds: float) -> None:
    """Print the table and the JSON line."""
    tables: dict[str, Counter[str]] = {}
    for case, failed in zip(cases, found, strict=True):
        counts = tables.setdefault(case.table, Counter())
        counts["tried"] += 1
        counts.update(check for check in CHECKS if check not in failed)
    total = sum(tables.values(), Counter[str]())
    names = ("tried", *CHECKS)
    print(f"{'table':14}" + "".join(f"{name:>{max(len(name), 7) + 2}}" for name in names))
    for table, counts in [*tables.items(), ("all", total)]:
        print(f"{table:14}" + "".join(f"{counts[name]:>{max(len(name), 7) + 2}}" for name in names))
    print(json.dumps({"benchmark": "mishaps", "seconds": round(seconds, 1), **{name: total[name] for name in names}}))


def main() -> int:
    """Parse the command line, try the cases, print, and return 1 where one did not end well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="cases at a time")
    parser.add_argument("--only", default="", help="try the cases whose table or title holds this text")
    parser.add_argument("--show", action="store_true", help="print what each case said")
    options = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "COLUMNS": "120"}
    os.environ.pop("HF_TOKEN", None)
    FORKS.set_forkserver_preload(PRELOADED)
    cases = [case for case in read_cases(TABLES) if options.only in f"{case.table}: {case.title}"]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mishaps-") as scratch:
        os.environ["HF_HOME"] = f"{scratch}/hub"  # no token and no cache of the user's
        prepared = Path(scratch) / "prepared"
        prepare_folder(prepared)
        with ThreadPoolExecutor(options.jobs) as pool:
            ended = list(pool.map(lambda case: run_case(case, prepared, Path(scratch)), cases))
    found = [faults(case, end) for case, end in zip(cases, ended, strict=True)]
    for case, end, failed in zip(cases, ended, found, strict=True):
        if failed or options.show:
            said = end.err.strip().splitlines()
            print(f"{case.table}: {case.title}: {', '.join(failed) or 'ok'} (status {end.status})")
            print(*(f"    {line}" for line in (said if options.show else said[-3:])), sep="\n")
            if end.left:
                print(f"    left: {', '.join(end.left)}")
    report(cases, found, time.monotonic() - began)
    return int(any(found))


if __name__ == "__main__":
    sys.exit(main())
