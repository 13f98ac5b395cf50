"""A page taken apart again in Python, as `page.js` does it in the browser, and texts that try to break out of it."""

import base64
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
