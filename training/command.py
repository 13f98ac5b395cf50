"""Running a command: usage errors, a user's mistakes and log lines, each one line on stderr."""

import contextlib
import errno
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import typer
from typer._click.exceptions import NoArgsIsHelpError, UsageError  # the pinned typer has no public name for them
from typer.core import TyperCommand, TyperGroup


def _run(main: Callable[..., Any], *args: Any, **options: Any) -> NoReturn:
    """Run a command and end the process; a usage error becomes one line on stderr and exit status 2."""
    # Not standalone: click then raises usage errors to the caller, and returns the status of an `Exit`.
    try:
        status = main(*args, **(options | {"standalone_mode": False}))
    except NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except UsageError as error:
        where = f"; see `{error.ctx.command_path} --help`" if error.ctx else ""
        typer.echo(f"error: {' '.join(error.format_message().split()).rstrip('.')}{where}", err=True)
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
EXTRAS = {"FlagEmbedding": "score", "datasets": "hub", "rensa": "sample"} | dict.fromkeys(
    ("torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "safetensors", "tokenizers"), "train"
)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn a user's mistake into one line on stderr and exit status 2, an interruption into exit status 130.

    A user's mistake is a `UserError`, a disk that is full or refuses access, or an extra that is not installed. Every
    other exception is a defect of the program and keeps its traceback.
    """
    from builders.core.console import quiet_libraries
    from scorers.errors import UserError

    quiet_libraries()
    _log_to_stderr()
    try:
        yield
    except UserError as error:
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(2) from None
    except OSError as error:
        # A full disk or a folder without access is the user's to mend; every other I/O error is a defect.
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        way_out = "free room" if full else "change its permissions"
        what = f"{error.filename or 'the store'}: {error.strerror}"
        typer.echo(f"error: {what}; {way_out} or give --store another folder", err=True)
        raise typer.Exit(2) from None
    except ModuleNotFoundError as error:
        # The package of a module such as transformers.utils.
        name = (error.name or "").partition(".")[0]
        if name not in EXTRAS:
            raise
        way_out = f"install the extra that brings it: pip install 'grace-data[{EXTRAS[name]}]'"
        typer.echo(f"error: this needs {name}, which is not installed; {way_out}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command goes on where this one stopped", err=True)
        # 128 + SIGINT, as shells report an interruption.
        raise typer.Exit(130) from None


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
