"""Responses that are sampled and kept as they are, for every pipeline: thinking blocks cut, and what is cut counted."""

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, TypeVar

from builders.core.replies import THOUGHTS, begins_in_block
from builders.core.stage import Context
from builders.engines import Batch, Completion, Message, SamplingSettings
from builders.engines.prompts import fits_window
from scorers.extraction import Thinking, cut_thinking

RowT = TypeVar("RowT")


class Response(NamedTuple):
    """A response without a thinking block before it: nothing is left of one whose block never ends."""

    text: str
    completion: Completion


def sampled(
    context: Context[Any],
    role: str,
    messages: Sequence[Sequence[Message]],
    seeds: Sequence[int],
    sampling: SamplingSettings,
    tags: tuple[str, str] | None,
    counts: Counter[str],
) -> Generator[Batch, list[Completion], list[Response]]:
    """Sample a response to each prompt.

    Args:
        context: of the shard.
        role: whose engine.
        messages: the prompts, each of which fits the engine's window.
        seeds: of each prompt's draws.
        sampling: how to draw.
        tags: of a thinking block; None: nothing is cut.
        counts: tokens, thinking blocks and responses cut at the length limit are counted here.

    Yields:
        One batch, and is sent its completions.
    """
    engine, template_kwargs = context.engine(role), context.engine_settings(role)[0].chat_template_kwargs
    completions = yield Batch(messages, seeds, sampling)
    opened = begins_in_block(engine, messages, tags, template_kwargs)
    found = []
    for completion in completions:
        thought: Thinking = "none"
        text = completion.text
        if tags is not None:
            text, thought = cut_thinking(text, tags, opened=opened)
        counts.update(name for name, kind in THOUGHTS.items() if kind == thought)
        counts["cut at the length limit"] += completion.finish_reason == "length"
        counts["tokens"] += completion.num_tokens
        found.append(Response(text, completion))
    return found


def fitting(
    context: Context[Any], role: str, rows: Sequence[RowT], ask: Callable[[RowT], Sequence[Message]], new_tokens: int
) -> list[tuple[RowT, Sequence[Message]]]:
    """Return the rows whose prompts leave room for a response in the window of a role's engine, with their prompts."""
    engine, template_kwargs = context.engine(role), context.engine_settings(role)[0].chat_template_kwargs
    asked = [(row, ask(row)) for row in rows]
    return [pair for pair in asked if fits_window(engine, pair[1], new_tokens, template_kwargs)]
