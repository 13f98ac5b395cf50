"""How a command meets its terminal: other encodings, closed pipes, full disks, Ctrl-C, paths that are none."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from lineage_chains import chain_of

from builders.store.store import Store
from scorers.errors import UserError
from training.command import one_line_errors
from training.interruption import LINE

pytestmark = pytest.mark.slow

GRACE = str(Path(sys.executable).with_name("grace"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a chain of two rounds in `store`."""
    folder = tmp_path_factory.mktemp("chain")
    chain_of(Store(folder / "store"), 2)
    (folder / "file.txt").write_text("a text")
    (folder / "loop").symlink_to("loop")
    return folder


def shell(line: str, folder: Path, **environment: str) -> tuple[int, str, str]:
    """Run a line in bash, in which `grace` is the installed command: its status, stdout and stderr."""
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f'grace() {{ "{GRACE}" "$@"; }}; {line}'],
        cwd=folder,
        env=os.environ | {"HF_HUB_OFFLINE": "1"} | environment,
        capture_output=True,
        check=False,
        timeout=120,
    )
    encoding = environment.get("PYTHONIOENCODING", "utf-8")
    return done.returncode, done.stdout.decode(encoding), done.stderr.decode(encoding)


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_terminal_without_our_characters(folder: Path, encoding: str) -> None:
    status, out, err = shell(
        "grace diff local/demo-scores local/demo-weights --store store", folder, PYTHONIOENCODING=encoding
    )
    assert (status, err) == (0, "") and "a -> b" in out and "effective sample size (sum|W|)" in out
    status, out, err = shell("grace status --set name=日本", folder, PYTHONIOENCODING=encoding)
    assert (status, out) == (2, "") and err.startswith("error: --set: name is '\\u65e5\\u672c'")


def test_json_keeps_its_values_on_any_terminal(folder: Path) -> None:
    status, out, _ = shell("grace config --set models.base='模型→😀' --json", folder, PYTHONIOENCODING="latin-1")
    assert status == 0 and json.loads(out)["configuration"]["models"]["base"] == "模型→😀"


def test_a_reader_that_is_gone_is_no_error(folder: Path) -> None:
    # The sleeping reader is gone before anything is written.
    status, out, err = shell("grace lineage local/demo-policy --store store | (sleep 0.1; exec <&-; sleep 4)", folder)
    assert (status, out, err) == (128 + signal.SIGPIPE, "", "")
    status, out, err = shell("grace config | head -1", folder)
    assert out.startswith("pipeline: grace-kto") and err == ""


def test_closed_and_full_outputs(folder: Path) -> None:
    assert shell("grace status --store store >&-", folder) == (0, "", "")
    assert shell("grace status --set x=1 2>&-", folder)[0] == 2
    status, _, err = shell("grace status --store store --json > /dev/full", folder)
    assert (status, err) == (2, "error: the output: No space left on device; free room, or name another folder\n")


@pytest.mark.parametrize(
    ("store", "words"),
    [
        ("file.txt/x", "file.txt/x: Not a directory; name another file or folder"),
        ("loop/x", "loop/x: Too many levels of symbolic links; name another"),
        ("x" * 300, "File name too long; name another file or folder"),
    ],
)
def test_a_store_where_none_can_be(folder: Path, store: str, words: str) -> None:
    seeds = folder / "seeds.csv"
    seeds.write_text("query\nWrite about harbours.\n")
    options = "--set seed.source=seeds.csv --set 'seed.columns={query: query}' --set threads=null"
    status, out, err = shell(f"grace build --stage seed {options} --store {store}", folder)
    assert (status, out, err.count("\n")) == (2, "", 1) and words in err


