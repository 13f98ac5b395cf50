"""Reading generated queries out of a model's reply (§3.2), which is parsed and never evaluated.

A reply should hold a Python list of strings. Models also write JSON, Chinese quotes and commas, quotes inside quotes
without a backslash, and lists that end at the length limit. Every list of the reply is read, string by string; a
string whose end or whose value is doubtful is counted as unreadable and left out, so no query is half of another one or
two in one. Each character is looked at a bounded number of times, so the time is linear in the length of the reply.
"""

import ast
import re
from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple

from scorers.extraction import SPACES

QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "「": "」", "『": "』"}  # by the opening one, the closing one
OPEN, CLOSE, COMMA = "[［【", "]］】", ",，、"
FENCE = "```"
LOOK = 400  # characters read beyond a quote to tell whether a string ends there; bounds the work on hostile text

# Patterns are possessive (++, *+): they never try a second way to match, which on hostile text takes for ever.
_GAP = r"(?:\s++|#[^\n]*+)*+"  # white space and Python comments
_STRING = r"(?:(?P<prefix>[rRuUbBfF]{1,2})(?=[\"']))?(?P<quote>[\"'“‘「『])"
_VALUE = r"(?:None|null|[Tt]rue|[Ff]alse|\.{3}|…|-?\d++(?:\.\d++)?)"  # an item that is no string
_GAP_RE, _STRING_RE, _OPEN_RE = re.compile(_GAP), re.compile(_STRING), re.compile(f"[{re.escape(OPEN)}]")
_VALUE_RE = re.compile(rf"{_VALUE}(?={_GAP}(?:[{COMMA}{re.escape(CLOSE)}]|\Z))")
_LIST_RE = re.compile(rf"{_GAP}(?:{_VALUE}{_GAP}[{COMMA}]{_GAP})*+{_STRING}")  # what follows a list's bracket
_OBJECTS_RE = re.compile(rf"{_GAP}[{{(]{_GAP}[\"']")  # a list of dictionaries or tuples
_KEY_RE = re.compile(r"""(?<=[A-Za-z0-9_])\[\s*+(["'])[^"'\n\[\]]{0,80}\1\s*+\]""")  # reply["queries"]
_BRACKET_RE = re.compile(f"[{re.escape(OPEN + CLOSE)}]")
# What may be of interest inside a string, and where a line begins that cannot belong to it, by the opening quote.
_INSIDE = {a: re.compile(rf"[\\\n{a}{b}]") for a, b in QUOTES.items()}
_NEXT_LINE = {
    a: re.compile(rf"\n[ \t]*+(?:[{re.escape(CLOSE)}]|[{re.escape(OPEN)}]?[ \t]*+{a}|{FENCE})") for a in QUOTES
}
_TRIPLE = {a: re.compile(rf"(?:[^\\]|\\.)*?{a * 3}", re.DOTALL) for a in "\"'"}
_ESCAPE = re.compile(r"\\(.)|[\"\n\r\0]", re.DOTALL)
# Where two strings may be one: a curly quote that closes, a comma, and one that opens.
_SEAM = re.compile(rf"[”’」』]\s*+[{COMMA}]\s*+[“‘「『]")
# A string for guided decoding, not blank at first: no straight double quote, backslash or control character, and no <,
# with which tags and tokens without a text begin. Curly and corner quotes come in pairs, since one that is left over
# can look like a seam; an apostrophe is inside a word.
_HELD = r"\"<\\\x00-\x1f\x7f“”‘’「」『』"
_PLAIN = rf"(?:[^{_HELD}]|’[a-z])"
_PAIR = "|".join(f"{a}{_PLAIN}*{b}" for a, b in (("“", "”"), ("‘", "’"), ("「", "」"), ("『", "』")))
_HELD_STRING = rf'"(?:[^{_HELD}{SPACES}]|{_PAIR})(?:{_PLAIN}|{_PAIR})*"'
_KNOWN_ESCAPES = frozenset("abfnrtvxuUN01234567\\'\"\n")  # Python's; a backslash before anything else stands for itself


class Parsed(NamedTuple):
    """What a reply holds; all three are empty or 0 where it has no list of strings, and the reply itself is lost.

    Attributes:
        queries: the strings of all lists in order, as they are written: blank ones and repetitions too.
        unreadable: strings and other items that are left out: cut, without a clear end, joined to the next one by a
            missing comma, with an escape that means nothing, or no plain string at all.
        repeated: strings that are left out since the prompt showed them.
    """

    queries: list[str]
    unreadable: int
    repeated: int


