"""Rules of the generated world behind an OpenAI-compatible endpoint on the loopback, in place of large models.

What is answered follows from the prompt and the request's seed alone, so equal runs get equal answers.
"""

import json
import threading
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = Callable[[str, int], str]
"""Answers the last message's text under a seed."""


def serve(port: int, models: Sequence[str], identity: str, reply: Reply, seconds: float = 0.0) -> None:
    """Answer requests on a port of the loopback until the program is ended.

    Args:
        port: the port.
        models: names of the models, all of which answer alike.
        identity: what the server says of them.
        reply: answers a prompt.
        seconds: how long an answer takes.
    """
    # Requests under way, the most of them so far, and what guards both.
    now, most, guard = 0, 0, threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # connections are kept

        def log_message(self, *arguments: object) -> None:
            """Nothing is printed."""

        def do_GET(self) -> None:
            self._send({"object": "list", "data": [_model(name, identity) | {"most": most} for name in models]})

        def do_POST(self) -> None:
            nonlocal now, most
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with guard:
                now += 1
                most = max(most, now)
            time.sleep(seconds)
            answer = completion(body, reply)
            with guard:
                now -= 1
            self._send(answer)

        def _send(self, value: dict[str, Any]) -> None:
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    server.serve_forever()


def _model(name: str, identity: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": identity}


def completion(body: dict[str, Any], reply: Reply) -> dict[str, Any]:
    """Answer the body of a request for chat completions."""
    prompt, seed = body["messages"][-1]["content"], int(body.get("seed", 0))
    texts = [reply(prompt, seed + number) for number in range(int(body.get("n", 1)))]
    choices = [
        {"index": i, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        for i, text in enumerate(texts)
    ]
    tokens = sum(len(text.split()) for text in texts)
    usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": tokens, "total_tokens": tokens}
    return {
        "id": "0",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": choices,
        "usage": usage,
    }
