"""Requests to the Hugging Face Hub: retries, and every failure told to the user in one line.

huggingface_hub repeats downloads and uploads, but neither repository listings nor commits. Only requests that may be
repeated go through `call`; a commit is repeated in builders/hub/commit.py, which reads the head first.
"""

import errno
import re
import sys
from collections.abc import Callable
from typing import TypeVar

import httpx2
from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from builders.hub.session import GaveUp, bound_session
from scorers.errors import UserError

ATTEMPTS = 4  # of one request, the first included
LONGEST_WAIT = 300  # seconds; the Hub counts requests in windows of five minutes
LONGEST_TEXT = 240  # characters of a server's message that are shown

#: Everything the clients raise: HTTP and network errors, hf_xet's built-in ones, and an answer that cannot be read.
CLIENT_ERRORS = (
    httpx2.HTTPError,
    httpx2.InvalidURL,
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    EntryNotFoundError,
)
# The same request would meet these errors again, so it is not repeated.
_LASTING = (
    OfflineModeIsEnabled,
    HFValidationError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
_LOCAL = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM)  # faults of the local disk
# Both are masked in whatever is shown: the query of an address may be a signature that lets others write.
_TOKEN = re.compile(r"\bhf_\w{6,}|\bBearer\s+\S+")
_QUERY = re.compile(r"(\bhttps?://[^\s?\"'<>]+)\?[^\s\"'<>)]+")

T = TypeVar("T")


class NotOnHub(UserError):
    """A repository or revision that is missing or that the token may not see; the Hub does not tell which."""


def client() -> HfApi:
    """Return the client for the endpoint and token of the environment (HF_ENDPOINT, HF_TOKEN or `hf auth login`).

    Its progress bars are shown on a terminal only.
    """
    if not sys.stderr.isatty() and not are_progress_bars_disabled():
        disable_progress_bars()
    bound_session()
    return HfApi(endpoint=constants.ENDPOINT, library_name="grace-data")


def endpoint() -> str:
    """Return the address of the Hub in use."""
    return constants.ENDPOINT


def call(what: str, request: Callable[[], T]) -> T:
    """Make a request that may be repeated.

    Args:
        what: what is asked for, as the error message names it, such as `dataset alice/demo-scores`.
        request: asks the Hub; after a transient error it is tried again, `ATTEMPTS` times in all, with growing,
            jittered waits.

    Raises:
        UserError: one line that says what is wrong; `NotOnHub` where the repository or revision is missing.
    """
    try:
        return Retrying(
            retry=retry_if_exception(is_transient), stop=stop_after_attempt(ATTEMPTS), wait=wait, reraise=True
        )(request)
    except CLIENT_ERRORS as error:
        raise as_user_error(what, error) from None


def wait(state: RetryCallState) -> float:
    """Return the seconds until the next attempt: what the Hub asks for, else about 1, 2, 4 … 30."""
    error = state.outcome.exception() if state.outcome is not None else None
    asked = _asked_wait(error)
    return asked if asked is not None else wait_exponential_jitter(initial=1, max=30)(state)


def _asked_wait(error: BaseException | None) -> float | None:
    """Return the seconds that the Hub asks to wait, `LONGEST_WAIT` at most; None where it asks for nothing."""
    response = _response(error)
    if response is None:
        return None
    # The Hub's rate limit comes as `"api";r=0;t=55`: t seconds until the window ends.
    found = re.search(r";t=(\d+)", response.headers.get("RateLimit", "")) if response.status_code == 429 else None
    asked = found[1] if found else response.headers.get("Retry-After", "")
    return min(int(asked) + 1, LONGEST_WAIT) if asked.isdecimal() else None


