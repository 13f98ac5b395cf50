"""Reference documents as SFT trains on them: in the tagged form, wrapped into it, or left out (`sft.untagged`).

A document *has the form* when `scorers.extraction` matches it. One without any tag is *plain*; its wrapping is made of
the document's own words alone:

    # River trade                          <summary>The harbour grew.</summary>
    ## Background                          <outline>River trade
    The harbour grew. Ships came.    ─▶    Background
    ## Results                             Results</outline>
    Trade doubled.                         <answer># River trade …</answer>

One with some of the tags that does not match has *broken* tags. There is no telling which part was meant, so it is
never wrapped.
"""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from builders.core.languages import HAN
from scorers.errors import UserError
from scorers.extraction import PARTS, compose, form_of

Untagged = Literal["refuse", "wrap", "drop"]

FORM = "".join(f"<{part}>…</{part}>" for part in PARTS)
HEADING_CHARS = 120  # a longer line is text
# Chinese punctuation stands as escapes: it looks like its Latin counterpart.
# An end of a sentence: a mark with the quotation marks and brackets that close after it. Chinese has no space there.
END = re.compile("[\u3002\uff01\uff1f]+[”\u2019」』\uff09》]*|(?<![.!?])[.!?]+[\"'”\u2019)\\]]*(?= |$)")
# What a full stop may follow inside a sentence: initials, titles and other short forms, the numbers of a list. Where a
# sentence ends with one of them, the next sentence is taken with it.
SHORTENED = re.compile(
    r"[(\"“]*(?:[A-Z]|\w(?:\.\w)+|\d{1,2}|Dr|Mr|Mrs|Ms|Prof|St|[Nn]os?|[Ff]igs?|[Ee]qs?|[Ss]ec|[Vv]ol|pp?|cf|vs|approx)"
)
MARKED = re.compile(r"#{1,6}\s+(?P<hashes>.+?)[\s#]*|\*\*(?P<stars>[^*]+)\*\*[:\uff1a]?|__(?P<lines>[^_]+)__[:\uff1a]?")
NUMBERED = re.compile(
    r"(?:\d+(?:\.\d+)+[.)]?\s|\d+[.)\uff0e\uff09、]|[IVXLC]+\.\s|[(\uff08]?[一二三四五六七八九十百]+[)\uff09、.]"
    r"|第[一二三四五六七八九十百\d]+[章节節部編编條条])\s*\S.*"
)
LISTED = ("-", "*", "•", ">", "|")  # begin an item of a list, a quotation, a row of a table
UNENDED = (",", ";", ":", "\uff0c", "\uff1b", "\uff1a")  # end a line whose sentence goes on below
BREAK = re.compile(f"(?<={HAN})\n(?={HAN})")  # a line break within a Chinese sentence stands for nothing


class Documents(NamedTuple):
    """What SFT trains on.

    Attributes:
        texts: one text per document, in the order given; None for one that is left out.
        counts: how many documents had the form, were wrapped, have broken tags, were left out; zeros are left out.
    """

    texts: list[str | None]
    counts: dict[str, int]


def prepare(documents: Sequence[str], untagged: Untagged) -> Documents:
    """Bring reference documents into the tagged form, or refuse those that do not have it.

    Documents with broken tags are trained on as they are and counted, except where they are left out: a few of them
    among many do little harm, and the generated world has them on purpose.

    Args:
        documents: the texts, none of them blank.
        untagged: `refuse` plain documents; `wrap` them; or `drop` whatever does not have the form.

    Raises:
        UserError: there are plain documents and `untagged` is `refuse`; no document has the form in the end.
    """
    kinds = [form_of(document) for document in documents]
    tagged, plain, broken = (kinds.count(kind) for kind in ("tagged", "plain", "broken"))
    if (plain and untagged == "refuse") or tagged + (plain if untagged == "wrap" else 0) == 0:
        raise UserError(_refusal(len(documents), tagged, plain, broken))
    texts: list[str | None] = []
    for document, kind in zip(documents, kinds, strict=True):
        if untagged == "drop" and kind != "tagged":
            texts.append(None)
        else:
            texts.append(wrap(document) if kind == "plain" else document)
    dropped = texts.count(None)
    counts = {
        "documents with the form": tagged,
        "documents wrapped": 0 if dropped else plain,
        "documents with broken tags": 0 if dropped else broken,
        "documents left out": dropped,
    }
    return Documents(texts, {name: count for name, count in counts.items() if count})


