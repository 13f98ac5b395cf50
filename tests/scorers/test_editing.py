"""How good an edited text is: by hand, and against the metrics that it is made of."""

from collections.abc import Sequence
from itertools import zip_longest
from random import Random

import pytest
import sacrebleu

from scorers.editing import Edited, Metric, corpus_score, score_of, sentence_score, statistics
from scorers.edits import edits_between, words_of
from scorers.maxmatch import Annotated, GoldEdit, match, maxmatch
from scorers.sari import sari

GO = Edited("He go to school .", ["He goes to the school ."])
ALL: list[Metric] = ["maxmatch", "sari", "bleu"]


def text_of(rng: Random, longest: int = 9) -> str:
    return " ".join(rng.choices(["a", "b", "c", "d", "E", "e", "it's", "."], k=rng.randrange(1, longest)))


def corpus_of(rng: Random) -> tuple[list[Edited], list[str]]:
    """Texts of one to three references, and outputs, which are sometimes a reference or the text itself."""
    texts = [Edited(text_of(rng), [text_of(rng) for _ in range(rng.randint(1, 3))]) for _ in range(rng.randint(1, 6))]
    return texts, [rng.choice([text_of(rng), text.source, *text.references]) for text in texts]


def annotated(text: Edited) -> Annotated:
    gold = {
        number: [GoldEdit(edit.start, edit.end, (edit.target,)) for edit in edits_between(text.source, reference)]
        for number, reference in enumerate(text.references)
    }
    return Annotated(tuple(words_of(text.source)), gold)


def sacrebleus(texts: Sequence[Edited], outputs: Sequence[str]) -> float:
    streams = list(zip_longest(*(text.references for text in texts)))  # None where a text has fewer references
    return float(sacrebleu.corpus_bleu(list(outputs), streams).score)


@pytest.mark.parametrize(
    ("text", "output", "score"),
    [
        # Of go -> goes and the inserted "the": F0.5 = 1.25 · correct / (0.25 · 2 wanted + proposed).
        (GO, "He goes to the school .", 100.0),
        (GO, "He goes to school .", 100 * 1.25 / 1.5),
        (GO, "He goes to a school .", 100 * 1.25 / 2.5),
        (GO, "She goes to the school !", 100 * 2.5 / 4.5),
        (GO, "She go to school .", 0.0),
        (GO, GO.source, 0.0),
        # Letter case counts; blanks do not.
        (GO, "he goes to the school .", 100 * 2.5 / 3.5),
        (GO, " He  goes to the school.\n", 100.0),
        # Nothing to edit.
        (Edited("He goes .", ["He goes ."]), "He goes .", 100.0),
        (Edited("He goes .", ["He goes ."]), "He went .", 0.0),
        # Of several references the best one counts.
        (Edited("He go .", ["He goes .", "He went .", "He go ."]), "He went .", 100.0),
        (Edited("He go .", ["He goes .", "He went .", "He go ."]), "He go .", 100.0),
        (Edited("He go now", ["She went then", "He goes now"]), "He goes then", 100 * 1.25 / 2.25),
        # Annotated edits count instead of references, over words as blanks part them: "it's" is one, and so is "a,b".
        (Edited("a,b it's are", ["x"], {0: [GoldEdit(2, 3, (("is",), ("was",)))]}), "a,b it's was", 100.0),
        (Edited("a,b it's are", ["a,b it's is"], {0: []}), "a,b it's is", 0.0),
        (Edited("a,b it's are", ["x"], {0: [], 3: [GoldEdit(0, 1, ((),))]}), "it's are", 100.0),
        (Edited("a,b", ["x"], {0: [GoldEdit(0, 1, (("a,", "c"),))]}), "a, c", 100.0),
    ],
)
def test_maxmatch_by_hand(text: Edited, output: str, score: float) -> None:
    assert sentence_score("maxmatch", text, output) == pytest.approx(score)
    assert corpus_score("maxmatch", [text], [output]) == pytest.approx(score)


