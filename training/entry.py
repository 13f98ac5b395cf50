"""What the commands `grace`, `build` and `train` start: from its first moment on, an interruption is one line."""

import os
import signal
from types import FrameType, ModuleType

from training.interruption import INTERRUPTED, LINE


def grace() -> None:
    """Run the command `grace`."""
    _cli().app()


def build() -> None:
    """Run the command `build`."""
    _cli().build_main()


def train() -> None:
    """Run the command `train`."""
    _cli().train_main()


def _cli() -> ModuleType:
    """Import the command line, which takes up to half a second; Ctrl-C ends the process meanwhile."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # a job in the background ignores the signal
        signal.signal(signal.SIGINT, _end)
    from training import cli

    signal.signal(signal.SIGINT, before)
    return cli


def _end(number: int, frame: FrameType | None) -> None:
    """End the process at once; an exception would name the module that was being imported."""
    os.write(2, f"{LINE}\n".encode())
    os._exit(INTERRUPTED)
