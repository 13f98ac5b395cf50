"""Replies that are read: asked for, cut free of a thinking block, read, and asked for again where they do not fit.

question = Question("4be0…", chat("Please list five …"))
yield from ask(context, "request", "teacher", [question], settings, read, counts)
question.answer     # what `read` made of a reply, or None, and then question.fault says why
"""

from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from builders.core.draws import derive_seed
from builders.core.stage import Context
from builders.core.unread import keep_unread
from builders.engines import Batch, Completion, Engine, Message, SamplingSettings
from builders.engines.prompts import fits_window, prompt_ends_with
from builders.settings.asking import AskingSettings
from scorers.errors import UserError
from scorers.extraction import Thinking, cut_thinking

T = TypeVar("T")

THOUGHTS: dict[str, Thinking] = {"thinking cut": "cut", "thinking without an end": "unclosed"}
"""Counts of a stage, by what was found of a thinking block; left out where there is none."""
UNFIT = "replies that did not fit"

# Why a reply does not do, whatever it was asked for.
CUT = "reply cut at the length limit"
NO_END = "reply without an end of its thinking block"
OVER_WINDOW = "prompt over the context window"


class Unread(str):
    """Why a reply could not be read, in words that a count is named by."""

    __slots__ = ()


@dataclass
class Question(Generic[T]):
    """A prompt on its way to an answer.

    Attributes:
        name: what its draws follow from, with the stage and the attempt; unique in the stage.
        messages: the prompt.
        answer: what was read, once there is something.
        attempts: replies asked for so far.
        reply: the last of them.
        fault: why there is no answer: the last reply's.
    """

    name: str
    messages: Sequence[Message]
    answer: T | None = None
    attempts: int = 0
    reply: Completion | None = None
    fault: str | None = None


def ask(
    context: Context[Any],
    stage: str,
    role: str,
    questions: Sequence[Question[T]],
    settings: AskingSettings,
    read: Callable[[Question[T], str], "T | Unread"],
    counts: Counter[str],
    pattern: str | None = None,
) -> Generator[Batch, list[Completion], None]:
    """Ask a role's engine until each question has an answer or has been asked `settings.attempts` times.

    A prompt that leaves no room for a reply in a local model's window is not asked. Draws depend on the stage, the
    question's name and the attempt alone.

    Args:
        context: of the shard.
        stage: name of the stage.
        role: whose engine.
        questions: answers, attempts and faults are put into them.
        settings: how to draw tokens, how often, and the tags of a thinking block.
        read: makes an answer of a question's reply, or says why there is none.
        counts: tokens, thinking blocks and replies that did not fit are counted here.
        pattern: regular expression that replies are held to while they are drawn.

    Yields:
        Batches of prompts, and is sent their completions.

    Raises:
        UserError: a reply's limit fills the model's window; there is a pattern, and replies begin inside a thinking
            block.
    """
    engine = context.engine(role)
    template_kwargs = context.engine_settings(role)[0].chat_template_kwargs
    if engine.tokenizer is not None and settings.max_new_tokens >= engine.context_window:
        raise UserError(
            f"stage {stage}: replies of {settings.max_new_tokens:,} tokens leave no room for a prompt in the window of "
            f"{engine.context_window:,} tokens that models.{role} has; lower its max_new_tokens or use a {role} with a "
            "larger one"
        )
    opened = begins_in_block(engine, [q.messages for q in questions[:1]], settings.thinking_tags, template_kwargs)
    if pattern is not None:
        require_unopened(stage, role, opened=opened)
    waiting = []
    for question in questions:
        if fits_window(engine, question.messages, settings.max_new_tokens, template_kwargs):
            waiting.append(question)
        else:
            question.fault = OVER_WINDOW
    sampling = SamplingSettings(settings.max_new_tokens, settings.temperature, settings.top_p, pattern=pattern)
    # Greedy decoding gives the same reply again.
    for attempt in range(1, 1 + (settings.attempts if settings.temperature else 1)):
        if not waiting:
            break
        draws = [derive_seed(context.config.random_seed, stage, question.name, attempt) for question in waiting]
        completions = yield Batch([question.messages for question in waiting], draws, sampling)
        for question, completion in zip(waiting, completions, strict=True):
            question.attempts, question.reply = attempt, completion
            counts["tokens"] += completion.num_tokens
            found = _read(question, completion, settings.thinking_tags, read, counts, opened=opened)
            question.answer, question.fault = (None, str(found)) if isinstance(found, Unread) else (found, None)
        waiting = [question for question in waiting if question.answer is None]
        counts[UNFIT] += len(waiting)