def _refusal(documents: int, tagged: int, plain: int, broken: int) -> str:
    """Return the message for documents that cannot teach the form."""
    without = [f"{plain} have none of the tags"] if plain else []
    without += [f"{broken} have some of them, broken"] if broken else []
    ways = ["set models.teacher to let that model write summary and outline"] if plain else []
    ways += ["set sft.untagged=wrap to build them from each document itself"] if plain else []
    ways += [f"set sft.untagged=drop to train on the {tagged} alone"] if tagged else []
    return (
        f"sft: {tagged} of {documents} reference documents have the form {FORM} that the policy is to learn, "
        f"{' and '.join(without)}; {', '.join([*ways, 'or tag them' if ways else 'tag them'])}"
    )


def wrap(document: str) -> str:
    """Wrap a plain document into the tagged form, with a summary and an outline in its own words.

    The summary is the first sentence of the first paragraph. The outline is the headings, one a line, where there are
    at least two; else the first sentence of each paragraph. A document of one sentence is its own summary and outline.

    Args:
        document: a text with something other than white space and none of the tags.

    Returns:
        A text that `scorers.extraction.extract` takes apart again; the document in it is letter by letter the one
        given, white space around it aside.
    """
    headings, paragraphs = outline_of(document)
    sentences = [first_sentence(paragraph) for paragraph in paragraphs or headings]
    outline = "\n".join(headings if len(headings) > 1 else sentences)
    return compose(sentences[0], outline, document)


def outline_of(document: str) -> tuple[list[str], list[str]]:
    """Split a document into its headings, without their marks, and its paragraphs, each on one line.

    A heading is a line with Markdown's marks; a numbered line or a line that stands alone, short and without the end of
    a sentence. In a text without blank lines every line is a paragraph.
    """
    lines = [line.strip() for line in document.strip().splitlines()]
    texts = [line for line in lines if line]
    place = 0  # of the line among those with text
    loose = len(texts) == len(lines)  # without blank lines
    headings: list[str] = []
    paragraphs: list[str] = []
    block: list[str] = []
    for number, line in enumerate(lines):
        alone = loose or (not block and (number + 1 == len(lines) or not lines[number + 1]))
        above = texts[place - 1] if place else None
        below = texts[place + 1] if place + 1 < len(texts) else None
        heading = _heading(line, above, below, alone=alone)
        place += bool(line)
        if block and (loose or not line or heading):
            paragraphs.append(BREAK.sub("", "\n".join(block)))
            block = []
        if heading:
            headings.append(heading)
        elif line:
            block.append(line)
    if block:
        paragraphs.append(BREAK.sub("", "\n".join(block)))
    return headings, [" ".join(paragraph.split()) for paragraph in paragraphs]


def _heading(line: str, above: str | None, below: str | None, *, alone: bool) -> str | None:
    """Return a line's text as a heading, without Markdown's marks; None for a line that is none.

    Args:
        line: the line, without white space around it.
        above: the line with text before it; None at the document's beginning.
        below: the line with text after it; None at its end.
        alone: whether the line is a paragraph of its own.
    """
    if not line or len(line) > HEADING_CHARS:
        return None
    if (marked := MARKED.fullmatch(line)) is not None:
        return next(text.strip() for text in marked.groups() if text)
    ended = any(found.end() == len(line) for found in END.finditer(line)) or line.endswith(UNENDED)
    if ended or below is None:
        return None
    if NUMBERED.fullmatch(line) is not None:
        # The lines of a numbered list follow one another; a heading has text around it.
        listed = any(near is not None and NUMBERED.fullmatch(near) for near in (above, below))
        return None if listed else line
    return line if alone and not line.startswith(LISTED) else None


def first_sentence(paragraph: str) -> str:
    """Return the first sentence of a paragraph on one line; all of it where no sentence ends.

    >>> first_sentence("Dr. Lin measured 3.5 m of silt. Then she left.")
    'Dr. Lin measured 3.5 m of silt.'
    >>> first_sentence("港口扩大了。贸易增长。")
    '港口扩大了。'
    """
    for found in END.finditer(paragraph):
        word = paragraph[paragraph.rfind(" ", 0, found.start()) + 1 : found.start()]
        if not (found.group().startswith(".") and SHORTENED.fullmatch(word)):
            return paragraph[: found.end()]
    return paragraph
