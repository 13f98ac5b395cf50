"""A process that has imported what commands need, and runs each of them in a fork of itself.

A command in a process of its own takes ten seconds to import what it needs; a fork has it already, and everything else
that makes a process: variables, a working folder, output, an exit status.
"""

import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

AT_START = dict(os.environ)  # a training adds variables of its own
SECONDS = 300  # after which a command is killed
HEAVY = ("training.cli", "training.kto.assembly", "training.grace_kto.evaluate", "FlagEmbedding", "datasets", "trl")
PROGRAMS = {
    "grace": "from training.cli import app; app()",
    "build": "from training.cli import build_main; build_main()",
    "train": "from training.cli import train_main; train_main()",
}
# A script in several processes that train together, as torchrun starts them.
RANKS = """
import os, runpy, socket, sys
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
count, *sys.argv = sys.argv[1:]
ranks = []
for rank in map(str, range(int(count))):
    if (child := os.fork()) == 0:
        os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        runpy.run_path(sys.argv[0], run_name="__main__")
        sys.exit(0)
    ranks.append(child)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0 for child in ranks))
"""


class Done(NamedTuple):
    """How a command ended, as `subprocess.run` says it."""

    returncode: int
    stdout: str
    stderr: str


class Forks:
    """The process, for as long as a `with` lasts.

    Args:
        variables: its environment.
        modules: what it imports.
    """

    def __init__(self, variables: Mapping[str, str], modules: Sequence[str] = HEAVY) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, *modules],
            env=dict(variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()

    def run(self, code: str, arguments: Sequence[str], folder: Path, *, program: str = "-c", **variables: str) -> Done:
        """Run code as `python -c` does, with arguments, in a folder, with further environment variables."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with tempfile.TemporaryDirectory() as output:
            job: dict[str, object] = {
                "code": code,
                "argv": [program, *arguments],
                "folder": str(folder),
                "output": output,
            }
            job |= {"variables": variables}
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
            status = int(self._process.stdout.readline())
            out, err = (Path(output, name).read_text(encoding="utf-8") for name in ("out", "err"))
        return Done(status, out, err)


@cache
def commands() -> Forks:
    """The process for commands without a token and without the Hub, from when it is first needed to the tests' end."""
    clean = {name: value for name, value in AT_START.items() if name != "HF_TOKEN"}
    return Forks(clean | {"HF_HUB_OFFLINE": "1"})


def command(name: str, *arguments: str, folder: Path) -> Done:
    """Run `grace`, `build` or `train` in a folder."""
    return commands().run(PROGRAMS[name], arguments, folder, program=name)


def script(path: Path, *arguments: str) -> Done:
    """Run a script in its folder, as `python FILE` does."""
    code = "import runpy, sys; runpy.run_path(sys.argv[0], run_name='__main__')"
    return commands().run(code, arguments, path.parent, program=str(path))


def together(path: Path, processes: int = 2) -> Done:
    """Run a script in several processes that train together."""
    return commands().run(RANKS, [str(processes), str(path)], path.parent)


def serve() -> None:
    """Import, then fork for each line of stdin until it ends."""
    from builders.core.console import quiet_libraries

    quiet_libraries()  # as every command does before it imports them
    for name in sys.argv[1:]:
        importlib.import_module(name)
    gc.freeze()  # the forks share this memory, and a collection need not walk it
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _run(**json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    os._exit(0)  # at once: what was imported has nothing to end


def _run(code: str, argv: list[str], folder: str, output: str, variables: dict[str, str]) -> None:
    """Run code in the forked process and end it."""
    signal.alarm(SECONDS)
    os.environ |= variables
    for stream, path in enumerate((os.devnull, f"{output}/out", f"{output}/err")):
        os.dup2(os.open(path, os.O_RDONLY if stream == 0 else os.O_WRONLY | os.O_CREAT), stream)
    os.chdir(folder)
    sys.argv = argv
    status = 1
    try:
        exec(compile(code, "<command>", "exec"), {"__name__": "__main__"})  # noqa: S102 a test's own code
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    serve()
