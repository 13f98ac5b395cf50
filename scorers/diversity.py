"""Expression diversity E (GRACE-KTO, equation 2): the percentage of distinct n-grams among a document's n-grams."""

from collections.abc import Sequence
from itertools import accumulate, chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

SPAN = 2**22
"""Ids below this are looked up in a table; larger ones are sorted."""


def diversity(token_ids: Sequence[Sequence[int]], n: int = 4) -> list[float]:
    """Return 100 · distinct n-grams / n-grams of each document, in (0, 100]; high means little repetition.

    Args:
        token_ids: one document per row, under the policy's tokenizer, without special tokens. A document of fewer than
            `n` tokens has no n-gram, so nothing in it is repeated: it scores 100.
        n: tokens of an n-gram, at least 1.

    Raises:
        ValueError: `n` is below 1.

    >>> diversity([[1, 2, 1, 2, 1], [1, 2]], n=2)
    [50.0, 100.0]
    """
    import numpy as np

    if n < 1:
        raise ValueError(f"n is {n}; an n-gram has at least 1 token")
    lengths = [len(ids) for ids in token_ids]
    flat = np.fromiter(chain.from_iterable(token_ids), np.int64, sum(lengths))
    codes = _ngram_codes(flat, n)
    # N-grams that reach into the next document are coded too, and left out here.
    starts = accumulate(lengths[:-1], initial=0)
    return [_distinct_share(codes[at : at + max(size - n + 1, 0)]) for at, size in zip(starts, lengths, strict=False)]


def _ngram_codes(ids: "npt.NDArray[np.int64]", n: int) -> "npt.NDArray[np.uint64]":
    """Number the n-grams of a sequence: (N − n + 1,), equal where the n-grams are, and nowhere else."""
    import numpy as np

    total = len(ids) - n + 1
    if total <= 0:
        return np.empty(0, np.uint64)
    small = _dense(ids)
    bits = int(small.max()).bit_length()
    codes, width = small[:total].copy(), bits
    for start in range(1, n):
        if width + bits > 64:  # no room to shift: number what is there anew
            codes = np.unique(codes, return_inverse=True)[1].astype(np.uint64)
            width = int(codes.max()).bit_length()
        codes <<= np.uint64(bits)
        codes |= small[start : start + total]
        width += bits
    return codes


def _dense(ids: "npt.NDArray[np.int64]") -> "npt.NDArray[np.uint64]":
    """Number the distinct ids from 0, in their order."""
    import numpy as np

    high = int(ids.max())
    if high >= SPAN or int(ids.min()) < 0:
        return np.unique(ids, return_inverse=True)[1].astype(np.uint64)
    there = np.zeros(high + 1, bool)
    there[ids] = True
    numbers = np.cumsum(there, dtype=np.uint64) - np.uint64(1)
    return numbers.take(ids)


def _distinct_share(codes: "npt.NDArray[np.uint64]") -> float:
    """The percentage of distinct codes, which are sorted in place; 100 where there is none."""
    import numpy as np

    if not len(codes):
        return 100.0
    codes.sort()
    return 100.0 * (1 + int(np.count_nonzero(codes[1:] != codes[:-1]))) / len(codes)