def _read(
    question: Question[T],
    completion: Completion,
    tags: tuple[str, str] | None,
    read: Callable[[Question[T], str], "T | Unread"],
    counts: Counter[str],
    *,
    opened: bool,
) -> "T | Unread":
    """Read one reply, without its thinking block."""
    reply = completion.text
    if tags is not None:
        reply, thought = cut_thinking(reply, tags, opened=opened)
        counts.update(name for name, found in THOUGHTS.items() if found == thought)
        if thought == "unclosed":
            return Unread(NO_END)
    found = read(question, reply)
    # What is wrong with a reply that was cut is most likely that it was cut.
    return Unread(CUT) if isinstance(found, Unread) and completion.finish_reason == "length" else found


def keep_unanswered(context: Context[Any], part: int, questions: Sequence[Question[Any]]) -> None:
    """Keep the last replies of questions without an answer beside a part's file, so that they can be looked at."""
    unread = [
        (q.messages[-1]["content"], q.reply.text, q.reply.finish_reason)
        for q in questions
        if q.answer is None and q.reply is not None
    ]
    keep_unread(context.work, part, unread)


def dropped_in(counts: Mapping[str, int]) -> str:
    """Return how many rows were dropped for which reason, in words; empty where none was."""
    reasons = {name.removeprefix("dropped."): n for name, n in sorted(counts.items()) if name.startswith("dropped.")}
    return ", ".join(f"{n} {reason}" for reason, n in reasons.items())


def begins_in_block(
    engine: Engine,
    messages: Sequence[Sequence[Message]],
    tags: tuple[str, str] | None,
    template_kwargs: Mapping[str, Any],
) -> bool:
    """Whether the chat template opens a thinking block itself, so that every response begins inside it.

    Args:
        engine: the engine; one without a tokenizer, as a server's, counts as opening none.
        messages: the prompts, of which the first stands for all.
        tags: the tags of a thinking block; None: there is none.
        template_kwargs: variables of the template.
    """
    if tags is None or engine.tokenizer is None or not messages:
        return False
    return prompt_ends_with(engine.tokenizer, messages[0], template_kwargs, tags[0])


def require_unopened(section: str, role: str, *, opened: bool) -> None:
    """Check that replies which are held to their form do not begin inside a thinking block, which they could not end.

    Args:
        section: the stage's section, whose `guided` is true.
        role: whose engine is asked.
        opened: whether the chat template opens such a block.

    Raises:
        UserError: it does.
    """
    if opened:
        raise UserError(
            f"{section}.guided is true, and the chat template opens a thinking block, which such replies have no room "
            f"to end; let it open none, as by engines.{role}.chat_template_kwargs {{enable_thinking: false}}, or set "
            f"{section}.guided to false"
        )


def replies_depend_on(config: Any, role: str) -> Sequence[str]:
    """Return what the bytes of texts that a role's model samples depend on beyond the fingerprint."""
    engine = getattr(config.engines, role)
    if engine.kind == "openai":
        return ["the server"]
    found = ["kind of processor"]
    if engine.dtype == "auto":  # bfloat16 on a GPU, float32 on a CPU
        found.append(f"engines.{role}.device")
    return [*found, "composition of vLLM's batches"] if engine.kind == "vllm" else found
