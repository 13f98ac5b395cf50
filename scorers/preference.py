"""A judge's choice between two responses to one request: A, B, or neither.

    {"analysis": "A answers the second question, B leaves it out.", "better": "A"}

A judge may prefer a place, so each pair is asked about in both orders; only a choice that stays with the response when
the places change counts, and everything else is a tie.
"""

from typing import Literal, NamedTuple

from scorers.prompts import fence, render_prompt
from scorers.replies import json_objects

Choice = Literal["a", "b", "tie"]
CHOICES: tuple[Choice, ...] = ("a", "b", "tie")
SWAPPED: dict[Choice, Choice] = {"a": "b", "b": "a", "tie": "tie"}
"""What a choice between two responses says when they stand in each other's place."""


class Comparison(NamedTuple):
    """What a judge says of two responses.

    Attributes:
        better: which one is.
        analysis: how the two compare; None where the judge does not say.
    """

    better: Choice
    analysis: str | None


REPLY = r'\{"analysis": "([^"\\\x00-\x1f]|\\["\\/bfnrt])*", "better": "(A|B|tie)"\}'
"""Regular expression that guided replies are held to."""


def ask_pair(prompt: str, query: str, first: str, second: str) -> list[dict[str, str]]:
    """Return the chat messages that ask a judge which of two responses is better.

    Args:
        prompt: template of the prompt, with `query`, `first`, `second`, and `fence`, the line around each of them.
        query: what was asked for.
        first: the response that stands as A.
        second: the response that stands as B.
    """
    line = fence(query, first, second)
    return [{"role": "user", "content": render_prompt(prompt, query=query, first=first, second=second, fence=line)}]


def parse_pair(reply: str) -> Comparison | None:
    """Return the choice in a judge's reply, None where it holds none or contradicting ones; never raises.

    Args:
        reply: the judge's text, without its thinking block.

    >>> parse_pair('{"analysis": "A is whole.", "better": "A"}')
    Comparison(better='a', analysis='A is whole.')
    >>> parse_pair('{"better": "A"} {"better": "B"}'), parse_pair('{"better": "both"}'), parse_pair("A")
    (None, None, None)
    """
    said = [found for found in json_objects(reply) if "better" in found]
    read = {value.strip().lower() if isinstance(value := found["better"], str) else None for found in said}
    better = next((choice for choice in CHOICES if read == {choice}), None)
    texts = (text.strip() for found in said if isinstance(text := found.get("analysis"), str))
    return None if better is None else Comparison(better, next(filter(None, texts), None))


def of_both_orders(forward: Choice | None, backward: Choice | None) -> Choice | None:
    """Return the choice between two responses that were shown in both orders.

    Args:
        forward: the judge's choice with the first one as A.
        backward: its choice with the first one as B, as the judge said it.

    Returns:
        `a` for the first one, `b` for the second, a tie where the two choices do not agree; None where one is missing.

    >>> of_both_orders("a", "b"), of_both_orders("a", "a"), of_both_orders("tie", "tie"), of_both_orders("a", None)
    ('a', 'tie', 'tie', None)
    """
    if forward is None or backward is None:
        return None
    return forward if SWAPPED[backward] == forward else "tie"
