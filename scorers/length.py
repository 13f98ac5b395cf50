"""Content length L (GRACE-KTO, equation 1): the number of tokens of the document."""

from collections.abc import Sequence


def lengths(token_ids: Sequence[Sequence[int]]) -> list[int]:
    """Return the number of tokens of each document.

    Args:
        token_ids: one document per row, under the policy's tokenizer, without special tokens.

    >>> lengths([[5, 6, 7], []])
    [3, 0]
    """
    return [len(ids) for ids in token_ids]
