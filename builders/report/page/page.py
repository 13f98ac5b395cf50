"""Writing the page: one HTML file with everything in it, which asks no server for anything.

The texts lie in it packed (`packing`), in blocks of some groups each, which `page.js` unpacks when a group is shown; an
index with a line for each group is there at once. A content security policy allows the page's own script and style, by
their hashes, and pictures in the page; every other request of the page is refused by the browser. The same revisions
give the same bytes.
"""

import base64
import errno
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from builders.core.evaluation_table import Table
from builders.report.page.packing import characters, codes_of, deflate, encode, vocabulary_of
from builders.report.page.sources import Source, groups_of, order_of, source_of
from builders.report.page.summary import Overview, overviews_of
from builders.store.files import replacing
from builders.store.revision import Revision
from builders.store.store import Store
from scorers.errors import UserError

FOLDER = Path(__file__).parent
MAX_MB = 60
"""Megabytes (10^6 bytes) that a page may have."""
BLOCK = 2**16
"""Characters of JSON that a block holds at least; one group is never split."""
LEARNT = 16 * 2**20
"""Characters of the first groups, from which the vocabulary is made."""
INDEX = 256
"""Groups of a block of the index."""
SHORT = 160
"""Characters of a query that the index holds, which are what the search box looks through at once."""
SLACK = 2**12
"""Bytes kept free for the numbers that are known last."""
HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Control characters, and marks that turn the direction of a text."""
BLOCKS = "<!--blocks-->"
"""Where the blocks go; escaped text cannot hold it."""


@dataclass(frozen=True)
class Written:
    """A page that was written.

    Attributes:
        path: the file.
        bytes: its size.
        groups: groups that it shows.
        of: groups of all its datasets.
    """

    path: Path
    bytes: int
    groups: int
    of: int

    @property
    def line(self) -> str:
        """What the page and the command say of the groups shown; empty where there are none."""
        if not self.of:
            return ""
        if self.groups == self.of:
            return "the one group shown" if self.of == 1 else f"all {self.of:,} groups shown"
        return f"{self.groups:,} of {self.of:,} groups shown: {RULE}"


RULE = (
    "whole groups in the order of their ids, which are hashes of their queries, until the page is full; those that "
    "most of the datasets have come first"
)


@dataclass
class _Packed:
    """Blocks as they are written.

    Attributes:
        file: takes the blocks.
        room: bytes that may still be written.
        groups: groups in the blocks.
        blocks: blocks so far.
        index: lines of the index that are not in a block yet.
    """

    file: IO[bytes]
    room: int
    groups: int = 0
    blocks: int = 0
    index: list[str] = field(default_factory=list)

    def write(self, kind: str, data: bytes) -> None:
        """Write a block."""
        self.room -= self.file.write(block(kind, data))


def block(kind: str, data: bytes) -> bytes:
    """Return a block as the page holds it: text that the browser does not run."""
    return b'<script type="text/plain" class="%s">%s</script>\n' % (kind.encode(), characters(data))


def write_page(
    path: Path,
    revisions: Sequence[Revision],
    store: Store,
    *,
    meanings: Mapping[str, str] | None = None,
    tables: Sequence[Table] = (),
    lineage: Sequence[Table] = (),
    pictures: Sequence[tuple[str, bytes]] = (),
    max_mb: float = MAX_MB,
) -> Written:
    """Write the page of one or several revisions.

    Args:
        path: the file; it is replaced as a whole.
        revisions: datasets, whose groups the page shows side by side, and models.
        store: the local store, for the texts that ratings are about.
        meanings: by column, what it means.
        tables: comparisons to show, such as those of an evaluation.
        lineage: a table of each revision's lineage.
        pictures: titles and SVG files.
        max_mb: megabytes that the page may have; beyond that not every group is shown, see `RULE`.

    Raises:
        UserError: a dataset without texts to show, an empty one, and a page that has no room for a single group.
    """
    path = require_file(path)
    if not math.isfinite(max_mb):
        raise UserError(f"--max-mb {max_mb}: give a number of megabytes, such as {MAX_MB}")
    sources = [source_of(revision, store) for revision in revisions if not _is_model(revision)]
    total = order_of(sources).height if sources else 0
    values = {
        "overviews": overviews_of(revisions),
        "tables": tables,
        "lineage": lineage,
        "pictures": [(title, base64.b64encode(svg).decode()) for title, svg in pictures],
        "config": _config(sources, meanings or {}),
    }
    unfilled = _render(values, Written(path, 0, total, total))
    with TemporaryFile() as file:
        packed = _Packed(file, int(max_mb * 10**6) - len(unfilled.encode()) - SLACK)
        if packed.room < 0:
            raise UserError(
                f"--max-mb {max_mb:g}: the page without a group has {len(unfilled) / 1e6:.2f} MB; give more"
            )
        _pack(sources, packed)
        if total and not packed.groups:
            raise UserError(f"--max-mb {max_mb:g}: not even the first group fits; give more")
        head, tail = _render(values, Written(path, 0, packed.groups, total)).encode().split(BLOCKS.encode())
        file.seek(0)
        with _writing(path) as page:
            page.write(head)
            while piece := file.read(2**20):
                page.write(piece)
            page.write(tail)
    return Written(path, path.stat().st_size, packed.groups, total)


def require_file(path: Path) -> Path:
    """Check that a file can stand there, make its folder, and return its path; of a link, of what it leads to.

    Raises:
        UserError: it is a folder or a device, or a file stands in the place of a folder above it.
    """
    if path.is_dir() or not path.name:
        raise UserError(f"--output {path}: is a folder; name a file, such as {path / 'report.html'}")
    if path.exists() and not path.is_file():
        raise UserError(f"--output {path}: is a device or a pipe; name a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"--output {path}: {path.parent} is a file, not a folder; name another file") from None
    except OSError as error:
        raise UserError(f"--output {path}: {path.parent}: {error.strerror}; name another file") from None
    return path.resolve() if path.is_symlink() else path


@contextmanager
def _writing(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file that replaces the page at the end.

    Raises:
        UserError: it cannot be written there, but for a full disk, which is told as everywhere.
    """
    try:
        with replacing(path) as file:
            yield file
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise UserError(f"--output {path}: cannot be written: {error.strerror}; name another file") from None