def read_queries(reply: str, shown: Collection[str] = ()) -> Parsed:
    """Read every list of strings in a reply: bare, inside `queries.extend([...])`, or in a code fence; never raises.

    Args:
        reply: a model's text; nothing of it is evaluated.
        shown: texts in the prompt that are no new queries, see `shown_by`; white space and case do not count.

    >>> read_queries('Sure: queries.extend(["Write a report", \\'Don\\'t stop\\', "Wri', ["write a  report"])
    Parsed(queries=["Don't stop"], unreadable=1, repeated=1)
    """
    text = _whole_characters(reply)
    strings: list[str] = []
    unreadable = position = 0
    while found := _OPEN_RE.search(text, position):
        start, position = found.span()
        if key := _KEY_RE.match(text, start):
            position = key.end()
        elif _LIST_RE.match(text, position, position + LOOK):
            read, lost, position = _read_list(text, start)
            strings += read
            unreadable += lost
        elif _OBJECTS_RE.match(text, position, position + LOOK):
            # Strings inside may be keys, or lists of sections: no query can be told from them.
            unreadable += 1
            position = _after_list(text, position, depth=1)
    known = {_plain(string) for string in shown}
    queries = [string for string in strings if _plain(string) not in known]
    return Parsed(queries, unreadable, len(strings) - len(queries))


def list_pattern(count: int) -> str:
    """Return the regular expression of a list of so many strings, as the prompts ask for it, for guided decoding.

    `read_queries` reads every string of what it matches. It has no look-around and no `\\s`, which engines of guided
    decoding know differently or not at all.

    >>> bool(re.fullmatch(list_pattern(2), '["Write a report", "写一份“五年”规划"]'))
    True
    """
    return rf"\[{_HELD_STRING}(?:, {_HELD_STRING}){{{count - 1}}}\]"


def shown_by(prompt: str, examples: Sequence[str]) -> list[str]:
    """Return what a reply may repeat from its prompt: the example queries and the strings of the prompt's own list.

    Args:
        prompt: text of the prompt file, before the examples are put in.
        examples: the example queries.
    """
    return [*examples, *read_queries(prompt).queries]


def _read_list(text: str, position: int) -> tuple[list[str], int, int]:
    """Read one list, the lists in it included.

    Args:
        text: the reply.
        position: of the opening bracket.

    Returns:
        The strings, the number of unreadable items, and the position after the list.
    """
    strings: list[str] = []
    lost = depth = 0
    joined = False  # whether the string before stands beside this one without a comma
    while (position := _after_gap(text, position)) < len(text) and not text.startswith(FENCE, position):
        char = text[position]
        if char in OPEN or char in CLOSE:
            depth += 1 if char in OPEN else -1
            position += 1
            if depth == 0:
                break
        elif char in COMMA:
            position += 1
        elif opening := _STRING_RE.match(text, position):
            body, end, state = _read_string(text, opening.start("quote"))
            value = (
                None
                if joined or _is_glued(body) or state != "whole"
                else _value_of(body, (opening["prefix"] or "").lower())
            )
            if value is None:
                lost += 1
            else:
                strings.append(value)
            joined = state == "joined"
            position = end
            if state == "broken" and _OPEN_RE.match(text, _after_gap(text, end)):
                break  # another list begins on the next line
        elif value_item := _VALUE_RE.match(text, position):
            lost += 1
            position = value_item.end()
        else:  # an expression or prose: where the next item begins cannot be told
            return strings, lost + 1, _after_list(text, position, depth)
    return strings, lost, position


State = Literal["whole", "joined", "broken"]


def _read_string(text: str, start: int) -> tuple[str, int, State]:
    """Find the end of a string, with quotes of its own kind inside that should have had a backslash.

    A quote ends the string only where a comma and another item, or the end of the list follows. Quotes inside come in
    pairs, and the second one of a pair does not end the string: in `"Compare "a", "b" and "c"", "d"` the first string
    ends after `"c"`. Apostrophes in words, after a plural's s, and signs for inches are text; with any other quote that
    has no partner the string is doubtful.

    Args:
        text: the reply.
        start: position of the opening quote.

    Returns:
        The text between the quotes, the position after the closing one, and whether the string is `whole`, `joined` to
        a string that follows without a comma, or `broken`: cut, doubtful, or with an end that cannot be told.
    """
    quote, closing = text[start], QUOTES[text[start]]
    if quote == closing and text.startswith(quote * 3, start):
        found = _TRIPLE[quote].match(text, start + 3)
        if found is None:
            return "", len(text), "broken"
        return text[start + 3 : found.end() - 3], found.end(), _state_after(text, found.end()) or "broken"
    position, nested, doubtful = start + 1, 0, False
    while found := _INSIDE[quote].search(text, position):
        at, position = found.span()
        char = text[at]
        if char == "\\":
            position += 1  # an escape: the next character is part of the string
        elif char == "\n":
            if _NEXT_LINE[quote].match(text, at):
                return "", at, "broken"
        elif char == quote != closing:
            nested += 1
        elif char in "\"'’" and _in_word(text[at - 1]) and _in_word(text[position : position + 1]):
            continue  # an apostrophe
        elif nested:
            nested -= 1
        elif state := _state_after(text, position):
            # A reply that is cut after a blank and a quote ends where a quotation in the string was to begin.
            cut = text[at - 1].isspace() and _after_gap(text, position) == len(text)
            return text[start + 1 : at], position, "broken" if state == "whole" and (cut or doubtful) else state
        elif quote == closing and _opens(text, at):
            nested = 1
        elif quote != closing or not (text[at - 1].isdigit() or text[at - 1 : position] in ("s'", "S'")):
            doubtful = True  # not 5" and not workers'
    return "", len(text), "broken"


