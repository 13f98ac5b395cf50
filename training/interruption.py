"""What an interruption says and ends with, wherever in a command it is met."""

import signal

LINE = "interrupted; the same command goes on where this one stopped"
INTERRUPTED = 128 + signal.SIGINT
"""Exit status of an interruption, as shells report it."""
