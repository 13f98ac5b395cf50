"""Faults to order: which request (route, n-th occurrence) goes wrong, and how. Plus the log of all requests."""

import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase

KINDS = {
    "status": "answer with `status` without handling the request",
    "drop": "read the request, close the connection, handle nothing",
    "reset": "read half of the request's body, reset the connection (RST), handle nothing",
    "lost": "handle the request, close the connection without an answer",
    "truncate": "announce the whole body, send half of it, close",
    "corrupt": "flip one bit in the middle of the answer's body",
    "corrupt_request": "flip one bit in the middle of the request's body before it is handled",
    "delay": "wait `seconds`, then handle the request as usual",
}


@dataclass
class Fault:
    """One order. It skips the first nth-1 matching requests, then strikes `times` times, then is spent."""

    match: str  # a route name or a glob over route names: "lfs_put", "lfs_*", "*"
    kind: str
    times: int = 1
    nth: int = 1
    status: int = 503
    retry_after: int | None = None  # whole seconds, sent as Retry-After
    seconds: float = 0.0
    path: str = ""  # only requests whose raw path contains this
    seen: int = 0
    struck: int = 0

    def strikes(self, route: str, path: str) -> bool:
        """Whether this request is hit; counts it. Call with the plan's lock held."""
        if self.struck >= self.times or not fnmatchcase(route, self.match) or self.path not in path:
            return False
        self.seen += 1
        if self.seen < self.nth:
            return False
        self.struck += 1
        return True


class FaultPlan:
    """The orders of one server; safe to change while requests are running."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def add(
        self,
        match: str,
        kind: str | int,
        times: int = 1,
        nth: int = 1,
        *,
        retry_after: int | None = None,
        seconds: float = 0.0,
        path: str = "",
    ) -> None:
        """Order a fault; an integer kind is an HTTP status (500, 502, 503, 429, 408, 403, 412, ...)."""
        name, status = ("status", kind) if isinstance(kind, int) else (kind, 503)
        if name not in KINDS:
            raise ValueError(f"fault kind {kind!r} is unknown; choose a status code or one of {', '.join(KINDS)}")
        fault = Fault(match, name, times, nth, status, retry_after, seconds, path)
        with self._lock:
            self._faults.append(fault)

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def take(self, route: str, path: str) -> Fault | None:
        """The first fault that strikes this request, or None."""
        with self._lock:
            return next((fault for fault in self._faults if fault.strikes(route, path)), None)

    def pending(self) -> list[dict[str, object]]:
        """The orders that have not struck as often as asked."""
        with self._lock:
            return [asdict(fault) for fault in self._faults if fault.struck < fault.times]


@dataclass(frozen=True)
class LogEntry:
    """One request. Never holds headers, query strings or bodies, hence no token."""

    route: str
    method: str
    path: str  # raw, without the query
    repo: str | None  # "dataset:namespace/name"
    status: int | None  # what was sent, or computed and lost; None: nothing was computed
    bytes_in: int  # body of the request
    bytes_out: int  # body of the answer that was sent
    content_bytes: int  # file content uploaded: LFS bodies, Xet xorbs, files inside a commit
    user: str | None
    fault: str | None


@dataclass
class RequestLog:
    """All requests since the start or the last clear, in the order they were answered."""

    entries: list[LogEntry] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, entry: LogEntry) -> None:
        with self._lock:
            self.entries.append(entry)

    def clear(self) -> None:
        with self._lock:
            self.entries.clear()

    def of(self, *routes: str) -> list[LogEntry]:
        """The entries of these routes (globs allowed); all without an argument."""
        with self._lock:
            found = list(self.entries)
        return [entry for entry in found if not routes or any(fnmatchcase(entry.route, route) for route in routes)]

    def count(self, *routes: str) -> int:
        return len(self.of(*routes))

    def uploaded(self, *routes: str) -> int:
        """Bytes of file content that clients sent (LFS, Xet, inside commits)."""
        return sum(entry.content_bytes for entry in self.of(*routes))

    def rows(self) -> list[dict[str, object]]:
        return [asdict(entry) for entry in self.of()]


def entry_from(row: Mapping[str, object]) -> LogEntry:
    """A log entry from its JSON form."""
    return LogEntry(**row)  # type: ignore[arg-type]