def interrupted(folder: Path, said: str, *args: str, number: int = signal.SIGINT, wait: float = 1.5) -> tuple[int, str]:
    """Press Ctrl-C in a command's terminal, which reaches all of its processes, a moment after it said something."""
    done = subprocess.Popen(
        [GRACE, *args],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A job in the background ignores the signal, and so would all that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert done.stdout is not None and done.stderr is not None
    before = ""
    while said not in before:
        line = done.stderr.readline()
        assert line, before
        before += line
    time.sleep(wait)
    os.killpg(done.pid, number)
    rest = done.stderr.read()
    done.wait(timeout=60)
    done.stdout.close()
    done.stderr.close()
    return done.returncode, before + rest


@pytest.mark.parametrize("wait", [0, 1.5])  # while a worker process is started, and while it imports
def test_an_interruption_is_one_line_of_one_process(tmp_path: Path, wait: float) -> None:
    began = time.monotonic()
    arguments = ("loop", "--config", "tiny", "--store", "store")
    status, err = interrupted(tmp_path, "world:bge-m3: training", *arguments, wait=wait)
    assert status == 130, err
    assert err.splitlines()[-1] == "interrupted; the same command goes on where this one stopped"
    assert [line for line in err.splitlines() if not line.endswith(": training")] == err.splitlines()[-1:]
    assert time.monotonic() - began < 100  # nobody waited for the trainings to end


def test_a_command_that_is_terminated_says_how_to_go_on(tmp_path: Path) -> None:
    arguments = ("loop", "--config", "tiny", "--store", "store")
    status, err = interrupted(tmp_path, "world:bge-m3: training", *arguments, number=signal.SIGTERM)
    assert status == -signal.SIGTERM, err
    assert [line for line in err.splitlines() if not line.endswith(": training")] == [LINE]


INTERRUPTED_WHILE_IMPORTING = """
import os, signal, sys
class Finder:
    def find_spec(name, *_):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder)
from training.entry import grace
grace()
"""


def run_python(code: str, *arguments: str) -> tuple[int, str]:
    """Status and stderr of a program that Ctrl-C can interrupt; a job in the background ignores the signal."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("module", ["typer", "training.cli", "training.options"])
def test_an_interruption_while_the_command_is_imported(module: str) -> None:
    assert run_python(INTERRUPTED_WHILE_IMPORTING, module) == (130, f"{LINE}\n")


def test_a_mistake_elsewhere_ends_the_trainings(tmp_path: Path) -> None:
    # The seeds are read while the world is made; their fault does not wait for its models.
    (tmp_path / "seeds.csv").write_text("text\nWrite.\n")
    command = "grace loop --config tiny --store store --set seed.source=seeds.csv"
    status, _, err = shell(command, tmp_path)
    assert status == 2 and "no column query" in err.splitlines()[-1] and "Traceback" not in err
    assert not list((tmp_path / "store").glob("models--*"))


def test_the_libraries_bars_are_off() -> None:
    code = """
from builders.core.console import quiet_libraries
quiet_libraries()
import datasets
from transformers.utils import logging
print(datasets.are_progress_bars_disabled(), logging.is_progress_bar_enabled())
"""
    clean = {key: value for key, value in os.environ.items() if "PROGRESS" not in key}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=clean)
    assert done.stdout.split() == ["True", "False"]


def test_a_message_with_foreign_text_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit), one_line_errors():
        raise UserError("file\n\x1b[2Jname")
    assert capsys.readouterr().err == "error: file \\x1b[2Jname\n"


MET_ANYWHERE = """
import os, signal, sys, tempfile, time
from training.interruption import end_by_signals
def interrupt():
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1_000):  # the signal is met in here
        pass
class Deleted:
    __del__ = lambda self: interrupt()
def turned_into_another():
    try:
        interrupt()
    except BaseException:
        raise TypeError("no data type") from None
def called_by_native_code():
    import polars as pl
    class Interrupting(pl.Int64):
        def __init__(self):
            interrupt()
    pl.datatypes.classes.Int64 = pl.datatypes.Int64 = pl.Int64 = Interrupting
    pl.Series([1, 2]).map_elements(lambda value: interrupt())
def in_a_thread_that_goes_on():
    import threading
    threading.Thread(target=time.sleep, args=(60,)).start()
    interrupt()
end_by_signals()
folder = tempfile.TemporaryDirectory(dir=sys.argv[2])
{f.__name__: f for f in (Deleted, turned_into_another, called_by_native_code, in_a_thread_that_goes_on)}[sys.argv[1]]()
time.sleep(5)
"""


@pytest.mark.parametrize(
    "where", ["Deleted", "turned_into_another", "called_by_native_code", "in_a_thread_that_goes_on"]
)
def test_an_interruption_is_met_anywhere(tmp_path: Path, where: str) -> None:
    assert run_python(MET_ANYWHERE, where, str(tmp_path)) == (130, f"{LINE}\n")
    assert not list(tmp_path.iterdir())  # the temporary folder is gone


CLEARED_UP_FOR_EVER = """
import atexit, os, signal, sys, time
from training import interruption
interruption.PATIENCE = 0.2
atexit.register(time.sleep, 60)
interruption.end_by_signals()
os.kill(os.getpid(), int(sys.argv[1]))
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nobody_waits_for_a_library_to_clear_up(number: signal.Signals) -> None:
    began = time.monotonic()
    status, err = run_python(CLEARED_UP_FOR_EVER, str(int(number)))
    assert status in (130, -signal.SIGTERM) and err == f"{LINE}\n" and time.monotonic() - began < 30


@pytest.mark.parametrize("after", [0.2, 0.5, 0.8, 1.1, 1.4, 1.7, 2.0, 2.3])
def test_an_interruption_at_any_moment(tmp_path: Path, after: float) -> None:
    (tmp_path / "seeds.jsonl").write_text('{"query": "Write about harbours."}\n' * 50)
    options = [
        f"--set={setting}" for setting in ("seed.source=seeds.jsonl", "seed.columns={query: query}", "threads=null")
    ]
    done = subprocess.Popen(
        [GRACE, "build", "--stage", "seed", *options, "--store", "store"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    time.sleep(after)
    done.send_signal(signal.SIGINT)
    err = done.communicate(timeout=60)[1]
    # Python itself, in the hundredths of a second of its end, is ended by the signal.
    assert (done.returncode, err) in ((130, f"{LINE}\n"), (0, ""), (-signal.SIGINT, ""))
