"""Putting untrusted text into a Markdown card so that it stays text.

Queries, responses, file names and model ids come from models and from the Hub. Every value of a card goes through
`escape` unless a template asks for a code span, a fence or a link. All of these return `Markdown`, which is not escaped
again. Rules: CommonMark 0.31 and GitHub's tables and autolinks.
"""

import json
import math
import re
from collections.abc import Mapping

import yaml

HUB = "https://huggingface.co"

# Control characters, surrogates, and marks that change the direction of text.
_UNSEEN = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)
_LINE_ENDS = re.compile(r"\r\n?|[\u2028\u2029]")
# Whatever opens markup inside a line: emphasis, code, links, HTML, tables, mathematics, templates, autolinks.
_SPECIAL = re.compile(r"[\\`*\[\]~<>&|$]|(?<![^\W_])_|_(?![^\W_])|@(?=[\w-]+\.)|\{(?=[{%#])|://|(?<=[wW]{3})\.")
# Whatever opens a heading, a list, a rule or a table at the start of a line.
_BLOCK_START = re.compile(r"^(#|\+|-|=|:|\d{1,9}(?=[.)](?: |$)))")
# Text that a code span shows as it is, also inside a table and beside mathematics.
_PLAIN_CODE = re.compile(r"[^\s`|<>&$\\{}](?:[^`|<>&$\\{}]*[^\s`|<>&$\\{}])?")
_BACKTICKS = re.compile(r"`+")
_NAMED_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


class Markdown(str):
    """Text that is Markdown already and is not escaped again."""


def clean(text: str) -> str:
    """Return text with newlines as line ends; control characters, surrogates and marks of direction are U+FFFD."""
    return _UNSEEN.sub("\ufffd", _LINE_ENDS.sub("\n", text))


def escape(text: str) -> Markdown:
    """Return one line of Markdown, fit for a table cell, that renders as the text and as nothing else.

    White space collapses to single blanks. No character can open markup, HTML, a table cell, a link, mathematics or a
    block; no address becomes a link.

    >>> escape("a|b <script> [x](y)")
    'a&#124;b &#60;script&#62; &#91;x&#93;(y)'
    """
    line = " ".join(clean(text).split())
    line = _SPECIAL.sub(lambda match: _entities(match[0]), line)
    return Markdown(_BLOCK_START.sub(lambda match: _entities(match[0]), line))


def _entities(text: str) -> str:
    """Return the text with its first character as a numeric entity, which never counts as markup."""
    return f"&#{ord(text[0])};{text[1:]}"


def code(text: object) -> Markdown:
    """Return a code span, fit for a table cell; text that a span cannot hold is escaped inside `<code>`."""
    line = " ".join(clean(str(text)).split())
    if _PLAIN_CODE.fullmatch(line):
        return Markdown(f"`{line}`")
    return Markdown(f"<code>{escape(line)}</code>")


def fence(text: str, language: str = "") -> Markdown:
    """Return a fenced block that holds the text unchanged; the fence is longer than any run of backticks in it."""
    body = clean(text).rstrip("\n")
    longest = max((len(run) for run in _BACKTICKS.findall(body)), default=0)
    marks = "`" * max(3, longest + 1)
    return Markdown(f"{marks}{language}\n{body}\n{marks}")


def literal(text: str) -> Markdown:
    """Return a string literal of Python, fit for a fence of three backticks."""
    # A JSON string is a Python literal too; a backtick, which could end the fence, is written as an escape.
    return Markdown(json.dumps(text).replace("`", r"\u0060"))


def number(value: float) -> str:
    """Return a number with four significant digits, a whole one with all its digits and commas between thousands.

    >>> number(12345), number(0.123456), number(2.0)
    ('12,345', '0.1235', '2')
    """
    if isinstance(value, int) or (math.isfinite(value) and value == round(value) and abs(value) < 1e15):
        return f"{round(value):,}"
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def share(part: int, whole: int) -> str:
    """Return a part as a percentage with one decimal; a dash where the whole is empty."""
    return f"{100 * part / whole:.1f} %" if whole else "–"


def is_public(repo: str, revision: str, own: str, *, published: bool) -> bool:
    """Whether a repository at a revision can be looked up on the Hub.

    Args:
        repo: needs a namespace; the store's own namespace `local` is never on the Hub.
        revision: needs to be a full commit.
        own: the card's own repository; its namespace counts only once it is published.
        published: whether the card's revision and its parents are on the Hub.
    """
    namespace = repo.partition("/")[0]
    mine = own.partition("/")[0]
    named = _NAMED_REPO.fullmatch(repo) is not None and _COMMIT.fullmatch(revision) is not None
    return named and namespace != "local" and (published or namespace != mine)


def reference(repo: str, revision: str, *, public: bool, kind: str = "dataset") -> Markdown:
    """Return a repository at its revision: a link to the Hub, or plain text marked as local."""
    text = code(f"{repo}@{revision}" if revision else repo)
    if not public:
        return Markdown(f"{text} (local)")
    path = f"datasets/{repo}" if kind == "dataset" else repo
    return Markdown(f"[{text}]({HUB}/{path}/tree/{revision})")


def yaml_text(value: Mapping[str, object]) -> str:
    """Return a mapping as YAML, its keys in their own order."""
    return yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True, width=100).rstrip("\n")


def row_json(row: Mapping[str, object], longest: int = 240, most: int = 4) -> str:
    """Return one row as JSON for people.

    Args:
        row: values by column.
        longest: characters after which a string is cut; the text says by how many.
        most: items after which a list is cut; the text says by how many.
    """
    return json.dumps({key: _cut(value, longest, most) for key, value in row.items()}, indent=2, ensure_ascii=False)


def _cut(value: object, longest: int, most: int) -> object:
    """Return a value with long strings and lists cut, at any depth."""
    if isinstance(value, str):
        return value if len(value) <= longest else f"{value[:longest]}… ({len(value) - longest:,} more characters)"
    if isinstance(value, list):
        more = [f"… ({len(value) - most:,} more)"] if len(value) > most else []
        return [_cut(item, longest, most) for item in value[:most]] + more
    if isinstance(value, dict):
        return {key: _cut(item, longest, most) for key, item in value.items()}
    return value


def finalize(value: object) -> object:
    """Prepare each value that a template prints: escape text, keep Markdown, write numbers out.

    The template engine calls this for every expression, so a template cannot forget to escape.
    """
    if isinstance(value, Markdown):
        return value
    if isinstance(value, str):
        return escape(value)
    # Before numbers: in Python a bool is an int.
    if isinstance(value, bool) or value is None:
        return Markdown(json.dumps(value))
    return Markdown(number(value)) if isinstance(value, float) else value