def _is_model(revision: Revision) -> bool:
    """Whether a revision is a model, of which no group can be shown."""
    return revision.manifest is not None and revision.manifest.kind == "model"


def _pack(sources: Sequence[Source], packed: _Packed) -> None:
    """Write vocabulary, groups and index, as many groups as there is room for."""
    if not sources:
        return
    texts = ((_index_line(group, sources), _json(group)) for group in groups_of(sources))
    learnt, held = [], 0
    for one in texts:
        learnt.append(one)
        held += len(one[1])
        if held >= LEARNT:
            break
    vocabulary = vocabulary_of((text for _, text in learnt), packed.room // 8)
    packed.write("words", deflate("\n".join(vocabulary).encode()))
    codes = codes_of(vocabulary)
    for groups in _blocks(_chained(learnt, texts)):
        fitting = _write_groups(groups, codes, packed)
        if fitting < len(groups):
            break
    if packed.index:
        _write_index(packed)


def _chained(first: list[tuple[str, str]], rest: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield a list, which is emptied, and what comes after it."""
    first.reverse()
    while first:
        yield first.pop()
    yield from rest


def _blocks(groups: Iterable[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    """Yield index lines and JSON of the groups of one block after the other."""
    found: list[tuple[str, str]] = []
    size = 0
    for group in groups:
        found.append(group)
        size += len(group[1])
        if size >= BLOCK:
            yield found
            found, size = [], 0
    if found:
        yield found


def _write_groups(groups: Sequence[tuple[str, str]], codes: dict[str, bytes], packed: _Packed) -> int:
    """Write a block of as many of some groups as there is room for, and return their number."""
    for count in range(len(groups), 0, -1):
        data = deflate(encode("[" + ",".join(text for _, text in groups[:count]) + "]", codes))
        lines = [f"[{packed.blocks},{place},{line[1:]}" for place, (line, _) in enumerate(groups[:count])]
        # The index is counted as it is before it is packed, until its block is written.
        if len(block("groups", data)) + sum(map(len, (*packed.index, *lines))) <= packed.room:
            packed.write("groups", data)
            packed.blocks += 1
            packed.groups += count
            packed.index += lines
            while len(packed.index) >= INDEX:
                _write_index(packed)
            return count
    return 0


def _write_index(packed: _Packed) -> None:
    """Write a block of the index."""
    lines, packed.index = packed.index[:INDEX], packed.index[INDEX:]
    packed.write("index", deflate(f"[{','.join(lines)}]".encode()))


def _index_line(group: dict[str, Any], sources: Sequence[Source]) -> str:
    """Return what is known of a group before its block is unpacked, as JSON.

    `[id, query, [[source, responses, matched, unmatched, positive, negative, [mean of each metric], both], …]]`; `both`
    counts the responses that are matched and positive, matched and negative, unmatched and positive, and so on.
    """
    # Prompts for edits begin alike; what is edited tells one from another.
    text = " ".join((group["base"] or group["query"]).split())
    query = text if len(text) <= SHORT else f"{text[:SHORT]}…"
    parts = []
    for part in group["parts"]:
        found = part["responses"]
        counts = [
            sum(one.get(key) is value for one in found) for key in ("matched", "label") for value in (True, False)
        ]
        pairs = Counter((one.get("matched"), one.get("label")) for one in found)
        both = [pairs[matched, label] for matched in (True, False) for label in (True, False)]
        columns = zip(*(one["values"] for one in found), strict=True)
        parts.append([part["source"], len(found), *counts, [_mean(column) for column in columns], both])
    return _json([group["id"], query, parts])


def _mean(values: Sequence[float | str | None]) -> float | None:
    """Return the mean of the values that are there; whole numbers too large for a browser are texts."""
    there = [float(value) for value in values if value is not None]
    mean = float(f"{sum(there) / len(there):.4g}") if there else math.nan
    return mean if math.isfinite(mean) else None


def _json(value: object) -> str:
    """Return JSON on one line."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _config(sources: Sequence[Source], meanings: Mapping[str, str]) -> dict[str, Any]:
    """Return what the script has to know of the datasets."""
    return {
        "sources": [
            {
                "name": _names(sources)[place],
                "ref": f"{source.revision.repo}@{source.revision.revision[:12]}",
                "kind": source.layout.kind,
                "based": source.layout.base is not None,
                "metrics": [
                    {"name": name, "meaning": meanings.get(name, ""), "ranked": name in source.layout.ranks}
                    for name in source.layout.metrics
                ],
            }
            for place, source in enumerate(sources)
        ]
    }


def _names(sources: Sequence[Source]) -> list[str]:
    """Return a short name of each dataset: its repository's, with round and revision where others share it."""
    repos = [source.revision.repo.rpartition("/")[2] for source in sources]
    rounds = [m.round if (m := source.revision.manifest) else 0 for source in sources]
    named = [f"{repo}, round {round_}" if round_ else repo for repo, round_ in zip(repos, rounds, strict=True)]
    revisions = [source.revision.revision[:8] for source in sources]
    return [
        name if named.count(name) == 1 else f"{name} ({revision})"
        for name, revision in zip(named, revisions, strict=True)
    ]


def _render(values: Mapping[str, Any], written: Written) -> str:
    """Return the page with a mark where the blocks go."""
    overviews: Sequence[Overview] = values["overviews"]
    css, script = ((FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    config = _json(values["config"])
    for character in "<>&":
        config = config.replace(character, f"\\u{ord(character):04x}")
    return environment.get_template("page.html.jinja").render(
        values,
        title=", ".join(one.name for one in overviews),
        shown=written.line,
        groups=written.groups,
        css=css,
        script=script,
        css_hash=_hash(css),
        script_hash=_hash(script),
        config=config,
        blocks=BLOCKS,
    )


def _visible(value: object) -> object:
    """Return a text with control characters, and marks that turn the direction of a text, as `U+202E`."""
    if type(value) is not str:
        return value
    return "".join(f"U+{ord(c):04X}" if HIDDEN.match(c) else c for c in value)


def _hash(text: str) -> str:
    """Return the hash by which the content security policy knows a script or a style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
