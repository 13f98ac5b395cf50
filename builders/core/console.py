"""Progress bars on stderr, one per stage or training; silent where stderr is not a terminal."""

import logging
import os
import sys
import threading
import time
import warnings
from types import TracebackType
from typing import Any

from tqdm import tqdm

# tqdm's own lock is shared with forked processes: one that is killed while it holds the lock would stop all others.
tqdm.set_lock(threading.RLock())


def quiet_libraries() -> None:
    """Silence the libraries' progress bars and warnings in this process.

    The libraries draw a bar and print hints for every model, which would bury the project's one bar per stage. TRL's
    hint on class weights does not apply, because the class weights are computed from the data.
    """
    # Read when huggingface_hub (for transformers too) and datasets are imported, which happens after this; a user's own
    # value stays.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    for library in ("bitsandbytes", "trl"):
        logging.getLogger(library).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="peft")


def progress_bar(label: str, unit: str, total: int, *, done: int = 0) -> "tqdm[Any]":
    """Make a progress bar on stderr.

    Args:
        label: text before the bar.
        unit: what is counted, in the singular.
        total: number of units in all.
        done: units that an earlier, interrupted run finished.
    """
    return tqdm(total=total, initial=done, desc=label, unit=unit, disable=not sys.stderr.isatty(), file=sys.stderr)


class Progress:
    """Progress of a dataset stage: a bar of shards with running totals of rows and tokens."""

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
        """Count one more finished shard.

        Args:
            rows: rows of the shard.
            tokens: tokens generated for the shard now; 0 where the stage generates none or an earlier run did.
        """
        self.rows += rows
        self.tokens += tokens
        rate = self.tokens / max(time.monotonic() - self.began, 1e-9)
        # refresh=False: `update` redraws the bar anyway.
        self.bar.set_postfix_str(f"{self.rows} rows" + (f", {rate:.0f} tokens/s" if self.tokens else ""), refresh=False)
        self.bar.update()
