"""The one exception that stands for a user's mistake."""


class UserError(Exception):
    """A mistake the user can mend.

    The message is one line that names the thing, what was found, what is allowed and the way out. The command line
    prints it without a traceback and exits with status 2.
    """
