"""The length score of LongBench-Write (Bai et al., 2024): how near an answer comes to the length asked for.

An answer of the length asked for has 100; one of four times or of a third of it has 0, and between these the score
falls with the ratio of the two lengths.
"""


def length_score(words: int, wanted: int) -> float:
    """Score the length of an answer.

    Args:
        words: words of the answer, ≥ 0; of Chinese, characters.
        wanted: words asked for, ≥ 1.

    Returns:
        0 to 100.

    Raises:
        ValueError: for numbers out of range.

    >>> [length_score(words, 1_000) for words in (1_000, 2_500, 4_000, 500, 333, 0)]
    [100.0, 50.0, 0.0, 50.0, 0.0, 0.0]
    """
    if words < 0 or wanted < 1:
        raise ValueError(f"{words} words of {wanted}: 0 or more, of 1 or more")
    if words == 0:
        return 0.0
    over = (words / wanted - 1) / 3 if words > wanted else (wanted / words - 1) / 2
    return 100.0 * max(0.0, 1.0 - over)
