"""What runs in a worker: it takes a task, asks for units until there are no more, and tells what is done.

A worker's messages are pairs of one of the kinds below and a value. It waits for an answer after `NEXT`, and for a task
after `ENDED` and `FAILED`.
"""

import pickle
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from scorers.errors import UserError

NEXT = "next"
"""Asks for a unit; the answer None says that there is none."""
DONE = "done"
"""A unit is done; with its key."""
ENDED = "ended"
"""The task is over."""
FAILED = "failed"
"""The task raised an exception, as `packed`."""
LOST = "lost"
"""The worker has ended, with the reason; its team says so, since it no longer can."""

Message = tuple[str, Any]
Failure = tuple[bytes | None, bool, str, str]


def serve(receive: Callable[[], Any], send: Callable[[Message], None]) -> None:
    """Do one task after the other until None comes in place of a task.

    Args:
        receive: waits for the executor's next message.
        send: sends it a message.
    """

    def units() -> Iterator[Any]:
        while True:
            send((NEXT, None))
            if (unit := receive()) is None:
                return
            yield unit

    while (task := receive()) is not None:
        try:
            for key in task(units()):
                send((DONE, key))
        except Exception as error:
            send((FAILED, packed(error)))
        else:
            send((ENDED, None))


def packed(error: Exception) -> Failure:
    """Return an exception as it can travel.

    Returns:
        Its pickle, None where it cannot be pickled and read again; whether it is a user's mistake; its message; its
        traceback.
    """
    try:
        data = pickle.dumps(error)
        whole = str(pickle.loads(data)) == str(error)  # noqa: S301 written a line above
    except Exception:  # whatever the class of an exception does when it is pickled
        whole = False
    text = "".join(traceback.format_exception(error))
    return data if whole else None, isinstance(error, UserError), str(error), text


def unpacked(failure: Failure) -> Exception:
    """Return the exception that a worker met; the cause of a defect shows the worker's traceback."""
    data, mistake, message, text = failure
    if data is None:
        error: Exception = UserError(message) if mistake else RuntimeError(message)
    else:
        error = pickle.loads(data)  # noqa: S301 written by a worker of this run
    if not mistake:
        error.__cause__ = InWorker(text)
    return error


class InWorker(Exception):
    """Shows the traceback of an exception as the worker had it."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        """Return the traceback."""
        return f"\n{self.text}"
