"""Batches of texts of similar length, so that a padded batch holds little padding."""

from collections.abc import Iterator, Sequence

PADDING = 0.1
"""Largest share of a batch that is padding: more costs time, less makes batches too small to be fast."""
FEW_TOKENS = 512
"""A batch of fewer padded tokens costs the same whatever is in it, so that padding does not close it."""


def by_length(lengths: Sequence[int], tokens_per_batch: int, rows: int | None = None) -> Iterator[list[int]]:
    """Yield batches of indices into `lengths`, longest first; every index occurs once, equal lengths keep their order.

    A batch is closed where another text would make more than `PADDING` of it padding, once it has `FEW_TOKENS`.

    Args:
        lengths: tokens of each text.
        tokens_per_batch: padded tokens of a batch at most, its longest length times its rows; a longer text makes a
            batch of its own.
        rows: rows of a batch at most; None: no limit.

    >>> list(by_length([1, 5, 2, 9], tokens_per_batch=6))
    [[3], [1], [2, 0]]
    >>> list(by_length([1000, 900, 500], tokens_per_batch=10_000))
    [[0, 1], [2]]
    """
    # Longest first: the first batch needs the most memory, so a limit that is too large fails at once.
    batch: list[int] = []
    tokens = 0  # in the batch, without padding
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        # The batch's first text is its longest, to which every other one is padded.
        padded = lengths[batch[0]] * (len(batch) + 1) if batch else 0
        loose = padded > FEW_TOKENS and padded - tokens - lengths[i] > PADDING * padded
        if batch and (len(batch) == rows or padded > tokens_per_batch or loose):
            yield batch
            batch, tokens = [], 0
        batch.append(i)
        tokens += lengths[i]
    if batch:
        yield batch
