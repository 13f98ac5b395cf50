"""What passes between the connection (server.py) and the routes: a request and a reply."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from urllib.parse import parse_qs

from .store import Account, HubError


@dataclass
class Request:
    """One parsed request; `args` are the decoded parts of the path."""

    method: str
    path: str  # raw, still percent-quoted, without the query
    query: Mapping[str, list[str]]
    headers: Message
    body: bytes
    args: Mapping[str, str] = field(default_factory=dict)
    account: Account | None = None
    content_bytes: int = 0  # set by routes that take file content

    def json(self) -> dict[str, object]:
        """The body as a JSON object; 400 otherwise."""
        try:
            value = json.loads(self.body or b"{}")
        except ValueError as error:
            raise HubError(400, "The body is not JSON") from error
        if not isinstance(value, dict):
            raise HubError(400, "The body is not a JSON object")
        return value

    def form(self) -> Mapping[str, list[str]]:
        """The body as a form, or as JSON with lists."""
        if "json" in (self.headers.get("Content-Type") or ""):
            return {key: [str(v) for v in value] for key, value in self.json().items() if isinstance(value, list)}
        return parse_qs(self.body.decode())

    def first(self, key: str, default: str = "") -> str:
        return self.query.get(key, [default])[0]


@dataclass
class Reply:
    """An answer; a HEAD answer announces the length of `body` without sending it."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def json_reply(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    return Reply(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})


def error_reply(error: HubError) -> Reply:
    """A refusal in the form the clients read: JSON body, X-Error-Code, X-Error-Message."""
    headers = {"X-Error-Message": error.message, **error.headers}
    if error.code:
        headers["X-Error-Code"] = error.code
    return json_reply({"error": error.message}, error.status, headers)
