"""Attempts of what must not be blindly repeated: how often, how long apart, and after which errors."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_random_exponential

from builders.hub.client import CLIENT_ERRORS, as_user_error, is_transient, status_of
from builders.hub.client import wait as wait_for_hub
from builders.hub.session import PATIENCE

ATTEMPTS = 5  # after errors that another attempt can mend
RACES = 20  # attempts while others publish to the same repository
LOST_RACE = 412  # HTTP status of a commit whose parent is no longer the head
EXISTS = 409  # HTTP status where what is to be created exists, or is being created
GONE = 404  # HTTP status of a commit on a branch that another process has deleted meanwhile

T = TypeVar("T")


class Again(Exception):
    """An attempt that failed in a way that another attempt can mend; the cause says how."""


def _was_race(state: RetryCallState) -> bool:
    """Whether an attempt failed because another process published at the same time."""
    error = state.outcome.exception() if state.outcome is not None else None
    return error is not None and error.__cause__ is not None and status_of(error.__cause__) in (LOST_RACE, EXISTS)


def _wait(state: RetryCallState) -> float:
    """Return the seconds until the next attempt: random after a lost race, else what the Hub asks for."""
    return float(wait_random_exponential(multiplier=0.2, max=5)(state)) if _was_race(state) else wait_for_hub(state)


def repeat(what: str, attempt: Callable[[], T]) -> T:
    """Call `attempt` until it returns a value."""
    failing_since: float | None = None

    def stop(state: RetryCallState) -> bool:
        nonlocal failing_since
        if _was_race(state):
            return state.attempt_number >= RACES
        # From the end of the first failure on: before it an upload may have run for hours.
        failing_since = failing_since or time.monotonic()
        return state.attempt_number >= ATTEMPTS or time.monotonic() - failing_since > PATIENCE

    retrying = Retrying(retry=retry_if_exception_type(Again), stop=stop, wait=_wait, reraise=True)
    try:
        return retrying(attempt)
    except Again as error:
        raise as_user_error(what, error.__cause__ or error) from None


@contextmanager
def mended(what: str, *statuses: int) -> Iterator[None]:
    """Turn errors that another attempt can mend into `Again`, and all others into errors for the user.

    Args:
        what: named in the error.
        statuses: HTTP statuses that count as mendable beside the transient errors.
    """
    try:
        yield
    except CLIENT_ERRORS as error:
        if is_transient(error) or status_of(error) in statuses:
            raise Again from error
        raise as_user_error(what, error) from None