def _state_after(text: str, position: int) -> State | None:
    """Tell a string's end by what follows a quote; None where the quote is text inside the string."""
    if _ends(text, position):
        return "whole"
    at = _after_gap(text, position, LOOK)
    following = _STRING_RE.match(text, at)
    # A letter right after the quote is the string's text, as in "b", and no prefix of another string.
    if following is None or (at == position and following["prefix"]):
        return None
    # Of two quotes side by side, the second one ends the string where it can: the first one is text, as in "5"".
    doubled = at == position and text[at] == text[position - 1] and _ends(text, at + 1)
    return None if doubled else "joined"


def _ends(text: str, position: int) -> bool:
    """Whether a list goes on or ends here: a comma and another item, a closing bracket, or the end of the text."""
    at = _after_gap(text, position, LOOK)
    if at < len(text) and text[at] in COMMA:
        at = _after_gap(text, at + 1, LOOK)
        if _STRING_RE.match(text, at) or _VALUE_RE.match(text, at, at + LOOK) or _OPEN_RE.match(text, at):
            return True
    return at == len(text) or text[at] in CLOSE or text.startswith(FENCE, at)


def _opens(text: str, at: int) -> bool:
    """Whether a straight quote begins a quotation: something follows it, and no word of a spaced script ends before."""
    following = text[at + 1 : at + 2]
    if not following or following.isspace():
        return False
    # 写"五年"规划 and AI"赋能": in Chinese nothing but the order of the quotes tells them apart.
    return not _in_word(text[at - 1]) or (following.isalpha() and not _in_word(following))


def _is_glued(body: str) -> bool:
    """Whether a string holds the seam of two, whose first curly quote closes nothing: `"a”, “b"`."""
    seam = _SEAM.search(body)
    return seam is not None and not any(quote in body[: seam.start()] for quote in "“‘「『")


def _in_word(char: str) -> bool:
    """Whether a character belongs to a word of a script that puts blanks between words, or to a number."""
    return char.isdigit() or char.lower() != char.upper()


def _after_gap(text: str, position: int, look: int | None = None) -> int:
    """Return the position after white space and comments, of which at most `look` characters are passed over."""
    found = _GAP_RE.match(text, position, len(text) if look is None else position + look)
    return position if found is None else found.end()


def _after_list(text: str, position: int, depth: int) -> int:
    """Return the position after the bracket that closes a list, found by counting; the text's end where none does."""
    for bracket in _BRACKET_RE.finditer(text, position):
        depth += 1 if bracket[0] in OPEN else -1
        if depth == 0:
            return bracket.end()
    return len(text)


def _value_of(body: str, prefix: str) -> str | None:
    """Return what a string literal stands for; None for one that is no plain string, or holds a bad escape.

    A JSON string is a Python literal too, but for halves of characters and a backslash before a slash, which stays.

    Args:
        body: the text between the quotes.
        prefix: the letters before the opening quote, in lower case.
    """
    if prefix == "r":
        return body
    if prefix not in ("", "u"):
        return None
    try:
        value = ast.literal_eval(f'"{_ESCAPE.sub(_escaped, body)}"')
    except (ValueError, SyntaxError):
        return None
    return _whole_characters(value) if isinstance(value, str) else None


def _escaped(found: re.Match[str]) -> str:
    """Return a quote, line end or backslash as a literal in straight double quotes has to write it."""
    if found[1] is None:
        return f"\\x{ord(found[0]):02x}"
    return found[0] if found[1] in _KNOWN_ESCAPES else f"\\{found[0]}"


def _plain(text: str) -> str:
    """Return a text for comparison, without regard to white space and case."""
    return " ".join(text.split()).casefold()


def _whole_characters(text: str) -> str:
    """Return text that UTF-8 can hold.

    A pair of surrogate escapes becomes the character that it spells, a single surrogate the replacement character.
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
