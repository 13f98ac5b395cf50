"""SARI by hand, against an independent computation, and what holds of any sentence."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorers.sari import Sari, corpus_sari, sari

WORDS = st.lists(st.sampled_from("abcdef"), max_size=9)


def test_by_hand() -> None:
    found = sari(["a", "b", "c"], ["a", "b", "d"], [["a", "b", "e"], ["a", "c", "d"]])
    # Words: kept a, b; a by both references, b by one: precision (1 + 1/2) / 2. To keep: a (2 of 2), b (1 of 1), c (1
    # of 1); of these a and b are kept whole: recall 2/3. F1 = 2 · 0.75 · 2/3 / (17/12) = 12/17.
    # Pairs: kept "a b", wanted by one of two: precision 1/2, recall 1; F1 = 2/3. Longer: nothing is kept.
    assert found.keep == pytest.approx(100 * (12 / 17 + 2 / 3) / 4)
    # Words: c goes, and one of two references has it: 1/2. Pairs: "b c" goes, nobody has it: 1. Triples: 1. Fours: 0.
    assert found.delete == pytest.approx(100 * (1 / 2 + 1 + 1) / 4)
    # Words: d is new, of e and d wanted: F1 of 1 and 1/2 = 2/3. Pairs: "b d" is new; "b e", "a c", "c d" wanted: 0.
    assert found.add == pytest.approx(100 * (2 / 3) / 4)
    assert found.sari == pytest.approx((found.keep + found.delete + found.add) / 3)


def test_a_share_of_nothing_is_0() -> None:
    # Nothing to delete and nothing to add: the whole is kept, and the other two parts are 0.
    assert sari(["a", "b", "c", "d"], ["a", "b", "c", "d"], [["a", "b", "c", "d"]]) == Sari(100 / 3, 100.0, 0.0, 0.0)
    assert sari([], [], [[]]) == Sari(0.0, 0.0, 0.0, 0.0)


def grams(words: list[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[k : k + n]) for k in range(len(words) - n + 1)]


def independent(source: list[str], output: list[str], references: list[list[str]]) -> float:
    """SARI by loops over lists of n-grams, from the definition."""
    total = 0.0
    for n in range(1, 5):
        before, after = grams(source, n), grams(output, n)
        wanted = [gram for reference in references for gram in grams(reference, n)]
        times = len(references)
        kept_p = kept_r = gone = 0.0
        kept = [g for g in dict.fromkeys(before) if g in after]
        to_keep = [g for g in dict.fromkeys(before) if g in wanted]
        for gram in kept:
            both = min(before.count(gram), after.count(gram)) * times
            right = min(both, wanted.count(gram))
            kept_p += right / both
            if right:
                kept_r += right / min(before.count(gram) * times, wanted.count(gram))
        precision = kept_p / len(kept) if kept else 0.0
        recall = kept_r / len(to_keep) if to_keep else 0.0
        total += 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        less = {g: (before.count(g) - after.count(g)) * times for g in set(before) if before.count(g) > after.count(g)}
        for gram, count in less.items():
            gone += max(0, count - wanted.count(gram)) / count
        total += gone / len(less) if less else 0.0
        new, to_add = set(after) - set(before), set(wanted) - set(before)
        precision = len(new & to_add) / len(new) if new else 0.0
        recall = len(new & to_add) / len(to_add) if to_add else 0.0
        total += 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return 100 * total / 12


def test_equals_an_independent_computation() -> None:
    rng = Random(0)
    for _ in range(1000):
        texts = [rng.choices("abcde", k=rng.randrange(8)) for _ in range(2 + rng.randrange(1, 4))]
        source, output, *references = texts
        assert sari(source, output, references).sari == pytest.approx(independent(source, output, references), abs=1e-9)


@given(WORDS, WORDS, st.lists(WORDS, min_size=1, max_size=3))
def test_what_holds_of_any_sentence(source: list[str], output: list[str], references: list[list[str]]) -> None:
    found = sari(source, output, references)
    assert all(0 <= part <= 100 + 1e-9 for part in found)
    # Neither the order of the references nor what the words are called matters.
    assert sari(source, output, references[::-1]) == pytest.approx(found)
    renamed = [[f"{word}!" for word in text] for text in (source, output, *references)]
    assert sari(renamed[0], renamed[1], renamed[2:]) == pytest.approx(found)
    # No output is better than the only reference itself.
    assert found.sari <= sari(source, references[0], references[:1]).sari + 100 * (len(references) > 1) + 1e-9


def test_a_corpus_is_the_mean_of_its_sentences() -> None:
    sentences = [(["a", "b"], ["a"], [["a"]]), (["c"], ["c", "d"], [["d"], ["c", "d"]])]
    found = corpus_sari(*(list(part) for part in zip(*sentences, strict=True)))
    each = [sari(*sentence) for sentence in sentences]
    assert found == pytest.approx([sum(parts) / 2 for parts in zip(*each, strict=True)])
    assert corpus_sari([], [], []) == Sari(0.0, 0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="needs a reference"):
        sari(["a"], ["a"], [])
