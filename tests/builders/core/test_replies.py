"""Replies that are read: asked for again where they do not fit, with draws of their own, and counted."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from builders.core.prompting import chat
from builders.core.replies import CUT, NO_END, OVER_WINDOW, Question, Unread, ask
from builders.engines import Completion
from builders.settings.asking import AskingSettings
from scorers.errors import UserError


@dataclass
class Replies:
    """An engine of a context whose replies are given, by the prompt's text and the attempt."""

    texts: dict[str, Sequence[str]]
    finish: str = "stop"
    context_window: int = 4096
    tokenizer: Any = None
    draws: dict[str, list[int]] = field(default_factory=dict)

    def asked(self, questions: Sequence[Question[int]], settings: AskingSettings, **options: Any) -> Counter[str]:
        counts: Counter[str] = Counter()
        asking = ask(Context(self), "stage", "teacher", questions, settings, read, counts, **options)  # type: ignore[arg-type]
        for batch in _sent(asking, self):
            assert batch
        return counts

    def reply(self, prompt: str, draw: int) -> Completion:
        known = self.draws.setdefault(prompt, [])
        known.append(draw)
        texts = self.texts[prompt]
        return Completion(texts[min(len(known), len(texts)) - 1], self.finish, 3)  # type: ignore[arg-type]


@dataclass
class Context:
    """As much of a stage's context as asking reads."""

    replies: Replies

    def __post_init__(self) -> None:
        self.config = self
        self.random_seed = 0

    def engine(self, role: str) -> Replies:
        return self.replies

    def engine_settings(self, role: str) -> tuple[Any, str]:
        return type("Engine", (), {"chat_template_kwargs": {}}), f"engines.{role}"


def _sent(asking: Any, engine: Replies) -> Iterator[int]:
    completions = None
    while True:
        try:
            batch = asking.send(completions)
        except StopIteration:
            return
        rows = zip(batch.prompts, batch.seeds, strict=True)
        completions = [engine.reply(messages[-1]["content"], seed) for messages, seed in rows]
        yield len(completions)


def read(question: Question[int], reply: str) -> int | Unread:
    return int(reply) if reply.isdigit() else Unread("no number")


@pytest.fixture
def policy_tokenizer(causal_lm_dir: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(causal_lm_dir)


def questions(*names: str) -> list[Question[int]]:
    return [Question(name, chat(name)) for name in names]


def test_what_does_not_fit_is_asked_again() -> None:
    engine = Replies({"a": ["1"], "b": ["?", "??", "3"], "c": ["no"]})
    a, b, c = found = questions("a", "b", "c")
    counts = engine.asked(found, AskingSettings(attempts=3))
    assert [(q.answer, q.attempts, q.fault) for q in (a, b, c)] == [(1, 1, None), (3, 3, None), (None, 3, "no number")]
    assert counts == {"tokens": 3 * 7, "replies that did not fit": 2 + 2 + 1}
    # Each attempt draws anew, and another question draws otherwise.
    draws = [draw for known in engine.draws.values() for draw in known]
    assert len(draws) == len(set(draws)) == 7


def test_draws_do_not_depend_on_what_is_asked_beside_them() -> None:
    alone, beside = Replies({"a": ["?", "1"]}), Replies({"a": ["?", "1"], "b": ["2"]})
    alone.asked(questions("a"), AskingSettings())
    beside.asked(questions("b", "a"), AskingSettings())
    assert alone.draws["a"] == beside.draws["a"]


def test_a_zero_that_is_read_is_an_answer() -> None:
    engine = Replies({"a": ["0"]})
    (a,) = found = questions("a")
    engine.asked(found, AskingSettings())
    assert a.answer == 0 and a.attempts == 1


def test_greedy_decoding_is_asked_once() -> None:
    engine = Replies({"a": ["?", "1"]})
    (a,) = found = questions("a")
    engine.asked(found, AskingSettings(temperature=0.0, attempts=3))
    assert (a.answer, a.attempts, a.fault) == (None, 1, "no number")


def test_why_a_reply_was_not_read() -> None:
    engine = Replies({"a": ["<think>hm"], "b": ["<think>hm</think> 4"]})
    a, b = found = questions("a", "b")
    counts = engine.asked(found, AskingSettings(attempts=1))
    assert (a.fault, b.answer) == (NO_END, 4)
    assert counts["thinking without an end"] == counts["thinking cut"] == 1
    cut = Replies({"a": ["what I th"], "b": ["12"]}, finish="length")
    a, b = found = questions("a", "b")
    cut.asked(found, AskingSettings(attempts=1))
    assert (a.fault, b.answer) == (CUT, 12)


def test_a_prompt_without_room_for_a_reply_is_not_asked(policy_tokenizer: Any) -> None:
    engine = Replies({"b": ["1"]}, context_window=60, tokenizer=policy_tokenizer)
    long = "word " * 200
    a, b = found = [Question[int]("a", chat(long)), Question[int]("b", chat("b"))]
    engine.asked(found, AskingSettings(max_new_tokens=16))
    assert (a.fault, a.attempts, b.answer) == (OVER_WINDOW, 0, 1)


def test_replies_held_to_a_form_cannot_begin_in_a_thinking_block(policy_tokenizer: Any) -> None:
    policy_tokenizer.chat_template += "{% if add_generation_prompt %}<think>{% endif %}"
    engine = Replies({"a": ["1"]}, tokenizer=policy_tokenizer)
    with pytest.raises(UserError, match=r"^stage.guided is true, and the chat template opens a thinking block"):
        engine.asked(questions("a"), AskingSettings(), pattern="[0-9]")
