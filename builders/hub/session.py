"""The HTTP session that huggingface_hub uses here: every request ends, and a fault that lasts ends the command.

huggingface_hub repeats downloads and uploads by itself, in each of many threads, has no time limit for the rest, and
logs every attempt with its address, which for uploads is signed. Here an attempt may take `LONGEST_SILENCE` seconds
without a byte, and a request that has failed for `PATIENCE` seconds is not made again: `GaveUp` is raised, which nobody
repeats. Uploads count as one request, and so do downloads: files that wait for their turn are not tried one by one.
"""

import logging
import os
import threading
import time
from typing import Any

import httpx2
from huggingface_hub import set_client_factory
from huggingface_hub.utils import _http  # the pinned version has no public name for its hook and its factory

PATIENCE = 25  # seconds for which requests that fail are repeated
LONGEST_SILENCE = 20  # seconds without a byte
COMMIT_SILENCE = 45  # the Hub answers a commit of many files late
STALE = 12  # seconds after which a failure that nobody repeated says nothing any more
LONGEST_ASKED = 8  # seconds that a Hub in trouble may ask to wait; a limit of requests may ask for more
# The same bounds for hf_xet, which has a client of its own; read when it is first used, a user's own values stay.
_XET = {
    "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "3",
    "HF_XET_CLIENT_RETRY_BASE_DELAY": "1s",
    "HF_XET_CLIENT_CONNECT_TIMEOUT": "10s",
    "HF_XET_CLIENT_READ_TIMEOUT": "20s",
}
_REPEATED = (408, 429, 500, 502, 503, 504)  # statuses after which huggingface_hub repeats a request
LIMITED = 429  # status of a request beyond a limit: no fault, the Hub says when the next one may come

log = logging.getLogger(__name__)


class GaveUp(RuntimeError):
    """A request that has failed for too long.

    Attributes:
        reason: the last failure, such as `status 503`.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _Failures:
    """Which requests fail at present, since when and how; shared by all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, tuple[float, float, str]] = {}  # by request: first and last failure, and the reason

    def check(self, *keys: str) -> None:
        """Raise `GaveUp` where a request has failed for longer than `PATIENCE`.

        Args:
            keys: the request, and what it is one of.
        """
        now = time.monotonic()
        with self._lock:
            self._open = {key: found for key, found in self._open.items() if now - found[1] < STALE}
            for key in keys:
                first, _, reason = self._open.get(key, (now, now, ""))
                if now - first > PATIENCE:
                    raise GaveUp(reason)

    def add(self, *keys: str, began: float, reason: str) -> None:
        """Note that an attempt which began at a time of the monotonic clock has failed."""
        with self._lock:
            alone = not self._open
            for key in keys:
                first = self._open[key][0] if key in self._open else began
                self._open[key] = (first, time.monotonic(), reason)
        if alone:
            log.info("the Hub does not answer as it should (%s); trying again for up to a minute", reason)

    def remove(self, *keys: str) -> None:
        """Note that a request has succeeded, or was refused for good."""
        with self._lock:
            for key in keys:
                self._open.pop(key, None)

    def clear(self) -> None:
        """Forget all failures: what is tried next is another matter."""
        with self._lock:
            self._open.clear()


FAILURES = _Failures()


class _Client(httpx2.Client):
    """The ordinary client, with a limit on silence and on patience."""

    def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Send one request.

        Raises:
            GaveUp: where requests have failed for too long.
        """
        keys = _keys(request)
        FAILURES.check(*keys)
        silence = COMMIT_SILENCE if request.method == "POST" and "/commit/" in request.url.path else LONGEST_SILENCE
        # What the caller asks for counts where it is shorter; most callers ask for no limit at all.
        asked = request.extensions.get("timeout", {})
        request.extensions["timeout"] = {
            kind: min(asked.get(kind) or silence, silence) for kind in ("connect", "read", "write", "pool")
        }
        began = time.monotonic()
        try:
            response = super().send(request, **options)
        except (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError) as error:
            FAILURES.add(*keys, began=began, reason=type(error).__name__)
            raise
        if response.status_code not in _REPEATED:
            FAILURES.remove(*keys)
        elif response.status_code != LIMITED:
            FAILURES.add(*keys, began=began, reason=f"status {response.status_code}")
            wait = response.headers.get("Retry-After", "")
            if not wait.isdecimal() or int(wait) > LONGEST_ASKED:
                response.headers.pop("Retry-After", None)
        return response


def _keys(request: httpx2.Request) -> list[str]:
    """Return the names of a request and, for an upload or a download, of all these together."""
    path = request.url.path
    # Without its query: that of an upload is another one each time it is signed.
    keys = [f"{request.method} {request.url.host}{path}"]
    if request.method == "PUT" or "/resolve/" in path:
        keys.append(f"{request.method} {request.url.host}")
    return keys


def bound_session() -> None:
    """Let huggingface_hub use the bounded client and log no attempt; a client that the user has set up stays."""
    for name, value in _XET.items():
        os.environ.setdefault(name, value)
    if _http._GLOBAL_CLIENT_FACTORY is _http.default_client_factory:
        set_client_factory(_session)
    logger = logging.getLogger(_http.__name__)
    if _no_attempts not in logger.filters:
        logger.addFilter(_no_attempts)


def _session() -> httpx2.Client:
    """Return a client as huggingface_hub makes its own."""
    return _Client(event_hooks={"request": [_http.hf_request_event_hook]}, follow_redirects=True, timeout=None)


def _no_attempts(record: logging.LogRecord) -> bool:
    """Whether a line of huggingface_hub says something else than that a request failed and is repeated."""
    return not any(words in record.msg for words in (" thrown while requesting ", "before retry [", "s [Retry "))
