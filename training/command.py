"""Running a command: usage errors, a user's mistakes and log lines, each one line on stderr."""

import codecs
import contextlib
import errno
import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import typer
from typer._click.exceptions import NoArgsIsHelpError, UsageError  # the pinned typer has no public name for them
from typer.core import TyperCommand, TyperGroup

READER_GONE = 128 + signal.SIGPIPE  # exit status, as shells report it
STAND_INS = "ascii_stand_ins"  # name of the way to print what a terminal's encoding lacks
ASCII = {
    "→": "->",
    "←": "<-",
    "–": "-",
    "−": "-",
    "…": "...",
    "Σ": "sum",
    "²": "^2",
    "±": "+/-",
    "·": "*",
    "λ": "lambda",
    "×": "x",
}

#: Errors of the system that the user can mend, and how; every other I/O error is a defect of the program.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # as builders.store.files.NO_ROOM, which is imported later
_ACCESS = "change its permissions, or name another file or folder"
_PATH = "name another file or folder"
WAYS_OUT = (
    dict.fromkeys(FULL, "free room, or name another folder")
    | dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), _ACCESS)
    | dict.fromkeys((errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP), _PATH)
)


def _stand_ins(error: UnicodeError) -> tuple[str, int]:
    """Return what is printed in place of characters that a terminal's encoding lacks: ASCII, or an escape."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(
        ASCII.get(c) or c.encode("unicode_escape").decode() for c in error.object[error.start : error.end]
    ), error.end


codecs.register_error(STAND_INS, _stand_ins)


def _prepare_output() -> None:
    """Let stdout and stderr take any character, and let a closed one take everything."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed, as by `>&-` in a shell
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 open to the end of the process
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=STAND_INS)


def _drop_output() -> None:
    """Send what is still to be printed to nowhere: the reader of stdout is gone, or its disk is full."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(main: Callable[..., Any], *args: Any, **options: Any) -> NoReturn:
    """Run a command and end the process; a usage error becomes one line on stderr and exit status 2."""
    # Not standalone: click then raises usage errors to the caller, and returns the status of an `Exit`.
    try:
        _prepare_output()
        status = main(*args, **(options | {"standalone_mode": False}))
        # Here, where a reader that is gone can still be met; at the interpreter's end it would be a traceback.
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
        sys.exit(READER_GONE)
    except NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except UsageError as error:
        where = f"; see `{error.ctx.command_path} --help`" if error.ctx else ""
        print(f"error: {' '.join(error.format_message().split()).rstrip('.')}{where}", file=sys.stderr)
        sys.exit(2)
    sys.exit(status or 0)


def print_version(wanted: bool) -> None:
    """Print the version of the package and end the command, if this is wanted."""
    if wanted:
        from importlib.metadata import version

        typer.echo(f"grace {version('grace-data')}")
        raise typer.Exit


class Group(TyperGroup):
    """A group of commands whose usage errors are one line."""

    def main(self, *args: Any, **options: Any) -> NoReturn:
        """Run the named command and end the process."""
        _run(super().main, *args, **options)


class Single(TyperCommand):
    """A command without a group, as `build` and `train` are, whose usage errors are one line."""

    def main(self, *args: Any, **options: Any) -> NoReturn:
        """Run the command and end the process."""
        _run(super().main, *args, **options)


class StderrHandler(logging.Handler):
    """Lines on what stderr is at the moment, also where a test or a notebook has put another stream in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line."""
        print(self.format(record), file=sys.stderr, flush=True)


# The extra that brings a package; `train` has all that `sample` has.
EXTRAS = {
    "FlagEmbedding": "score",
    "datasets": "hub",
    "rensa": "sample",
    "sacrebleu": "sample",
    "ray": "ray",
} | dict.fromkeys(
    (
        "torch",
        "transformers",
        "peft",
        "trl",
        "accelerate",
        "bitsandbytes",
        "safetensors",
        "tokenizers",
        "scipy",
        "sklearn",
    ),
    "train",
)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn a user's mistake into one line on stderr and exit status 2; `training.interruption` has Ctrl-C.

    A user's mistake is a `UserError`, a disk that is full or refuses access, a path that cannot be one, or an extra
    that is not installed. Every other exception is a defect of the program and keeps its traceback.
    """
    from builders.core.console import quiet_libraries
    from scorers.errors import UserError, plain

    quiet_libraries()
    _log_to_stderr()
    try:
        yield
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {plain(' '.join(str(error).split()))}", file=sys.stderr)
        raise typer.Exit(2) from None
    except BrokenPipeError:
        _drop_output()
        raise typer.Exit(READER_GONE) from None
    except OSError as error:
        if error.errno not in WAYS_OUT:
            raise
        what = error.filename or "the output"
        print(f"error: {what}: {error.strerror}; {WAYS_OUT[error.errno]}", file=sys.stderr)
        if error.errno in FULL:
            _drop_output()
        raise typer.Exit(2) from None
    except ModuleNotFoundError as error:
        # The package of a module such as transformers.utils.
        name = (error.name or "").partition(".")[0]
        if name not in EXTRAS:
            raise
        way_out = f"install the extra that brings it: pip install 'grace-data[{EXTRAS[name]}]'"
        print(f"error: this needs {name}, which is not installed; {way_out}", file=sys.stderr)
        raise typer.Exit(2) from None


def _log_to_stderr() -> None:
    """Send the project's log lines to stderr."""
    handler = StderrHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    for package in ("builders", "scorers", "training"):
        logger = logging.getLogger(package)
        # Replaced, not added: a second command in one process must not print each line twice.
        logger.handlers = [handler]
        logger.setLevel(logging.INFO)
        # A library that configures the root logger would print each line once more.
        logger.propagate = False
