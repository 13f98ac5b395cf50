"""Split a response in the tagged form into summary, outline and document (GRACE-KTO, section 3.3).

A response *matches* when each of the six tags occurs exactly once, in this order, with only white space outside them
and something other than white space inside each pair:

    <summary>Trade on the river.</summary>
    <outline>1. Background</outline>
    <answer>1. Background
    The harbour grew.</answer>

A model that reasons writes a thinking block before its answer; `cut_thinking` takes it off.

The tags are found by substring search, without backtracking: the time is linear in the length of the response, whatever
a model wrote.
"""

from typing import Literal, NamedTuple

PARTS = ("summary", "outline", "answer")
TAGS = tuple(tag for part in PARTS for tag in (f"<{part}>", f"</{part}>"))


class Extraction(NamedTuple):
    """The three parts of a matched response, each without surrounding white space and never empty."""

    summary: str
    outline: str
    document: str


def extract(response: str) -> Extraction | None:
    """Return the parts of a response, or None where it does not match; never raises.

    Tags are case-sensitive. White space around a part is layout of the tagged form, not text, and is removed; inside a
    part nothing is changed.

    >>> extract("<summary>S</summary> <outline>O</outline> <answer> D </answer>")
    Extraction(summary='S', outline='O', document='D')
    >>> extract("<summary>S</summary> so far <outline>O</outline> <answer>D</answer>") is None
    True
    """
    pieces = []  # text before each tag in turn, then the text after the last one
    rest_from = 0
    for tag in TAGS:
        if response.count(tag) != 1:
            return None
        at = response.find(tag, rest_from)
        if at < 0:  # the tag occurs, but before the previous one
            return None
        pieces.append(response[rest_from:at].strip())
        rest_from = at + len(tag)
    pieces.append(response[rest_from:].strip())
    # Pieces alternate: outside, summary, outside, outline, outside, document, outside.
    outside, parts = pieces[0::2], pieces[1::2]
    if any(outside) or not all(parts):
        return None
    return Extraction(*parts)


Thinking = Literal["none", "cut", "unclosed"]
"""What was found of a thinking block: none, a whole block before the text, or one that never ends."""


def cut_thinking(text: str, tags: tuple[str, str], *, opened: bool = False) -> tuple[str, Thinking]:
    """Cut a thinking block off the beginning of a text.

    The opening tag may be missing where the prompt ended with it; a closing tag without one then ends the block.

    Args:
        text: what a model wrote.
        tags: the opening and the closing tag, such as `<think>` and `</think>`; neither is empty.
        opened: whether the prompt ended with the opening tag, so that the text begins inside a block.

    Returns:
        The text after the block, without white space before it, and `cut`; an empty text and `unclosed` where the block
        never ends, as when the model was stopped at its length limit; the text as it is and `none` where there is no
        block.

    >>> cut_thinking("<think>First …</think> Text.", ("<think>", "</think>"))
    ('Text.', 'cut')
    >>> cut_thinking("<think>First …", ("<think>", "</think>"))
    ('', 'unclosed')
    """
    start, end = tags
    before, closing, after = text.partition(end)
    inside = opened or text.lstrip().startswith(start)
    # A closing tag after an opening one inside the text belongs to the text.
    if closing and (inside or start not in before):
        return after.lstrip(), "cut"
    return ("", "unclosed") if inside else (text, "none")
