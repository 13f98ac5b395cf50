"""Near-duplicates: n-grams in any script, estimates against exact Jaccard similarity, order, and large buckets."""

import random
import subprocess
import sys

import numpy as np
import pytest

from builders.core.near_duplicates import PERMUTATIONS, near_duplicates, ngrams, signatures_of

ENGLISH = (
    "Please write a detailed report on the state of the northern quay, its cranes and the plans for the next decade."
)
CHINESE = "请为港务局撰写一份关于北码头及其起重机现状的详细报告,并提出三年内的维修计划和预算。"


def flags(texts: list[str], threshold: float = 0.8, fixed: int = 0) -> list[bool]:
    return list(near_duplicates(signatures_of(texts), threshold, fixed=fixed))


def jaccard(one: str, other: str) -> float:
    a, b = set(ngrams(one)), set(ngrams(other))
    return len(a & b) / len(a | b)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write a  REPORT, please!", ["write a report", "a report please"]),
        ("Write a report", ["write a report"]),
        ("Write", ["write"]),
        ("写一份 report", ["写 一 份", "一 份 report"]),
        ("レポート", ["レ ポ ー", "ポ ー ト"]),
        ("Ｗｒｉｔｅ　１２", ["write 12"]),
        ("?!", ["?!"]),
        ("", [""]),
    ],
)
def test_ngrams(text: str, expected: list[str]) -> None:
    assert ngrams(text) == expected


@pytest.mark.parametrize("text", [ENGLISH, CHINESE])
def test_changes_of_form_and_of_one_word_are_found_and_other_texts_are_kept(text: str) -> None:
    one_word = text.replace("northern", "southern").replace("北", "南")
    other = "Write a speech for the opening of a library." if text is ENGLISH else "写一篇图书馆开馆仪式上的演讲稿。"
    texts = [text, text.upper(), text.replace(",", "，"), other, one_word, text[:-1] + "!"]
    assert flags(texts, 0.6) == [False, True, True, False, True, True]
    assert jaccard(text, one_word) > 0.7


def test_no_text_is_compared_with_one_that_is_dropped_unless_it_is_fixed() -> None:
    """A chain: each text is like its neighbours and unlike the others."""
    words = [f"w{n}" for n in range(140)]
    chain = [" ".join(words[start : start + 100]) for start in (0, 20, 40)]
    assert jaccard(chain[0], chain[1]) > 0.6 > 0.5 > jaccard(chain[0], chain[2])
    assert flags(chain, 0.6) == [False, True, False]
    assert flags(chain, 0.6, fixed=2) == [False, False, True]
    assert flags(chain, 0.6, fixed=3) == [False, False, False]


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9])
def test_pairs_well_above_the_threshold_are_found_and_those_well_below_are_not(threshold: float) -> None:
    pairs = []
    for number in range(300):
        words = [f"w{number}x{place}" for place in range(100)]
        # From 41 to 100 of the words are the same: similarities from 0.2 to 1.
        common = 41 + number // 5
        pairs.append((" ".join(words), " ".join(words[:common] + [f"{word}y" for word in words[common:]])))
    exact = np.array([jaccard(*pair) for pair in pairs])
    found = np.array(flags([text for pair in pairs for text in pair], threshold)[1::2])
    # Two standard errors of the estimate.
    margin = 2 * np.sqrt(threshold * (1 - threshold) / PERMUTATIONS)
    above, below = exact > threshold + margin, exact < threshold - margin
    assert above.sum() > 10 and below.sum() > 10
    assert found[above].mean() > 0.95 and found[below].mean() < 0.05


def test_what_comes_later_and_how_texts_are_cut_change_no_flag() -> None:
    draw = random.Random(1)
    themes = [" ".join(f"{theme}.{n}" for n in range(40)) for theme in range(20)]
    texts = [f"{draw.choice(themes)} {draw.choice('ab')}" for _ in range(200)]
    whole = flags(texts)
    assert sum(whole) >= 160 and flags(texts[:70]) == whole[:70]
    parts = [signatures_of(texts[start : start + 33]) for start in range(0, 200, 33)]
    assert list(near_duplicates(np.concatenate(parts), 0.8)) == whole


def test_signatures_are_those_of_any_process() -> None:
    code = f"from builders.core.near_duplicates import signatures_of as s; print(s([{CHINESE!r}])[0].tolist())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(signatures_of([CHINESE])[0].tolist())


def test_nothing_at_all() -> None:
    assert signatures_of([]).shape == (0, PERMUTATIONS) and flags([]) == []
