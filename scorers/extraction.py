"""Split a response in the tagged form into summary, outline and document (GRACE-KTO, section 3.3).

A response *matches* when each of the six tags occurs exactly once, in this order, with only white space outside them
and something other than white space inside each pair:

    <summary>Trade on the river.</summary>
    <outline>1. Background</outline>
    <answer>1. Background
    The harbour grew.</answer>

A model that reasons writes a thinking block before its answer; `cut_thinking` takes it off. The form is put together by
`compose`, for a document whose summary and outline are known; `extract_plan` finds these two in a reply.

The tags are found by substring search, without backtracking: the time is linear in the length of the response, whatever
a model wrote.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

PARTS = ("summary", "outline", "answer")
TAGS = tuple(tag for part in PARTS for tag in (f"<{part}>", f"</{part}>"))
PLAN_TAGS, ANSWER_TAGS = TAGS[:4], TAGS[4:]

SPACES = r"\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
"""What `str.isspace` calls white space, as the inside of a character class; `\\s` means less to most engines."""
# A part: not blank at its beginning, and without what could begin a tag, or a token such as <|im_start|>, which has no
# text.
_PART = f"(?:[^<{SPACES}]|<[^a-z/<|])(?:[^<]|<[^a-z/<|])*"
PLAN_PATTERN = f"<summary>{_PART}</summary><outline>{_PART}</outline>"
"""Regular expression of replies that `extract_plan` takes apart, for guided decoding: no look-around, no `\\s`."""


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
    pieces = _split(response, TAGS)
    if pieces is None:
        return None
    # Pieces alternate: outside, summary, outside, outline, outside, document, outside.
    outside, parts = pieces[0::2], pieces[1::2]
    if any(outside) or not all(parts):
        return None
    return Extraction(*parts)


def _split(text: str, tags: Sequence[str]) -> list[str] | None:
    """Return the text before each tag in turn, then the text after the last one, all without outer white space.

    None where a tag does not occur exactly once, or not in this order.
    """
    pieces = []
    rest_from = 0
    for tag in tags:
        if text.count(tag) != 1:
            return None
        at = text.find(tag, rest_from)
        if at < 0:  # the tag occurs, but before the previous one
            return None
        pieces.append(text[rest_from:at].strip())
        rest_from = at + len(tag)
    return [*pieces, text[rest_from:].strip()]


def compose(summary: str, outline: str, document: str) -> str:
    """Return the tagged form of a document.

    Args:
        summary: not blank, and without a tag; so are the others.
        outline: one section per line.
        document: kept letter by letter, white space around it aside.

    Returns:
        A text that `extract` takes apart into the three again.

    >>> extract(compose("S", "O", "D"))
    Extraction(summary='S', outline='O', document='D')
    """
    return f"<summary>{summary}</summary>\n<outline>{outline}</outline>\n<answer>{document.strip()}</answer>"


def form_of(document: str) -> Literal["tagged", "plain", "broken"]:
    """Tell whether a document has the tagged form, no tag at all, or tags that do not make the form."""
    if extract(document) is not None:
        return "tagged"
    return "broken" if any(tag in document for tag in TAGS) else "plain"


class Plan(NamedTuple):
    """What comes before the document in the tagged form: both parts without outer white space and never empty."""

    summary: str
    outline: str


def extract_plan(reply: str) -> Plan | None:
    """Return summary and outline of a reply that was asked for these two, or None where it does not have them.

    Each of their four tags occurs exactly once, in order, and those of the answer nowhere. What a model says before,
    between and after them is passed over.

    >>> extract_plan("Sure: <summary>S</summary><outline>1. O</outline>")
    Plan(summary='S', outline='1. O')
    >>> extract_plan("<summary>S</summary><outline>O</outline><answer>D</answer>") is None
    True
    """
    pieces = _split(reply, PLAN_TAGS)
    if pieces is None or any(tag in reply for tag in ANSWER_TAGS):
        return None
    plan = Plan(pieces[1], pieces[3])
    return plan if all(plan) else None


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
