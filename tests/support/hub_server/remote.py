"""The Hub in a process of its own, and its controls from any process (through /_admin/)."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from .faults import LogEntry, RequestLog, entry_from


@dataclass(frozen=True)
class RemoteFaults:
    """`FaultPlan` of a server in another process."""

    endpoint: str

    def add(self, match: str, kind: str | int, times: int = 1, nth: int = 1, **options: object) -> None:
        call(self.endpoint, "POST", "faults", {"match": match, "kind": kind, "times": times, "nth": nth, **options})

    def clear(self) -> None:
        call(self.endpoint, "DELETE", "faults")

    def pending(self) -> object:
        return call(self.endpoint, "GET", "faults")


@dataclass(frozen=True)
class RemoteHub:
    """The controls of a running server, by its endpoint alone."""

    endpoint: str

    @property
    def faults(self) -> RemoteFaults:
        return RemoteFaults(self.endpoint)

    @property
    def log(self) -> RequestLog:
        """A copy of the log as it is now; clear the server's with `clear_log`."""
        rows = call(self.endpoint, "GET", "log")
        entries: list[LogEntry] = [entry_from(row) for row in rows] if isinstance(rows, list) else []
        return RequestLog(entries)

    def clear_log(self) -> None:
        call(self.endpoint, "DELETE", "log")

    def add_token(self, token: str, user: str, role: str = "write", orgs: tuple[str, ...] = ()) -> None:
        call(self.endpoint, "POST", "tokens", {"token": token, "user": user, "role": role, "orgs": orgs})

    def gate(self, repo_id: str, kind: str = "dataset", gated: bool = True) -> None:
        call(self.endpoint, "POST", "gate", {"repo_id": repo_id, "kind": kind, "gated": gated})


def call(endpoint: str, method: str, what: str, body: dict[str, object] | None = None) -> object:
    """One admin request; ValueError with the server's sentence if it is refused."""
    data = None if body is None else json.dumps(body).encode()
    request = Request(f"{endpoint}/_admin/{what}", data=data, method=method)
    opener = build_opener(ProxyHandler({}))  # the loopback is never behind a proxy
    try:
        with opener.open(request, timeout=30) as reply:
            return json.loads(reply.read())
    except HTTPError as error:
        raise ValueError(json.loads(error.read())["error"]) from error


@contextmanager
def serve_in_process(root: Path | None = None, port: int = 0) -> Iterator[RemoteHub]:
    """A Hub in a child process; it ends with the block, or when this process dies (its stdin closes)."""
    command = [sys.executable, "-m", "hub_server", "--port", str(port), *(["--root", str(root)] if root else [])]
    support = str(Path(__file__).resolve().parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([support, os.environ.get("PYTHONPATH", "")])}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, text=True, stdin=pipe, stdout=pipe) as process:
        try:
            line = process.stdout.readline().strip() if process.stdout else ""
            if not line:
                raise RuntimeError(f"the Hub server did not start (exit code {process.wait()})")
            yield RemoteHub(line)
        finally:
            if process.stdin:
                process.stdin.close()  # the server stops and removes its temporary folder
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_struck(hub: RemoteHub, seconds: float = 30.0) -> None:
    """Wait until every ordered fault has struck: a client in a delay can then be killed. Else TimeoutError."""
    deadline = time.monotonic() + seconds
    while hub.faults.pending():
        if time.monotonic() > deadline:
            raise TimeoutError(f"some faults did not strike within {seconds} s: {hub.faults.pending()}")
        time.sleep(0.01)
