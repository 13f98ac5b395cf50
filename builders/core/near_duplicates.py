"""Near-duplicate texts by MinHash (Broder, 1997): estimated Jaccard similarity of the sets of the texts' word 3-grams.

A text's signature holds, for each of `PERMUTATIONS` random orders, the hash of its first n-gram in that order. Two
signatures agree in a share of their places that estimates the similarity (standard error 0.035 at 0.8). Texts are
compared only where they agree in a whole band of their signatures (locality-sensitive hashing): for a threshold of 0.8
these are 95 in 100 of the pairs at 0.8 and more than 99 of those at 0.85. Signatures depend on the texts alone, in any
process and on any machine.

A million texts of 60 words take a minute of one core and 1.1 GB, most of it signatures. Where all texts have more than
half of their n-grams in common, as with a long form of words, the comparisons grow with the square of the number of
texts: 20,000 take from some seconds to more than a minute, the longer the higher the threshold.
"""

import re
import unicodedata
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import polars as pl

Signatures = npt.NDArray[np.uint32]
"""Shape (texts, PERMUTATIONS)."""

NGRAM = 3
PERMUTATIONS = 128  # a signature takes 512 bytes
SEED = 1
RECALL = 0.9  # least share of the pairs at exactly the threshold that have a band in common
# Han, kana, Thai, Lao, Myanmar and Khmer are written without spaces: each character counts as a word.
_ALONE = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff"
)
_WORD = re.compile(f"[{_ALONE}]|[^\\W{_ALONE}]+")


def ngrams(text: str) -> list[str]:
    """Return a text's overlapping word 3-grams; letter case, punctuation and full or half width make no difference.

    In scripts without spaces each character is a word. A shorter text is one n-gram.

    >>> ngrams("Write a report, please"), ngrams("写一份报告")
    (['write a report', 'a report please'], ['写 一 份', '一 份 报', '份 报 告'])
    """
    words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    # A text of punctuation alone has no words; it stands for itself, or all such texts would be equal.
    return [" ".join(words[i : i + NGRAM]) for i in range(max(1, len(words) - NGRAM + 1))] if words else [text]


def signatures_of(texts: Iterable[str]) -> Signatures:
    """Return the MinHash signatures of texts."""
    from rensa import RMinHash

    matrix = RMinHash.digest_matrix_from_token_sets([ngrams(text) for text in texts], PERMUTATIONS, SEED)
    return np.array(matrix.to_rows(), dtype=np.uint32).reshape(-1, PERMUTATIONS)


def near_duplicates(signatures: Signatures, threshold: float, *, fixed: int = 0) -> npt.NDArray[np.bool_]:
    """Find the texts that are near-duplicates of an earlier one that is kept.

    Args:
        signatures: the texts' signatures in order.
        threshold: estimated Jaccard similarity from which a text counts as a near-duplicate, above 0 to 1.
        fixed: so many texts at the beginning are kept whatever they resemble.

    Returns:
        A flag for each text. What comes later changes no text's flag.
    """
    keys = _band_keys(signatures, _band_width(threshold))  # (bands, texts)
    shared = np.zeros(len(signatures), dtype=np.bool_)
    for band in keys:
        shared |= pl.Series(band).is_duplicated().to_numpy()
    found = np.zeros(len(signatures), dtype=np.bool_)
    # A text that shares no band with any other resembles none; the others are compared one by one.
    kept: dict[tuple[int, int], list[int]] = {}
    for row in np.flatnonzero(shared).tolist():
        places = list(enumerate(keys[:, row].tolist()))
        if row >= fixed:
            others = sorted({other for place in places for other in kept.get(place, ())})
            found[row] = bool(others) and _most_alike(signatures, row, others) >= threshold
        if not found[row]:
            for place in places:
                kept.setdefault(place, []).append(row)
    return found


def _most_alike(signatures: Signatures, row: int, others: list[int]) -> float:
    """Return the largest estimated similarity between one text and others."""
    return float((signatures[others] == signatures[row]).mean(axis=1).max())


def _band_width(threshold: float) -> int:
    """Return the number of places in a band: the more, the fewer texts are compared in vain.

    It is the largest power of two that misses few pairs: all places of a band agree with probability threshold^width.
    """
    widths = (32, 16, 8, 4, 2)
    return next((w for w in widths if 1 - (1 - threshold**w) ** (PERMUTATIONS // w) >= RECALL), 1)


def _band_keys(signatures: Signatures, width: int) -> npt.NDArray[np.uint64]:
    """Return one number for each band of each text, shape (bands, texts); equal bands have equal numbers."""
    bands = PERMUTATIONS // width
    keys = np.zeros((bands, len(signatures)), dtype=np.uint64)
    for place in range(width):
        # A multiplicative hash modulo 2^64; a chance collision only costs a comparison.
        keys = (keys ^ signatures[:, place::width].T) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(29)
    return keys
