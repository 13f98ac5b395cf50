"""What the model-based scorers share when they load: where a model is, a quiet console, one-line errors."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scorers.errors import UserError

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def local_folder(scorer: str, name: str) -> Path | None:
    """The folder `name`, or None where it is the id of a model on the Hub; UserError where it can be neither."""
    if Path(name).is_dir():
        return Path(name)
    if not HUB_ID.fullmatch(name):
        raise UserError(
            f"{scorer} model {name!r} is no folder here and no Hub id (owner/name); give one of the two, check the path"
        )
    return None


@contextmanager
def quiet_loading(*, warnings: bool) -> Iterator[None]:
    """Silence FlagEmbedding's notices and transformers' bars, and without `warnings` its reports of missing weights.

    What was set before is restored on leaving.
    """
    from transformers.utils import logging as transformers_logging

    had_bars = transformers_logging.is_progress_bar_enabled()
    verbosity = transformers_logging.get_verbosity()
    logger = logging.getLogger("FlagEmbedding")
    level = logger.level
    transformers_logging.disable_progress_bar()
    if not warnings:
        transformers_logging.set_verbosity_error()
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
        transformers_logging.set_verbosity(verbosity)
        if had_bars:
            transformers_logging.enable_progress_bar()


def load_error(scorer: str, name: str, revision: str | None, error: Exception) -> UserError:
    """The UserError for a model that is not there or cannot be read; `error` is the library's, of many lines."""
    lines = str(error).strip().splitlines()
    reason = lines[0] if lines else type(error).__name__
    at = "" if revision is None else f" at revision {revision!r}"
    return UserError(
        f"{scorer} model {name!r}{at} cannot be loaded ({reason}); give a folder with a complete model, or a Hub id "
        "and the network or a cached copy for the latter"
    )