def test_counts_of_many_texts_are_added_before_f_is_taken() -> None:
    texts, outputs = [GO, Edited("a b", ["a c"]), GO], ["He goes to school .", "a d", GO.references[0]]
    # 1 of 1 of 2, 0 of 1 of 1, 2 of 2 of 2: 3 correct, 4 proposed, 5 wanted.
    assert corpus_score("maxmatch", texts, outputs) == pytest.approx(100 * 1.25 * 3 / (0.25 * 5 + 4))


def test_each_metric_is_the_one_that_it_is_called_by() -> None:
    rng = Random(0)
    for _ in range(200):
        texts, outputs = corpus_of(rng)
        gold, saris = [annotated(text) for text in texts], []
        for text, sentence, output in zip(texts, gold, outputs, strict=True):
            words = [words_of(each.lower()) for each in (text.source, output, *text.references)]
            saris.append(sari(words[0], words[1], words[2:]).sari)
            bleu = sacrebleu.sentence_bleu(output, text.references, use_effective_order=True).score
            best = max(match(sentence.source, words_of(output), edits).f for edits in sentence.gold.values())
            assert sentence_score("sari", text, output) == pytest.approx(saris[-1], abs=1e-9)
            assert sentence_score("bleu", text, output) == pytest.approx(bleu, abs=1e-9)
            assert sentence_score("maxmatch", text, output) == pytest.approx(100 * best, abs=1e-9)
        together = maxmatch(gold, [words_of(output) for output in outputs])
        assert corpus_score("maxmatch", texts, outputs) == pytest.approx(100 * together.f, abs=1e-9)
        assert corpus_score("sari", texts, outputs) == pytest.approx(sum(saris) / len(saris), abs=1e-9)


def test_bleu_of_a_corpus_is_sacrebleus() -> None:
    rng = Random(1)
    for _ in range(200):
        texts, outputs = corpus_of(rng)
        texts, outputs = [*texts, GO], [*outputs, "He goes to the school !"]  # so that four words in a row are right
        assert corpus_score("bleu", texts, outputs) == pytest.approx(sacrebleus(texts, outputs), abs=1e-9)


@pytest.mark.parametrize("output", ["The old cat x y", "The old x y", "The x y z", "The old", "w x y z", ""])
def test_bleu_of_a_corpus_without_four_words_in_a_row_is_sacrebleus(output: str) -> None:
    texts, outputs = [Edited("a", ["The old cat sat on a mat", "A cat"]), Edited("b", ["B b b"])], [output, "c"]
    assert corpus_score("bleu", texts, outputs) == pytest.approx(sacrebleus(texts, outputs), abs=1e-9)


@pytest.mark.parametrize("metric", ALL)
def test_the_sum_of_statistics_gives_the_metric(metric: Metric) -> None:
    rng = Random(2)
    for _ in range(200):
        texts, outputs = corpus_of(rng)
        rows = statistics(metric, texts, outputs)
        assert len(rows) == len(texts)
        sums = [sum(column) for column in zip(*reversed(rows), strict=True)]
        found = corpus_score(metric, texts, outputs)
        assert score_of(metric, sums) == pytest.approx(found, abs=1e-9) and 0 <= found <= 100
        if metric != "bleu":  # which is smoothed by the corpus's size; of the others a corpus twice over has the same
            assert score_of(metric, [2 * value for value in sums]) == pytest.approx(found, abs=1e-9)


@pytest.mark.parametrize("metric", ALL)
def test_what_has_no_score(metric: Metric) -> None:
    for texts, outputs in (([], []), ([GO], []), ([GO], ["a", "b"]), ([GO, GO], ["a"])):
        with pytest.raises(ValueError, match=f"{len(texts)} texts and {len(outputs)} outputs; one output per text"):
            corpus_score(metric, texts, outputs)
    with pytest.raises(ValueError, match="shorter than argument 1"):
        statistics(metric, [GO], [])
    with pytest.raises(ValueError, match="a text without a reference has no score"):
        sentence_score(metric, Edited("a", []), "a")


@pytest.mark.parametrize("metric", ALL)
def test_a_corpus_with_a_text_without_a_reference_has_no_score(metric: Metric) -> None:
    with pytest.raises(ValueError):
        corpus_score(metric, [GO, Edited("a", [])], ["a", "a"])
