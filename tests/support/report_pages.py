"""A page taken apart again in Python, as `page.js` does it in the browser, and texts that try to break out of it."""

import base64
import hashlib
import json
import re
import zlib
from pathlib import Path
from typing import Any

from builders.report.page.packing import LITERAL, ONE, TWO

HOSTILE = (
    "</script><script>window.broken = 1</script>",
    '<img src=x onerror="window.broken = 2">',
    "'\"><svg/onload=window.broken=3><!-- <script> ]]> {{ 7 * 7 }} {% raw %}",
    "<!--blocks--> &lt;b&gt; &amp; \\u003c \\n",
    "right to left: \u202ereversed\u202c, \u2066isolated\u2069, \u200f",
    "a null byte \x00 and an escape \x1b[31m, a feed \x0c and a bell \x07",
    "\ufeffmark, \u2028line\u2029paragraph, emoji \U0001f600, 汉字。",
    "javascript:window.broken=4 http://127.0.0.1:9/x.png <link rel=stylesheet href=//127.0.0.1:9/x.css>",
)


def block_bytes(page: str, kind: str) -> list[bytes]:
    """The unpacked bytes of the blocks of one kind."""
    found = re.findall(rf'<script type="text/plain" class="{kind}">([^<]*)</script>', page)
    back = str.maketrans(".,/", "&<>")
    return [zlib.decompress(base64.b85decode(text.translate(back)), -zlib.MAX_WBITS) for text in found]


def decode(data: bytes, words: list[str]) -> str:
    """The text of codes of words."""
    out, at = [], 0
    while at < len(data):
        first = data[at]
        if first < ONE:
            out.append(words[first])
            at += 1
        elif first < ONE + TWO:
            out.append(words[ONE + (first - ONE) * 256 + data[at + 1]])
            at += 2
        elif first < LITERAL:
            out.append(words[ONE + TWO * 256 + (first - ONE - TWO) * 65536 + data[at + 1] * 256 + data[at + 2]])
            at += 3
        else:
            out.append(data[at + 2 : at + 2 + data[at + 1]].decode())
            at += 2 + data[at + 1]
    return "".join(out)


def groups_in(path: Path) -> list[dict[str, Any]]:
    """The records of all groups of a page."""
    page = path.read_text(encoding="utf-8")
    words = block_bytes(page, "words")[0].decode().split("\n")
    return [group for data in block_bytes(page, "groups") for group in json.loads(decode(data, words))]


def index_in(path: Path) -> list[Any]:
    """The lines of a page's index."""
    page = path.read_text(encoding="utf-8")
    return [line for data in block_bytes(page, "index") for line in json.loads(data)]


WORDS = " ".join(f"word{i}" for i in range(3_200))
ODD: dict[str, list[dict[str, Any]]] = {
    "filters": [{"response": "a", "matched": True, "label": False}, {"response": "b", "matched": False, "label": True}],
    "fits both": [{"response": "a", "matched": True, "label": True}, {"response": "b", "matched": False}],
    "blanks": [{"response": "red  cat\nsat"}, {"response": "red cat sat"}],
    "replaced": [{"response": "the red cat sat there"}, {"response": "the blue cat sat there"}],
    "a sign": [{"response": "red cat"}, {"response": "red cat."}],
    "gone last": [{"response": "red cat sat on the mat"}, {"response": "red cat"}],
    "gone within": [{"response": "<answer>red old cat sat</answer>"}, {"response": "<answer>red cat</answer>"}],
    "sentences": [{"response": f"{WORDS}. End."}, {"response": f"{WORDS.replace('word', 'other ')}. End."}],
    "many": [{"response": f"response number {i}", "score": float(i)} for i in range(120)],
    "long": [{"response": "x ".join(f"{i:05}" for i in range(60_000))}, {"response": "short"}],
    "marks": [{"response": "नमस्ते दुनिया"}, {"response": "cafe\u0301 nin\u0303o"}, {"response": "word"}],
    "lines": [{"response": "three zebra\r\nline end\rx"}],
    "numbers": [{"response": "x", "big": 2**53 + 1, "score": 1e300}, {"response": "y", "big": 12_345, "score": 1e20}],
}
"""By query, responses that a page has to show in a way of their own."""


def odd_rows(fillers: int) -> list[dict[str, Any]]:
    """Rows of `ODD` and of some more groups, with columns that have the names of what the page counts itself."""
    rows = [{"prompt": query, **row} for query, several in ODD.items() for row in several]
    rows += [{"prompt": f"filler {i}", "response": f"text {i}", "score": float(i % 7)} for i in range(fillers)]
    empty = {"score": None, "big": None, "matched": None, "label": None}
    return [{**empty, **row, "words": 1.5, "mean rating": 2.5, "": 3.5} for row in rows]


def id_of(query: str) -> str:
    """The id of a group of other people's data."""
    return hashlib.sha256(query.encode()).hexdigest()[:16]
