"""How a command ends by Ctrl-C or SIGTERM: at once, with one line, wherever in the program the signal meets it.

No exception is raised for it: in a callback of native code an exception can end the process by an abort, print a
panic, or be dropped. A rerun goes on with what was written, as it does after SIGKILL; here temporary files go too.
"""

import _thread
import atexit
import contextlib
import os
import signal
import sys
import time
from types import FrameType

LINE = "interrupted; the same command goes on where this one stopped"
INTERRUPTED = 128 + signal.SIGINT
"""Exit status of an interruption, as shells report it."""
PATIENCE = 5.0
"""Seconds that clearing up may take."""

_USUAL = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


def end_by_signals() -> None:
    """Let Ctrl-C and SIGTERM end this process in one line; a signal that is ignored, as in a background job, stays so.

    A process that is forked off ends too, and says nothing.
    """
    owner = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second one does not wait
        if os.getpid() == owner:
            with contextlib.suppress(OSError):  # stderr may be closed
                os.write(2, f"{LINE}\n".encode())
            # Not by `threading`, one of whose locks this thread may hold at the moment.
            _thread.start_new_thread(_leave, (number, PATIENCE))
            _clear_up()
        _leave(number)

    for number, usual in _USUAL.items():
        if signal.getsignal(number) is usual:
            signal.signal(number, end)


def _clear_up() -> None:
    """End the worker processes and do what libraries have registered for the end, such as to delete temporary files."""
    with contextlib.suppress(OSError):  # what libraries say of a sudden end helps nobody
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    multiprocessing = sys.modules.get("multiprocessing")
    for process in multiprocessing.active_children() if multiprocessing else ():
        process.kill()
    atexit._run_exitfuncs()


def _leave(number: int, wait: float = 0) -> None:
    """End the process without the interpreter's own end, which other threads can turn into an abort."""
    time.sleep(wait)
    if number == signal.SIGINT:
        os._exit(INTERRUPTED)
    os.kill(os.getpid(), number)
