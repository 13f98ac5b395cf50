"""Putting untrusted text into a Markdown card so that it stays text.

Queries, responses, file names and model ids come from models and from the Hub. `escape` is what every value of a card
goes through unless a template asks for a code span, a fence or a link; all of them return `Markdown`, which is left
as it is. Rules: CommonMark 0.31 and GitHub's tables and autolinks.
"""

import json
import math
import re
from collections.abc import Mapping

import yaml

HUB = "https://huggingface.co"

_UNSEEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")
_LINE_ENDS = re.compile(r"\r\n?|[\u2028\u2029]")
_SPECIAL = re.compile(r"[\\`*\[\]~<>&|$]|(?<![^\W_])_|_(?![^\W_])|@(?=[\w-]+\.)|\{(?=[{%#])|://|(?<=[wW]{3})\.")
_BLOCK_START = re.compile(r"^(#|\+|-|=|:|\d{1,9}(?=[.)](?: |$)))")
_PLAIN_CODE = re.compile(r"[^\s`|<>&$\\{}](?:[^`|<>&$\\{}]*[^\s`|<>&$\\{}])?")
_BACKTICKS = re.compile(r"`+")
_NAMED_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


class Markdown(str):
    """Text that is Markdown already and is not escaped again."""


def clean(text: str) -> str:
    """Line ends as newlines; control characters, surrogates and marks that reorder text as U+FFFD."""
    return _UNSEEN.sub("\ufffd", _LINE_ENDS.sub("\n", text))


def escape(text: str) -> Markdown:
    """One line of Markdown, fit for a table cell, that renders as the text and as nothing else.

    White space collapses to single blanks. No character can open markup, HTML, a table cell, a link, mathematics or a
    block; no address becomes a link.

    >>> escape("a|b <script> [x](y)")
    'a&#124;b &#60;script&#62; &#91;x&#93;(y)'
    """
    line = " ".join(clean(text).split())
    line = _SPECIAL.sub(lambda match: _entities(match[0]), line)
    return Markdown(_BLOCK_START.sub(lambda match: _entities(match[0]), line))


def _entities(text: str) -> str:
    """The text with its first character as an entity, which never counts as markup."""
    return f"&#{ord(text[0])};{text[1:]}"


def code(text: object) -> Markdown:
    """A code span, fit for a table cell; text that a span cannot hold is escaped inside `<code>`."""
    line = " ".join(clean(str(text)).split())
    if _PLAIN_CODE.fullmatch(line):
        return Markdown(f"`{line}`")
    return Markdown(f"<code>{escape(line)}</code>")


def fence(text: str, language: str = "") -> Markdown:
    """A fenced block that holds the text unchanged: its fence is longer than any run of backticks in it."""
    body = clean(text).rstrip("\n")
    longest = max((len(run) for run in _BACKTICKS.findall(body)), default=0)
    marks = "`" * max(3, longest + 1)
    return Markdown(f"{marks}{language}\n{body}\n{marks}")


def literal(text: str) -> Markdown:
    """A string literal of Python, fit for a fence of three backticks."""
    return Markdown(json.dumps(text).replace("`", r"\u0060"))


def number(value: float) -> str:
    """Four significant digits; whole numbers whole, with thin grouping by commas.

    >>> number(12345), number(0.123456), number(2.0)
    ('12,345', '0.1235', '2')
    """
    if isinstance(value, int) or (math.isfinite(value) and value == round(value) and abs(value) < 1e15):
        return f"{round(value):,}"
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def share(part: int, whole: int) -> str:
    """A part as a percentage with one decimal; a dash where the whole is empty."""
    return f"{100 * part / whole:.1f} %" if whole else "–"


def is_public(repo: str, revision: str, own: str, *, published: bool) -> bool:
    """Whether a repository at a revision can be looked up on the Hub.

    It needs a namespace and a full commit; the store's own namespace `local` is never there, and the namespace of the
    card's repository `own` only once that is published.
    """
    namespace = repo.partition("/")[0]
    mine = own.partition("/")[0]
    named = _NAMED_REPO.fullmatch(repo) is not None and _COMMIT.fullmatch(revision) is not None
    return named and namespace != "local" and (published or namespace != mine)


def reference(repo: str, revision: str, *, public: bool, kind: str = "dataset") -> Markdown:
    """A repository at its revision: a link to the Hub, or plain text marked as local."""
    text = code(f"{repo}@{revision}" if revision else repo)
    if not public:
        return Markdown(f"{text} (local)")
    path = f"datasets/{repo}" if kind == "dataset" else repo
    return Markdown(f"[{text}]({HUB}/{path}/tree/{revision})")


def yaml_text(value: Mapping[str, object]) -> str:
    """A mapping as YAML, in its own order."""
    return yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True, width=100).rstrip("\n")


def row_json(row: Mapping[str, object], longest: int = 240, most: int = 4) -> str:
    """One row as JSON for people: long strings and long lists are cut, and say by how much."""
    return json.dumps({key: _cut(value, longest, most) for key, value in row.items()}, indent=2, ensure_ascii=False)


def _cut(value: object, longest: int, most: int) -> object:
    if isinstance(value, str):
        return value if len(value) <= longest else f"{value[:longest]}… ({len(value) - longest:,} more characters)"
    if isinstance(value, list):
        more = [f"… ({len(value) - most:,} more)"] if len(value) > most else []
        return [_cut(item, longest, most) for item in value[:most]] + more
    if isinstance(value, dict):
        return {key: _cut(item, longest, most) for key, item in value.items()}
    return value


def finalize(value: object) -> object:
    """What the template engine does with each value: text is escaped, Markdown is kept, numbers are written out."""
    if isinstance(value, Markdown):
        return value
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, bool) or value is None:
        return Markdown(json.dumps(value))
    return Markdown(number(value)) if isinstance(value, float) else value
