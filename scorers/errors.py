"""The one exception that stands for a user's mistake, and the words of messages: what was meant, foreign text."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake the user can mend.

    The message is one line that names the thing, what was found, what is allowed and the way out. The command line
    prints it without a traceback and exits with status 2.
    """


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """The close match among the allowed words, as the end of a clause; empty where none is close.

    >>> did_you_mean("polcy", ["policy", "judge"])
    ', did you mean policy?'
    >>> did_you_mean("x", ["policy"])
    ''
    """
    close = difflib.get_close_matches(word, list(allowed), n=1)
    return f", did you mean {close[0]}?" if close else ""


def plain(text: str) -> str:
    r"""Foreign text with control characters as visible escapes, so that it cannot steer a terminal.

    >>> print(plain("a\x1b[31mb"))
    a\x1b[31mb
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