def _response(error: BaseException | None) -> httpx2.Response | None:
    """Return the Hub's refusal at the root of an error, which uploads wrap; None where there was no answer."""
    while error is not None:
        if isinstance(error, HfHubHTTPError):
            return error.response
        error = error.__cause__
    return None


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status at the root of an error; None where there was no answer."""
    response = _response(error)
    return None if response is None else response.status_code


def is_transient(error: BaseException) -> bool:
    """Whether the same request can succeed later: overload, a broken connection or a damaged answer."""
    if isinstance(error, _LASTING) or not isinstance(error, CLIENT_ERRORS) or _gave_up(error) is not None:
        return False
    status = status_of(error)
    if status is not None:  # an upload that arrived damaged is a 400 inside a RuntimeError
        return status in (408, 425, 429) or status >= 500 or (status == 400 and isinstance(error, RuntimeError))
    if isinstance(error, LocalEntryNotFoundError):  # the client has repeated it already
        return False
    return not (isinstance(error, FileNotFoundError) or _is_local(error))


def _gave_up(error: BaseException | None) -> GaveUp | None:
    """Return the error at the root of another that says that requests have failed for too long; None without one."""
    while error is not None:
        if isinstance(error, GaveUp):
            return error
        error = error.__cause__
    return None


def _is_local(error: BaseException) -> bool:
    """Whether an error is a fault of the local disk."""
    return isinstance(error, OSError) and error.errno in _LOCAL and not isinstance(error, HfHubHTTPError)


def masked(text: str) -> str:
    """Return text as one line, with the user's token, whatever looks like one and the queries of addresses masked."""
    token = get_token()
    line = " ".join(text.split())
    if token:
        line = line.replace(token, "hf_***")
    return _QUERY.sub(r"\1?***", _TOKEN.sub("hf_***", line))


def as_user_error(what: str, error: BaseException) -> UserError:
    """Turn a client's error into one line that names the way out."""
    kind = NotOnHub if isinstance(error, RepositoryNotFoundError | RevisionNotFoundError) else UserError
    return kind(masked(f"{what}: {_reason(error)}"))


def _reason(error: BaseException) -> str:
    """Return what is wrong and the way out."""
    # Before RepositoryNotFoundError, which is its base class.
    if isinstance(error, GatedRepoError):
        return f"access is restricted; ask for it on {endpoint()}, then log in with `hf auth login`"
    if isinstance(error, RepositoryNotFoundError):
        who = "this token may not see it" if get_token() else "needs a token"
        return f"not found on {endpoint()}, or it is private and {who}; check the name, or run `hf auth login`"
    if isinstance(error, RevisionNotFoundError):
        return f"no such revision on {endpoint()}; give a branch, a tag such as round-001 or a 40-hex commit"
    if isinstance(error, HFValidationError):
        return f"the Hub does not allow this name: {short(str(error))}; set name: or namespace: to another"
    if isinstance(error, OfflineModeIsEnabled):
        return "offline mode is set; unset HF_HUB_OFFLINE, or use what the store holds"
    if isinstance(error, LocalEntryNotFoundError) and constants.HF_HUB_OFFLINE:
        return "offline mode is set and the cache does not hold it whole; unset HF_HUB_OFFLINE"
    if isinstance(error, LocalTokenNotFoundError):
        return "no token; run `hf auth login` or set HF_TOKEN"
    if isinstance(error, OSError) and _is_local(error):
        return f"{error.filename or 'the disk'}: {error.strerror}; free room or give --store another folder"
    if (gave_up := _gave_up(error)) is not None:
        return f"the Hub is not available ({gave_up.reason}); run the command again"
    return _refusal(error) or f"no usable answer from {endpoint()} ({short(str(error))}); run the command again"


def _refusal(error: BaseException) -> str | None:
    """Return what the status code of the Hub's answer means to the user; None where there was no answer."""
    response = _response(error)
    if response is None:
        return None
    status = response.status_code
    said = short(response.headers.get("X-Error-Message") or _server_message(error) or str(error))
    if status == 401:
        return f"the Hub refuses the token ({said}); run `hf auth login` or set HF_TOKEN"
    if status == 403:
        return f"not allowed ({said}); use a token with write rights to this namespace, or set namespace:"
    if status == 429:
        return "too many requests; wait five minutes and run the command again"
    if status >= 500:
        return f"the Hub is not available (status {status}); run the command again"
    return f"refused with status {status} ({said})"


def _server_message(error: BaseException | None) -> str | None:
    """Return the server's own words at the root of an error, if it sent any."""
    while error is not None:
        if isinstance(error, HfHubHTTPError):
            return error.server_message
        error = error.__cause__
    return None


def short(text: str) -> str:
    """Return foreign text as one line, cut to `LONGEST_TEXT` characters."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_TEXT else f"{line[:LONGEST_TEXT]}…"
