"""A server of chat completions on the loopback, which answers as a test says and keeps what it was asked."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = dict[str, Any]
Answer = tuple[int, Body | bytes]
"""Status, and the body as JSON or as bytes."""


def choices(*texts: str, finish: str = "stop", tokens: int | None = None) -> Body:
    """A reply with these texts."""
    found = [
        {"index": i, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
        for i, text in enumerate(texts)
    ]
    used = sum(map(len, texts)) if tokens is None else tokens
    usage = {"prompt_tokens": 1, "completion_tokens": used, "total_tokens": used + 1}
    return {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": found, "usage": usage}


def echo(body: Body) -> Answer:
    """As many choices as are asked for: the prompt, the seed and the number of the choice."""
    prompt, seed = body["messages"][-1]["content"], body["seed"]
    return 200, choices(*(f"{prompt}/{seed}/{i}" for i in range(body.get("n", 1))))


@dataclass
class ChatServer:
    """What the server does, and what it saw.

    Attributes:
        answer: answers a request for a completion.
        models: what it says of its models; None: it does not tell them.
        seconds: how long an answer takes.
        asked: bodies of the requests for completions.
        keys: their authorization headers.
        most: the most requests that were under way at once.
    """

    answer: Callable[[Body], Answer] = echo
    models: list[Body] | None = field(default_factory=lambda: [{"id": "writer", "owned_by": "us", "created": 1}])
    seconds: float = 0.0
    asked: list[Body] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    most: int = 0
    url: str = ""
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def complete(self, body: Body, key: str | None) -> Answer:
        with self._lock:
            self.asked.append(body)
            self.keys.append(key)
            self._now += 1
            self.most = max(self.most, self._now)
        time.sleep(self.seconds)
        try:
            return self.answer(body)
        finally:
            with self._lock:
                self._now -= 1

    def model(self, path: str) -> Answer:
        if self.models is None:
            return 404, {"error": {"message": "no such page"}}
        if path.endswith("/models"):
            return 200, {"object": "list", "data": [{"object": "model", **model} for model in self.models]}
        return 404, {"error": {"message": "no such page"}}  # as vLLM's server, which has no page for one model


@contextlib.contextmanager
def running(server: ChatServer) -> Iterator[ChatServer]:
    """Run a server for as long as a `with` lasts."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            """Nothing is printed."""

        def send(self, answer: Answer) -> None:
            status, body = answer
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # nobody waits any more
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        def do_GET(self) -> None:
            self.send(server.model(self.path))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.send(server.complete(body, self.headers["Authorization"]))

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{http.server_port}/v1"
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
