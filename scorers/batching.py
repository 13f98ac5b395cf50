"""Batches of texts of similar length, so that a padded batch holds little padding."""

from collections.abc import Iterator, Sequence


def by_length(lengths: Sequence[int], tokens_per_batch: int, rows: int | None = None) -> Iterator[list[int]]:
    """Yield batches of indices into `lengths`, longest first; every index occurs once, equal lengths keep their order.

    Args:
        lengths: tokens of each text.
        tokens_per_batch: padded tokens of a batch at most, its longest length times its rows; a longer text makes a
            batch of its own.
        rows: rows of a batch at most; None: no limit.

    >>> list(by_length([1, 5, 2, 9], tokens_per_batch=6))
    [[3], [1], [2, 0]]
    """
    # Longest first: the first batch needs the most memory, so a limit that is too large fails at once.
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        # The batch's first text is its longest, to which every other one is padded.
        if batch and (len(batch) == rows or lengths[batch[0]] * (len(batch) + 1) > tokens_per_batch):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
