"""Batches of texts of like length, so that little of a padded batch is padding."""

from collections.abc import Iterator, Sequence


def by_length(lengths: Sequence[int], tokens_per_batch: int, rows: int | None = None) -> Iterator[list[int]]:
    """Yield batches of indices into `lengths`, longest first, each index once; equal lengths keep their order.

    A batch holds at most `tokens_per_batch` padded tokens (its longest length times its rows) and at most `rows` rows;
    a text longer than that makes a batch of its own.

    >>> list(by_length([1, 5, 2, 9], tokens_per_batch=6))
    [[3], [1], [2, 0]]
    """
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and (len(batch) == rows or lengths[batch[0]] * (len(batch) + 1) > tokens_per_batch):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
