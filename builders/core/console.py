"""Progress on stderr: one bar per stage or training, quiet when stderr is no terminal."""

import sys
import time
from types import TracebackType
from typing import Any

from tqdm import tqdm


def progress_bar(label: str, unit: str, total: int, *, done: int = 0) -> "tqdm[Any]":
    """A bar on stderr that starts at `done` of `total`."""
    return tqdm(total=total, initial=done, desc=label, unit=unit, disable=not sys.stderr.isatty(), file=sys.stderr)


class Progress:
    """Counts shards, rows and tokens of one stage."""

    def __init__(self, label: str, shards: int) -> None:
        self.rows = 0
        self.tokens = 0
        self.began = time.monotonic()
        self.bar = progress_bar(label, "shard", shards)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()

    def advance(self, rows: int, tokens: int) -> None:
        """One more shard is in place."""
        self.rows += rows
        self.tokens += tokens
        rate = self.tokens / max(time.monotonic() - self.began, 1e-9)
        self.bar.set_postfix_str(f"{self.rows} rows" + (f", {rate:.0f} tokens/s" if self.tokens else ""), refresh=False)
        self.bar.update()
