"""The editing tasks of the generated world, and the rules that explain and judge edits."""

from random import Random

import pytest

from builders.rationalign.messages import ask_for_reasons, ask_to_edit, ours, reward_text
from scorers.edit_judgement import RESPECTS, read_scores, read_verdicts
from scorers.edits import edits_between
from scorers.rationale import covered, reasons_of
from training.pipelines import load_config
from training.rationalign.editing import TASKS, copies, damaged_copies, is_held_out, pairs
from training.rationalign.teacher import reply
from training.world.lexicon import DOMAIN, GENERAL
from training.world.measures import is_in_register

FOUND = pairs(3, 60)
TESTS = pairs(3, 20, held_out=True)


def test_each_task_has_its_texts_and_none_stands_there_twice() -> None:
    assert [pair.task for pair in FOUND] == [task for task in TASKS for _ in range(60)]
    assert set(TASKS) == set(ours())
    for task in TASKS:
        sources = [pair.source for pair in FOUND if pair.task == task]
        assert len(set(sources)) == 60
    assert all(pair.references and pair.source not in pair.references for pair in FOUND)
    assert any(len(pair.references) > 1 for pair in FOUND)


def test_more_texts_begin_with_the_same_ones() -> None:
    assert [p for p in pairs(3, 80) if p.task == "gec"][:60] == [p for p in FOUND if p.task == "gec"]
    assert pairs(4, 5) != pairs(3, 5)


def test_no_test_text_is_among_the_others() -> None:
    assert not {pair.source for pair in FOUND} & {pair.source for pair in TESTS}
    good = {text for pair in FOUND for text in pair.references}
    assert not good & {text for pair in TESTS if pair.task == "gec" for text in pair.references}


def test_corrections_are_sentences_of_the_world() -> None:
    """What GEC and neutralisation lead to fits a template word by word; what they start from does not."""
    for pair in FOUND:
        if pair.task in ("gec", "neutralisation"):
            assert is_in_register(pair.references[0], GENERAL + DOMAIN), pair
            assert not is_in_register(pair.source, GENERAL + DOMAIN), pair


@pytest.mark.parametrize("task", TASKS)
def test_the_teacher_covers_every_edit(task: str) -> None:
    config = load_config("tiny-rationalign")
    for pair in [p for p in FOUND if p.task == task][:20]:
        for target in pair.references:
            edits = edits_between(pair.source, target)
            prompt = ask_for_reasons(config, task, pair.source, target, edits)[0]["content"]
            said = reply(prompt, 1, malformed=0.0)
            assert all(covered(edits, reasons_of(said))), (pair, said)
            assert len(said.splitlines()) == len(edits)


def test_malformed_replies_leave_edits_without_a_reason() -> None:
    config, pair = load_config("tiny-rationalign"), FOUND[0]
    edits = edits_between(pair.source, pair.references[0])
    prompt = ask_for_reasons(config, pair.task, pair.source, pair.references[0], edits)[0]["content"]
    broken = [reply(prompt, seed, malformed=1.0) for seed in range(20)]
    assert not any(all(covered(edits, reasons_of(text))) for text in broken)


def judged(kind: str, task: str, source: str, suggestion: str, reasons: list[str]) -> str:
    from training.rationalign.judge import _ask
    from training.rationalign.outputs import Output

    return _ask(ours()[task].change, kind, source, Output(suggestion, reasons, read=True))[0]["content"]


def test_the_judge_prefers_the_reference() -> None:
    better = 0
    for pair in FOUND[::7]:
        good, bad = (read_scores(reply(judged("judge", pair.task, pair.source, text, []), 1, 0.0))
                     for text in (pair.references[0], "The the of. The the of."))  # fmt: skip
        assert good is not None and bad is not None and good.keys() == set(RESPECTS)
        better += sum(good.values()) > sum(bad.values())
    assert better == len(FOUND[::7])


def test_the_judge_knows_right_reasons() -> None:
    config = load_config("tiny-rationalign")
    for pair in FOUND[::11]:
        edits = edits_between(pair.source, pair.references[0])
        prompt = ask_for_reasons(config, pair.task, pair.source, pair.references[0], edits)[0]["content"]
        right = reasons_of(reply(prompt, 1, 0.0))
        wrong = [f"{line.partition(' because ')[0]} because it rains." for line in right]
        text = judged("reasons", pair.task, pair.source, pair.references[0], [*right, *wrong])
        found = read_verdicts(reply(text, 1, 0.0), 2 * len(right))
        assert found == [True] * len(right) + [False] * len(right), pair


def test_copies_and_damaged_copies() -> None:
    texts = copies(3, 50)
    assert len(texts) == 50 and texts == copies(3, 50) and all(text.endswith(".") for text in texts)
    for text, less, more in damaged_copies(3, 50):
        assert more != text and (less == text or less != more)


def test_a_tenth_is_held_out() -> None:
    rng = Random(0)
    words = [[str(rng.random())] for _ in range(5_000)]
    assert 0.08 < sum(map(is_held_out, words)) / 5_000 < 0.12


def test_the_prompts_show_the_text() -> None:
    config, pair = load_config("tiny-rationalign", ["contest.list_edits=false"]), FOUND[0]
    assert pair.source in ask_to_edit(config, pair.task, pair.source, "none")[0]["content"]
    assert reward_text(config, pair.task, "before", "after").count("before") == 1
