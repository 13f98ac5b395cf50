"""The evaluation's table and its statistics, on outputs written by hand."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from scorers.editing import Edited
from scorers.errors import UserError
from training.pipelines import evaluate_policies, load_config
from training.rationalign.evaluate import agreement_lines, comparisons, differences, scored, table
from training.rationalign.outputs import EvaluationSet, Output, evaluation_sets, formal_share

GEC = EvaluationSet(
    "CoN", "gec", "maxmatch", [Edited("He go home .", ["He goes home ."]), Edited("It are so .", ["It is so ."])]
)
PLAIN = EvaluationSet("ITR-L", "clarity", "sari", [Edited("a b c", ["a b"]), Edited("d e f", ["d e"])])
GOES = 'The word "go" should be replaced by "goes" because he is one.'


def outputs(*texts: str, reasons: Sequence[str] = ()) -> list[Output]:
    return [Output(text, reasons, read=True) for text in texts]


def test_the_scores_by_hand() -> None:
    made = [outputs("He goes home .", "It was so .", reasons=[GOES]), outputs("a b", "d e f")]
    one = scored("mine", [GEC, PLAIN], made)
    # Two edits proposed, one of them right, of two: P = R = F0.5 = 1/2.
    assert one.scores["CoN"] == pytest.approx(50.0)
    # SARI of "a b": keep 1, 1, 0, 0, delete 1, 1, 1, 0, add 0, so 125/3; of "d e f" left as it is: 110/9 − see below.
    unchanged = (100 * (4 / 5 + 2 / 3) / 4) / 3
    assert one.scores["ITR-L"] == pytest.approx((125 / 3 + unchanged) / 2)
    assert one.scores["ALL"] == pytest.approx((one.scores["CoN"] + one.scores["ITR-L"]) / 2)
    # Three edits over both sets; the deletion in "a b" is the reference's.
    assert one.edits == 3.0 and one.precision == pytest.approx(2 / 3)
    # Of the three edits made, the one that a sentence explains; in the second set there is no sentence.
    assert one.coverage == pytest.approx(1 / 3) and one.unread == 0


def test_an_answer_that_cannot_be_read_counts() -> None:
    made = [[Output("He go home .", (), read=False), Output("It is so .", (), read=True)], outputs("a b", "d e")]
    one = scored("mine", [GEC, PLAIN], made)
    assert one.unread == 1 and one.scores["CoN"] == pytest.approx(100 * 1.25 / (0.25 * 2 + 1)) and one.coverage is None


def test_a_better_assistant_is_told_apart_from_an_equal_one() -> None:
    texts = [Edited(f"He go {k} .", [f"He goes {k} ."]) for k in range(40)]
    test = EvaluationSet("CoN", "gec", "maxmatch", texts)
    half = [f"He goes {k} ." if k % 2 else f"He go {k} ." for k in range(40)]
    first = scored("first", [test], [outputs(*half)])
    best = scored("best", [test], [outputs(*(f"He goes {k} ." for k in range(40)))])
    same = scored("same", [test], [outputs(*half)])
    better, equal = differences([first, best, same])
    found = better["tests"]["CoN"]
    assert found["difference"] == pytest.approx(best.scores["CoN"] - first.scores["CoN"])
    assert found["p_bootstrap"] == 0.0 and found["p_sign"] == pytest.approx(0.5**100)
    assert equal["tests"]["ALL"]["difference"] == 0.0 and equal["tests"]["ALL"]["p_bootstrap"] == 0.5
    lines = comparisons([first, best, same])
    assert lines[0].endswith(": better.") and lines[1].endswith(": not distinguishable.")


def test_the_table_shows_formality_beside_bleu() -> None:
    one = scored("mine", [PLAIN], [outputs("a b", "d e")])
    one.formal["ITR-L"] = 0.975
    header, [row] = table([PLAIN], [one])
    assert header == ["assistant", "ITR-L", "ALL", "edits", "precision", "covered", "unread"]
    assert row[1].endswith(" / 97.5") and row[-2:] == ["–", "0"]


def test_the_reward_models_sentence() -> None:
    said = agreement_lines({"wins": 30, "ties": 4, "losses": 10, "pearson": {"gec": 0.4, "ALL": 0.4}})
    assert said == [
        "reward model: its winner beats its loser in 30 of 44 texts, 4 ties (75% of those that differ); Pearson's r of "
        "reward and metric 0.40, the mean over test sets."
    ]
    assert (
        agreement_lines(None) == []
        and "no test text" in agreement_lines({"wins": 0, "ties": 0, "losses": 0, "pearson": {"ALL": None}})[0]
    )


def test_test_sets_of_a_file_and_its_annotators(tmp_path: Path) -> None:
    lines = (
        "S He go home .\nA 1 2|||R:VERB|||goes|||REQUIRED|||-NONE-|||0\nA 1 2|||R:VERB|||went|||REQUIRED|||-NONE-|||1\n"
    )
    (tmp_path / "a.m2").write_text(lines + "\n", encoding="utf-8")
    sources = f"evaluate.sources=[{{source: {tmp_path}/a.m2, task: gec, name: CoN}}]"
    [found] = evaluation_sets(load_config("tiny-rationalign", [sources], str(tmp_path / "store")))
    assert (found.name, found.task, found.metric) == ("CoN", "gec", "maxmatch")
    assert found.texts[0].gold is not None and len(found.texts[0].gold) == 2
    one = scored("mine", [found], [outputs("He went home .")])
    assert one.scores["CoN"] == pytest.approx(100.0)


def test_what_cannot_be_evaluated(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    with pytest.raises(UserError, match=r"^evaluate.sources names no test set"):
        evaluation_sets(load_config("tiny-rationalign", ["evaluate.sources=[]"], store))
    with pytest.raises(UserError, match=r"^grace evaluate: sft is named twice; leave one out"):
        evaluate_policies(load_config("tiny-rationalign", [], store), ["sft", "sft"], tmp_path / "out")
    (tmp_path / "t.jsonl").write_text('{"source": "a", "target": "b"}\n', encoding="utf-8")
    twice = f"{{source: {tmp_path}/t.jsonl, task: gec}}"
    with pytest.raises(UserError, match=r"t.jsonl: there is a test set gec already; give this one a name"):
        evaluation_sets(load_config("tiny-rationalign", [f"evaluate.sources=[{twice}, {twice}]"], store))
    mean = f"{{source: {tmp_path}/t.jsonl, task: gec, name: ALL}}"
    with pytest.raises(UserError, match=r"^evaluate.sources: ALL is the table's mean; give another name"):
        evaluation_sets(load_config("tiny-rationalign", [f"evaluate.sources=[{mean}]"], store))
    (tmp_path / "none.jsonl").write_text('{"source": "a", "target": ""}\n', encoding="utf-8")
    none = f"{{source: {tmp_path}/none.jsonl, task: gec}}"
    with pytest.raises(
        UserError, match=r"none.jsonl has no text with an edited form \(1 rows read: 1 without an edited"
    ):
        evaluation_sets(load_config("tiny-rationalign", [f"evaluate.sources=[{none}]"], store))


def test_sets_of_one_name_are_told_apart_by_their_tasks(tmp_path: Path) -> None:
    rows = [{"task": task, "source": f"{task} a", "target": "b"} for task in ("gec", "clarity", "gec")]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    named = [f"{{source: {tmp_path}/t.jsonl, name: mine}}", f"{{source: {tmp_path}/t.jsonl}}"]
    config = load_config("tiny-rationalign", [f"evaluate.sources=[{', '.join(named)}]"], str(tmp_path / "store"))
    found = [(one.name, one.task, len(one.texts)) for one in evaluation_sets(config)]
    assert found == [
        ("mine gec", "gec", 2), ("mine clarity", "clarity", 1), ("gec", "gec", 2), ("clarity", "clarity", 1),
    ]  # fmt: skip
    taken = f"{{source: {tmp_path}/t.jsonl, task: gec, name: mine clarity}}"
    config = load_config("tiny-rationalign", [f"evaluate.sources=[{named[0]}, {taken}]"], str(tmp_path / "store"))
    with pytest.raises(UserError, match=r"^evaluate.sources: mine clarity is what two test sets would be called; give"):
        evaluation_sets(config)


def test_the_formal_share_is_the_classifiers(tmp_path: Path) -> None:
    import torch

    from training.rationalign.world import train_formality

    torch.set_num_threads(1)
    folder = tmp_path / "classifier"
    folder.mkdir()
    found = train_formality(folder, seed=0, steps=30)
    assert math.isfinite(found["loss"])
    texts = ["Many children liked the barn.", "Loads of kids dug the barn."]
    shares = [formal_share([text], folder, "formal", "cpu") for text in texts]
    both = formal_share(texts, folder, "formal", "cpu")
    assert set(shares) <= {0.0, 1.0} and both == pytest.approx(sum(shares) / 2)
    assert formal_share(texts, folder, "informal", "cpu") == pytest.approx(1 - both)
    with pytest.raises(
        UserError, match=r"^evaluate.formal is polite, and models.classifier has the labels informal, formal"
    ):
        formal_share(texts, folder, "polite", "cpu")
