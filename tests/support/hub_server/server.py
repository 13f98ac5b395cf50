"""The HTTP side: connections, authentication, faults, the request log and the admin routes."""

import contextlib
import socket
import struct
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs

from . import routes
from .faults import Fault, FaultPlan, LogEntry, RequestLog
from .http_types import Reply, Request, error_reply, json_reply
from .hub import Hub, Options
from .store import Account, Commit, HubError, Repo, Store

ADMIN = "/_admin/"


class ClientGone(Exception):
    """The connection ends before its request is complete."""


class HubServer:
    """A Hub on the loopback. Use as a context manager, or call start and stop.

    `root` holds the contents (a temporary folder when None); `port` 0 takes a free one. Metadata lives in memory:
    a server starts empty.
    """

    def __init__(self, root: Path | None = None, port: int = 0, options: Options | None = None) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="hub-") if root is None else None
        self.hub = Hub(Store(Path(self._temporary.name) if self._temporary else Path(str(root))), options or Options())
        self.faults = FaultPlan()
        self.log = RequestLog()
        self.stopping = threading.Event()
        self._http = _Listener(("127.0.0.1", port), self)
        self.hub.endpoint = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    @property
    def endpoint(self) -> str:
        """The value for HF_ENDPOINT, without a trailing slash."""
        return self.hub.endpoint

    def start(self) -> Self:
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop listening, cut open connections, remove a temporary root."""
        self.stopping.set()
        self._http.shutdown()
        self._http.server_close()
        self._http.cut()
        self._thread.join()
        if self._temporary:
            self._temporary.cleanup()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def add_token(self, token: str, user: str, role: str = "write", orgs: tuple[str, ...] = ()) -> None:
        """Let `token` speak for `user` (and write in `orgs`); role "read" refuses writes with 403."""
        if role not in ("write", "read"):
            raise ValueError(f"role {role!r} is unknown; choose write or read")
        with self.hub.store.lock:
            self.hub.store.accounts[token] = Account(user, role, tuple(orgs))

    def repo(self, repo_id: str, kind: str = "dataset") -> Repo:
        """The stored repo, whatever its visibility; KeyError if there is none."""
        with self.hub.store.lock:
            return self.hub.store.repos[kind, repo_id]

    def gate(self, repo_id: str, kind: str = "dataset", gated: bool = True) -> None:
        """Make downloads of a repo answer 403 GatedRepo to everybody but its owner."""
        self.repo(repo_id, kind).gated = gated

    def read(self, repo_id: str, path: str, revision: str = "main", kind: str = "dataset") -> bytes:
        """A file's content, past HTTP; for assertions."""
        return self.hub.store.read(self.commit(repo_id, revision, kind).files[path])

    def commit(self, repo_id: str, revision: str = "main", kind: str = "dataset") -> Commit:
        """The commit a revision means, past HTTP; for assertions."""
        return self.repo(repo_id, kind).resolve(revision)

    # called by connections

    def answer(self, request: Request, route: routes.Route, args: dict[str, str]) -> Reply:
        """Authenticate and handle one request."""
        request.args = args
        try:
            authorization = request.headers.get("Authorization") or ""
            if not route.name.startswith("xet_") or route.name == "xet_token":
                request.account = self.hub.store.account(authorization.removeprefix("Bearer ") or None)
            return route.handler(self.hub, request)
        except HubError as error:
            return error_reply(error)
        except (KeyError, TypeError, ValueError) as error:  # a field is missing or of another type
            return error_reply(HubError(400, f"The request is malformed: {error!r}"))

    def admin(self, request: Request) -> Reply:
        """/_admin/faults, /_admin/log, /_admin/tokens, /_admin/gate: the same controls for other processes."""
        what, body = request.path.removeprefix(ADMIN), request.json()
        if (request.method, what) == ("GET", "log"):
            return json_reply(self.log.rows())
        if (request.method, what) == ("GET", "faults"):
            return json_reply(self.faults.pending())
        actions = {
            ("DELETE", "log"): self.log.clear,
            ("DELETE", "faults"): self.faults.clear,
            ("POST", "faults"): self.faults.add,
            ("POST", "tokens"): self.add_token,
            ("POST", "gate"): self.gate,
        }
        action = actions.get((request.method, what))
        if action is None:
            return json_reply({"error": "unknown admin route"}, 404)
        try:
            action(**body)  # type: ignore[operator]
        except (TypeError, ValueError, KeyError) as error:
            return json_reply({"error": str(error)}, 400)
        return json_reply({})


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], hub_server: HubServer) -> None:
        self.hub_server = hub_server
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(address, _Connection)

    def track(self, connection: socket.socket, opened: bool) -> None:
        with self._lock:
            (self._open.add if opened else self._open.discard)(connection)

    def cut(self) -> None:
        """Close the connections that clients keep alive."""
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed is part of the tests; only other errors are worth a trace."""
        if not isinstance(sys.exception(), ConnectionError | ClientGone):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body leave together
    server: _Listener

    def setup(self) -> None:
        super().setup()
        self.server.track(self.connection, True)

    def finish(self) -> None:
        self.server.track(self.connection, False)
        with contextlib.suppress(OSError):
            super().finish()

    def log_message(self, format: str, *args: object) -> None:
        """Requests are in the log, not on stderr."""

    def _serve(self) -> None:
        path, _, query = self.path.partition("?")
        request = Request(self.command, path, parse_qs(query), self.headers, b"")
        if path.startswith(ADMIN):
            request.body = self._body()
            self._send(self.server.hub_server.admin(request))
            return
        found = routes.find(self.command, path)
        name = found[0].name if found else "unknown"
        fault = self.server.hub_server.faults.take(name, path)
        reply = self._handle(request, found, fault)
        self._finish_request(request, name, fault, reply)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = _serve

    def _handle(
        self, request: Request, found: tuple[routes.Route, dict[str, str]] | None, fault: Fault | None
    ) -> Reply | None:
        """The reply after any fault before the handling; None when the request is not handled at all."""
        kind = fault.kind if fault else ""
        request.body = self._body(half=kind == "reset")
        if fault and kind == "status":
            retry = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
            return error_reply(HubError(fault.status, f"Ordered fault {fault.status}", headers=retry))
        if kind in ("drop", "reset"):
            return None
        if kind == "corrupt_request":
            request.body = _flip(request.body)
        if fault and kind == "delay" and self.server.hub_server.stopping.wait(fault.seconds):
            raise ClientGone
        if found is None:
            return error_reply(routes.unknown(request.method, request.path))
        return self.server.hub_server.answer(request, *found)

    def _finish_request(self, request: Request, name: str, fault: Fault | None, reply: Reply | None) -> None:
        """Log first, so that a client that has its answer finds its request in the log; then send."""
        kind = fault.kind if fault else None
        sent = b"" if reply is None or kind == "lost" or request.method == "HEAD" else reply.body
        sent = _flip(sent) if kind == "corrupt" else sent[: len(sent) // 2] if kind == "truncate" else sent
        status = reply.status if reply else None
        label = f"status {status}" if kind == "status" else kind
        user = request.account.user if request.account else None
        repo = f"{request.args['kind']}:{request.args['id']}" if "id" in request.args else None
        sizes = (len(request.body), len(sent), request.content_bytes)
        self.server.hub_server.log.add(LogEntry(name, request.method, request.path, repo, status, *sizes, user, label))
        if reply is None or kind == "lost":
            self._close(reset=kind == "reset")
            return
        self._send(reply, sent)
        if kind == "truncate":
            self._close()

    def _send(self, reply: Reply, sent: bytes | None = None) -> None:
        """Write head and body; `sent` replaces the body that the head announces."""
        self.send_response(reply.status)
        for key, value in {**reply.headers, "Content-Length": str(len(reply.body))}.items():
            self.send_header(key, value.encode("ascii", "replace").decode().replace("\n", " "))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body if sent is None else sent)
        self.wfile.flush()

    def _close(self, reset: bool = False) -> None:
        self.close_connection = True
        if reset:  # a linger time of zero makes close send RST
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        else:
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

    def _body(self, half: bool = False) -> bytes:
        """The whole request body (or its first half), sent with a length or in chunks; ClientGone if it ends early."""
        if "chunked" in (self.headers.get("Transfer-Encoding") or "").lower():
            return self._chunked_body()
        size = int(self.headers.get("Content-Length") or 0)
        return self._exactly(size // 2 if half else size)

    def _chunked_body(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
            parts.append(self._exactly(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _exactly(self, size: int) -> bytes:
        content = self.rfile.read(size) if size else b""
        if len(content) < size:
            raise ClientGone
        return content


def _flip(content: bytes) -> bytes:
    """The content with one bit changed in the middle."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :] if content else content
