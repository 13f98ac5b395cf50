"""SARI: how well a rewritten sentence keeps, deletes and adds words (Xu et al., 2016), from 0 to 100.

For n-grams of 1 to 4 words: F1 of those that were kept and of those that were added, and precision of those that were
deleted, each as a mean over n; SARI is the mean of the three. The source counts once for each reference, so that an
n-gram which half of the references keep is kept rightly by half. As in the authors' own program a share of nothing is
0: a sentence with nothing to add gets no credit for adding nothing. Other programs take 1 there; their scores are
higher, and do not compare.
"""

from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

LONGEST = 4


class Sari(NamedTuple):
    """SARI and its three parts, 0 to 100 each.

    Attributes:
        sari: the mean of the parts.
        keep: F1 of n-grams that stay.
        delete: precision of n-grams that go.
        add: F1 of n-grams that are new.
    """

    sari: float
    keep: float
    delete: float
    add: float


def sari(source: Sequence[str], output: Sequence[str], references: Sequence[Sequence[str]]) -> Sari:
    """Return SARI of one sentence; all texts are words, which are compared as they are.

    Args:
        source: the sentence before.
        output: the sentence to be judged.
        references: the sentence as people have rewritten it, at least one.

    Raises:
        ValueError: without a reference.

    >>> round(sari("a b c".split(), "a b".split(), ["a b".split()]).sari, 4)
    41.6667
    """
    if not references:
        raise ValueError("SARI needs a reference")
    parts = [_of_length(n, source, output, references) for n in range(1, LONGEST + 1)]
    keep, delete, add = (100 * fmean(part) for part in zip(*parts, strict=True))
    return Sari((keep + delete + add) / 3, keep, delete, add)


def corpus_sari(
    sources: Sequence[Sequence[str]], outputs: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> Sari:
    """Return the mean of SARI and of its parts over sentences.

    Raises:
        ValueError: for lists of different lengths, and for a sentence without a reference.
    """
    found = [sari(*sentence) for sentence in zip(sources, outputs, references, strict=True)]
    return Sari(*(fmean(part) for part in zip(*found, strict=True))) if found else Sari(0.0, 0.0, 0.0, 0.0)


def _of_length(
    n: int, source: Sequence[str], output: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[float, float, float]:
    """Return keep, delete and add of the n-grams of one length."""
    times = len(references)
    before = Counter({gram: times * count for gram, count in _ngrams(source, n).items()})
    after = Counter({gram: times * count for gram, count in _ngrams(output, n).items()})
    wanted: Counter[tuple[str, ...]] = Counter()
    for reference in references:
        wanted.update(_ngrams(reference, n))
    kept, to_keep = before & after, before & wanted
    rightly = kept & wanted
    keep = _f1(_shares(rightly, kept), _shares(rightly, to_keep))
    gone = before - after
    delete = _shares(gone - wanted, gone)
    new, to_add = after.keys() - before.keys(), wanted.keys() - before.keys()
    good = len(new & to_add)
    return keep, delete, _f1(good / len(new) if new else 0.0, good / len(to_add) if to_add else 0.0)


def _ngrams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[k:] for k in range(n)), strict=False))


def _shares(part: Counter[tuple[str, ...]], whole: Counter[tuple[str, ...]]) -> float:
    """Return the mean over the whole's n-grams of the share of each that is in the part; 0 of nothing."""
    return sum(count / whole[gram] for gram, count in part.items()) / len(whole) if whole else 0.0


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
