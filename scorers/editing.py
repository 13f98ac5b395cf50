"""How good an edited text is by its task's metric: MaxMatch, SARI or BLEU (RationAlign, §4.1), from 0 to 100.

maxmatch   F0.5 of the edits, which are those of the annotators, or else what leads from the source to the references
sari       SARI of words in small letters
bleu       sacrebleu's BLEU (13a, case counts); of a single sentence with its effective order
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

from scorers.edits import word_edits, words_of
from scorers.maxmatch import Annotated, Counts, GoldEdit, by_sentence, matches
from scorers.sari import sari

Metric = Literal["maxmatch", "sari", "bleu"]
METRICS: tuple[str, ...] = get_args(Metric)


class Edited(NamedTuple):
    """A text with what people made of it.

    Attributes:
        source: the text.
        references: as people have edited it, at least one.
        gold: each annotator's edits over the source's words as blanks part them; None: they follow from the references.
    """

    source: str
    references: Sequence[str]
    gold: Mapping[int, Sequence[GoldEdit]] | None = None


def sentence_score(metric: Metric, text: Edited, output: str) -> float:
    """Return the metric of one output, 0 to 100.

    Raises:
        ValueError: a text without a reference.
    """
    if not text.references:
        raise ValueError("a text without a reference has no score")
    if metric == "maxmatch":
        return 100.0 * max(counts.f for counts in _counts(text, output))
    if metric == "sari":
        return sari(_small(text.source), _small(output), [_small(reference) for reference in text.references]).sari
    from sacrebleu import sentence_bleu

    return min(100.0, float(sentence_bleu(output, list(text.references), use_effective_order=True).score))


def corpus_score(metric: Metric, texts: Sequence[Edited], outputs: Sequence[str]) -> float:
    """Return the metric of many outputs, 0 to 100: F0.5 and BLEU of all counts together, the mean of SARI.

    Raises:
        ValueError: as many outputs as texts are needed, at least one.
    """
    if not texts or len(texts) != len(outputs):
        raise ValueError(f"{len(texts)} texts and {len(outputs)} outputs; one output per text is needed")
    rows = statistics(metric, texts, outputs)
    return score_of(metric, [sum(column) for column in zip(*rows, strict=True)])


def statistics(metric: Metric, texts: Sequence[Edited], outputs: Sequence[str]) -> list[tuple[float, ...]]:
    """Return of each output the numbers whose sums over outputs give the metric of all, see `score_of`.

    Raises:
        ValueError: a text without a reference.
    """
    if not all(text.references for text in texts):
        raise ValueError("a text without a reference has no score")
    if metric == "maxmatch":
        return [tuple(map(float, counts)) for counts in counts_of(texts, outputs)]
    if metric == "sari":
        return [(sentence_score("sari", text, out), 1.0) for text, out in zip(texts, outputs, strict=True)]
    from sacrebleu import sentence_bleu

    found = []
    for text, output in zip(texts, outputs, strict=True):
        one = sentence_bleu(output, list(text.references), use_effective_order=True)
        found.append((*map(float, one.counts), *map(float, one.totals), float(one.sys_len), float(one.ref_len)))
    return found


def score_of(metric: Metric, sums: Sequence[float]) -> float:
    """Return the metric, 0 to 100, from the sums of what `statistics` returns."""
    if metric == "maxmatch":
        correct, proposed, gold = (round(value) for value in sums)
        return 100.0 * Counts(correct, proposed, gold).f
    if metric == "sari":
        return sums[0] / sums[1]
    from sacrebleu.metrics.bleu import BLEU

    half = (len(sums) - 2) // 2
    right, total = [round(value) for value in sums[:half]], [round(value) for value in sums[half : 2 * half]]
    # Smoothed as sacrebleu's `corpus_bleu` does.
    found = BLEU.compute_bleu(right, total, round(sums[-2]), round(sums[-1]), smooth_method="exp")
    return min(100.0, float(found.score))


def counts_of(texts: Sequence[Edited], outputs: Sequence[str]) -> list[Counts]:
    """Return MaxMatch's counts of each output: edits that are right, proposed and wanted."""
    annotated = [_annotated(text) for text in texts]
    return list(by_sentence(annotated, [_words(text, output) for text, output in zip(texts, outputs, strict=True)]))


def _counts(text: Edited, output: str) -> Iterator[Counts]:
    annotated = _annotated(text)
    return matches(annotated.source, _words(text, output), annotated.gold.values())


def _annotated(text: Edited) -> Annotated:
    """Return a text with its gold edits."""
    if text.gold is not None:
        return Annotated(tuple(text.source.split()), text.gold)
    source = tuple(words_of(text.source))
    gold = {
        number: [GoldEdit(edit.start, edit.end, (edit.target,)) for edit in word_edits(source, words_of(reference))]
        for number, reference in enumerate(text.references)
    }
    return Annotated(source, gold)


def _words(text: Edited, output: str) -> list[str]:
    """Return an output's words, cut as the source's are."""
    return words_of(output) if text.gold is None else output.split()


def _small(text: str) -> list[str]:
    return words_of(text.lower())
