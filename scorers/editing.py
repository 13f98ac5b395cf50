"""How good an edited text is by its task's metric: MaxMatch, SARI or BLEU (RationAlign, §4.1), from 0 to 100.

maxmatch   F0.5 of the edits, which are those of the annotators, or else what leads from the source to the references
sari       SARI of words in small letters
bleu       sacrebleu's BLEU (13a, case counts); of a single sentence with its effective order
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

from scorers.edits import word_edits, words_of
from scorers.maxmatch import Annotated, Counts, GoldEdit, matches, maxmatch
from scorers.sari import corpus_sari, sari

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
    if metric == "maxmatch":
        return 100.0 * corpus_counts(texts, outputs).f
    if metric == "sari":
        references = [[_small(reference) for reference in text.references] for text in texts]
        return corpus_sari([_small(text.source) for text in texts], [_small(o) for o in outputs], references).sari
    from sacrebleu import corpus_bleu

    # By place, not by text; sacrebleu takes None where a text has fewer.
    most = max(len(text.references) for text in texts)
    streams: Any = [[text.references[k] if k < len(text.references) else None for text in texts] for k in range(most)]
    return min(100.0, float(corpus_bleu(list(outputs), streams).score))


def corpus_counts(texts: Sequence[Edited], outputs: Sequence[str]) -> Counts:
    """Return MaxMatch's counts over all texts: edits that are right, proposed and wanted."""
    annotated = [_annotated(text) for text in texts]
    return maxmatch(annotated, [_words(text, output) for text, output in zip(texts, outputs, strict=True)])


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
