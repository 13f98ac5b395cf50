"""Contests between suggestions: by hand, and over many draws."""

from collections.abc import Sequence
from typing import Any

import pytest

from builders.rationalign.contest import contests_of
from builders.rationalign.messages import reward_text
from scorers.errors import UserError
from training.pipelines import load_config

CONFIG = load_config("tiny-rationalign", ["contest.contests=1", "contest.list_edits=false"])
PAIR = {
    "pair_id": "p",
    "task": "gec",
    "source": "He go home .",
    "target": "He goes home .",
    "references": [],
    "fold": 2,
}
GOOD, BAD, WORSE = "He goes home .", "He go home .", "He go house ."


def contest(samples: Sequence[str], config: Any = CONFIG, **changes: Any) -> dict[str, Any] | None:
    found = contests_of(config, PAIR | changes, samples)
    assert len(found) <= 1
    return found[0] if found else None


def held(samples: Sequence[str], config: Any = CONFIG, **changes: Any) -> dict[str, Any]:
    found = contest(samples, config, **changes)
    assert found is not None
    return found


@pytest.mark.parametrize("samples", [[GOOD, BAD], [BAD, GOOD]])
def test_the_higher_metric_wins(samples: list[str]) -> None:
    assert held(samples) == {
        "pair_id": "p",
        "contest_id": "p-0",
        "task": "gec",
        "source": PAIR["source"],
        "fold": 2,
        "samples": samples,
        "metrics": [100.0 if text == GOOD else 0.0 for text in samples],
        "winner": GOOD,
        "loser": BAD,
        "metric_winner": 100.0,
        "metric_loser": 0.0,
        "chosen": reward_text(CONFIG, "gec", "He go home .", GOOD),
        "rejected": reward_text(CONFIG, "gec", "He go home .", BAD),
    }


def test_the_reward_model_reads_task_source_and_suggestion() -> None:
    found = held([GOOD, BAD])
    assert found["chosen"].endswith(GOOD) and found["rejected"].endswith(BAD)
    assert found["chosen"].removesuffix(GOOD) == found["rejected"].removesuffix(BAD)
    assert all("He go home ." in found[name] and "has no mistake" in found[name] for name in ("chosen", "rejected"))


def test_any_reference_counts() -> None:
    found = held(["He went home .", BAD], references=["He went home ."])
    assert (found["winner"], found["metric_winner"]) == ("He went home .", 100.0)


@pytest.mark.parametrize("samples", [[], [GOOD], [GOOD] * 5, [BAD, WORSE, BAD]])
def test_equal_ones_hold_no_contest(samples: list[str]) -> None:
    """A wrong change and none are both worth nothing by F0.5."""
    assert contest(samples) is None


def test_equal_ones_are_drawn_again() -> None:
    """One of eight differs: of the pairs drawn at first only a quarter would do."""
    samples = [BAD, WORSE, BAD, BAD, GOOD, BAD, WORSE, BAD]
    found = [held(samples, pair_id=str(k)) for k in range(200)]
    assert {one["winner"] for one in found} == {GOOD} and {one["loser"] for one in found} == {BAD, WORSE}
    assert all(one["metric_winner"] > one["metric_loser"] and one["samples"] == samples for one in found)


def test_each_pair_that_differs_can_be_drawn_and_a_seed_decides() -> None:
    # Of five edits the first ones are right: five suggestions with five metrics.
    source, target = "a b c d e f", "A b C d E f"
    samples = ["a b c d e f", "A b c d e f", "A b C d e f", "A b C d E f", "A b C d E F"]
    texts = {"source": source, "target": target}
    found = [held(samples, **texts, pair_id=str(k)) for k in range(200)]
    metrics = dict(zip(samples, found[0]["metrics"], strict=True))
    pairs = {(one["winner"], one["loser"]) for one in found}
    assert len(set(metrics.values())) == 5
    assert pairs == {(a, b) for a in samples for b in samples if metrics[a] > metrics[b]}
    assert [held(samples, **texts, pair_id=str(k)) for k in range(200)] == found
    other = load_config("tiny-rationalign", ["contest.contests=1", "random_seed=7"])
    assert [held(samples, other, **texts, pair_id=str(k)) for k in range(200)] != found


@pytest.mark.parametrize(
    ("task", "right", "unchanged"),
    # SARI of "a b", by 1 to 4 words: keep 1, 1, 0, 0, delete 1, 1, 1, 0, add 0; of "a b c": keep 4/5, 2/3, 0, 0.
    # BLEU of "a b c": 2/3, 1/2, and for the three words, of which none is right, a half.
    [("gec", 100.0, 0.0), ("fluency", 125 / 3, 110 / 9), ("formality", 100.0, 100 * (2 / 3 / 2 / 2) ** (1 / 3))],
)
def test_the_metric_is_the_tasks(task: str, right: float, unchanged: float) -> None:
    found = held(["a b", "a b c"], task=task, source="a b c", target="a b")
    assert found["metrics"] == pytest.approx([right, unchanged], abs=0.01)


def test_a_task_of_ones_own_has_its_metric() -> None:
    words = "metric: bleu, edit: e, change: c, quality: Terse."
    own = f"tasks={{gec: {{{words}}}, short: {{{words}}}}}"
    config = load_config("tiny-rationalign", ["contest.contests=1", own])
    for task in ("gec", "short"):
        found = held(["a b", "a b c"], config, task=task, source="a b c", target="a b")
        assert found["metric_loser"] > 50 and found["chosen"].startswith("Terse.")


def test_several_contests_of_one_pair_are_between_other_suggestions() -> None:
    config = load_config("tiny-rationalign", ["contest.contests=4", "contest.list_edits=false"])
    samples = [GOOD, BAD, BAD, "He goes to home .", WORSE]
    found = contests_of(config, PAIR, samples)
    assert [one["contest_id"] for one in found] == ["p-0", "p-1", "p-2", "p-3"]
    assert len({(one["winner"], one["loser"]) for one in found}) == 4
    assert all(one["metric_winner"] > one["metric_loser"] for one in found)
    # The first one is that of a single contest, and there are no more than differ: four texts, two of them equal.
    assert found[0] == held(samples)
    assert len(contests_of(load_config("tiny-rationalign", ["contest.contests=99"]), PAIR, samples)) == 5


def test_a_task_without_a_metric() -> None:
    with pytest.raises(UserError, match=r"pair p: task 'gek' has no metric, did you mean gec\?"):
        contest([GOOD, BAD], task="gek")
