"""Servers that a run starts itself, on this machine and for as long as it lasts: `serve` of an engine's settings.

The server is started where it is first needed in a process and ends with it, also where that is killed: between them
stands this module as a program, which ends the server as soon as nobody holds its input any more.

    python -m builders.engines.serving vllm serve Qwen/Qwen2.5-0.5B-Instruct --port 41873
"""

import atexit
import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from scorers.errors import UserError, plain

HOST = "127.0.0.1"
PORT, PYTHON = "{port}", "{python}"  # what a command names, to be filled in
POLL = 0.05  # seconds
SHOWN = 300  # characters of a log's end that a message shows


@dataclass(frozen=True)
class _Server:
    """A server under way: its address, its process, and the file of what it says."""

    address: str
    process: "subprocess.Popen[bytes]"
    log: Path


_RUNNING: dict[str, _Server] = {}
_LOCK = threading.Lock()


def address_of(command: str, setting: str, timeout: float) -> str:
    """Return the address of the server that a command starts, which is started where it does not run yet.

    Args:
        command: as the settings have it; `{port}` stands for the port that it is to listen on.
        setting: path of the engine's section, for messages.
        timeout: seconds until it has to listen.

    Raises:
        UserError: the command cannot be run, ends, or does not listen in time.
    """
    with _LOCK:
        known = _RUNNING.get(command)
        if known is None or known.process.poll() is not None:
            known = _RUNNING[command] = _start(command, setting, timeout)
        return known.address


def _start(command: str, setting: str, timeout: float) -> _Server:
    """Start a server and wait until it listens."""
    port = _free_port()
    try:
        parts = shlex.split(command)
    except ValueError as error:
        raise UserError(f"{setting}.serve: {command!r} is no command line ({error}); correct it") from None
    words = [word.replace(PORT, str(port)).replace(PYTHON, sys.executable) for word in parts]
    with tempfile.NamedTemporaryFile(prefix="grace-serve-", suffix=".log", delete=False) as log:
        # In a session of its own: a worker is killed with its whole group, and the keeper has to outlive that.
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, *words],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    path, began = Path(log.name), time.monotonic()
    atexit.register(_end, process, path)
    while not _listens(port):
        if process.poll() is not None:
            said = plain(" ".join(path.read_text(encoding="utf-8", errors="replace").split())[-SHOWN:])
            said = said or f"exit status {process.returncode}, it said nothing"
            raise UserError(f"{setting}.serve: the command ended before it listened ({said}); its log is {path}")
        if time.monotonic() - began > timeout:
            _end(process)
            raise UserError(
                f"{setting}.serve: nothing listens on port {port} after {timeout:g} s; let the command listen on "
                f"{PORT}, or raise {setting}.timeout; its log is {path}"
            )
        time.sleep(POLL)
    return _Server(f"http://{HOST}:{port}/v1", process, path)


def _free_port() -> int:
    """Return a port of the loopback that is free now."""
    with socket.socket() as found:
        found.bind((HOST, 0))
        return int(found.getsockname()[1])


def _listens(port: int) -> bool:
    """Whether something listens on a port of the loopback."""
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return True
    return False


def _end(process: "subprocess.Popen[bytes]", log: Path | None = None) -> None:
    """End a server, whose keeper sees the end of its input, and delete its log; a failed start leaves that."""
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=10)
    if process.poll() is None:
        process.kill()
    if log is not None and process in [server.process for server in _RUNNING.values()]:
        log.unlink(missing_ok=True)


def keep(words: list[str]) -> int:
    """Run a command until it ends or this program's input does, and end what it started; return its exit status.

    The command has a session of its own, so that it can be ended whole, and an interruption of the run does not reach
    it before the run has ended.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        child = subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True)
    except (OSError, ValueError) as error:
        print(f"{words[0]}: {getattr(error, 'strerror', None) or error}")
        return 127

    def send(number: int) -> None:
        with contextlib.suppress(OSError):  # all of them have ended
            os.killpg(child.pid, number)

    def watch() -> None:
        # Ends when the program that started this one ends, however it does. Not by `sys.stdin`, whose lock would be
        # held while this program ends.
        while os.read(0, 1024):
            continue
        send(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=5)
        send(signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    status = child.wait()
    send(signal.SIGKILL)  # what a wrapper has left
    return status


if __name__ == "__main__":
    sys.exit(keep(sys.argv[1:]))
