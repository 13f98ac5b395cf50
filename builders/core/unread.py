"""Replies of which nothing could be used: kept beside the parts, one of them quoted in the message.

A file `unread-00000.jsonl` has a line for every such reply of a part. What the policy wrote is data: a reader of the
file parses JSON, and a message shows it escaped and on one line::

    {"prompt": "Here are five requests …", "reply": "Sure! First, let me think …", "finish_reason": "length"}
"""

import json
from collections.abc import Sequence
from pathlib import Path

from builders.store.files import replacing
from scorers.errors import plain

QUOTED = 160  # characters of a reply that a message shows


def keep_unread(folder: Path, part: int, replies: Sequence[tuple[str, str, str]]) -> None:
    """Write the replies of one part that could not be read; nothing where there are none.

    Args:
        folder: folder of the parts' files.
        part: index of the part.
        replies: (prompt, reply, finish reason) each.
    """
    if not replies:
        return
    with replacing(folder / f"unread-{part:05d}.jsonl") as file:
        for prompt, reply, finish_reason in replies:
            row = {"prompt": prompt, "reply": reply, "finish_reason": finish_reason}
            # Half a character, which UTF-8 cannot hold, becomes an escape that JSON knows.
            file.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")


def unread_in(folder: Path, nothing: str) -> str:
    """Return the part of a message that quotes the first unread reply and names its file; empty where there is none.

    Args:
        folder: folder of the parts' files.
        nothing: what was not read from a reply, such as `no query was`.
    """
    files = sorted(folder.glob("unread-*.jsonl"))
    if not files:
        return ""
    with files[0].open(encoding="utf-8") as lines:
        first = json.loads(next(lines))
    cut = ", cut at the length limit" if first["finish_reason"] == "length" else ""
    more = f" and {len(files) - 1} more beside it" if len(files) > 1 else ""
    return f': the first one that {nothing} read from{cut} is "{quoted(first["reply"])}"; all are in {files[0]}{more}'


def quoted(text: str) -> str:
    r"""Return the beginning of a text on one line, with control characters and quotation marks escaped.

    >>> print(quoted('Sure!\n"\x1b[31mred'))
    Sure!\n\"\x1b[31mred
    """
    return plain(text[:QUOTED]).replace('"', '\\"') + ("…" if len(text) > QUOTED else "")
