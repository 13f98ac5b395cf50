"""What the commands `grace`, `build` and `train` start: from first to last, an interruption is one line."""

from types import ModuleType

from training.interruption import end_by_signals


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
    """Import the command line, which takes up to half a second."""
    end_by_signals()
    from training import cli

    return cli
