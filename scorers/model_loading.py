"""Loading helpers of the model-based scorers: find the model, silence the libraries, report a failure in one line."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scorers.errors import UserError

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def local_folder(scorer: str, name: str) -> Path | None:
    """Decide whether a name is a folder or a model id of the Hub.

    Args:
        scorer: what the message calls the scorer, such as `relevance`.
        name: path of a folder, or a Hub id.

    Returns:
        The folder, or None where the name is a Hub id.

    Raises:
        UserError: the name can be neither.
    """
    if Path(name).is_dir():
        return Path(name)
    # Without this check a mistyped path would be looked up on the Hub and end in a network error.
    if not HUB_ID.fullmatch(name):
        raise UserError(
            f"{scorer} model {name!r} is no folder here and no Hub id (owner/name); give one of the two, check the path"
        )
    return None


@contextmanager
def quiet_loading(*, warnings: bool) -> Iterator[None]:
    """Silence FlagEmbedding's notices and transformers' progress bars while a model loads, then restore the settings.

    Args:
        warnings: whether transformers may still report missing weights.
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
    """The UserError for a model that is missing or cannot be read.

    Args:
        scorer: what the message calls the scorer.
        name: the model, as the user named it.
        revision: branch, tag or commit; None where none was given.
        error: the library's exception; the first line of its message becomes the reason.
    """
    lines = str(error).strip().splitlines()
    reason = lines[0] if lines else type(error).__name__
    at = "" if revision is None else f" at revision {revision!r}"
    return UserError(
        f"{scorer} model {name!r}{at} cannot be loaded ({reason}); give a folder with a complete model, or a Hub id "
        "and the network or a cached copy for the latter"
    )
