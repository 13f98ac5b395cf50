"""The user's labelled and unlabelled texts, from tables, M2 files and files of lines, by a mapping of their columns.

    table   {"source": "He go.", "target": "He goes."}        ITERATER, STSB, ASSET of the Hub; references may be lists
    tsv     id <tab> he go . <tab> he goes . …                WNC: columns by number, or by name of its first line
    m2      S He go .  /  A 1 2|||R:VERB|||goes|||…|||0       W&I+LOCNESS, CoNLL-2014: each annotator is a reference
    lines   informal, beside formal.ref0, formal.ref1, …      GYAFC, ASSET: the same line of every file

See docs/editing.md for a mapping of each.
"""

import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl

from builders.core import sources
from builders.core.replies import dropped_in
from builders.core.stage import Source
from builders.core.tables import NoColumn, opened, read_columns
from builders.hub.refs import open_revision
from builders.rationalign.messages import task_of, tasks_of
from builders.rationalign.settings import PairSource, RationAlignSettings
from builders.store.files import file_sha256
from builders.store.manifest import fingerprint_of
from builders.store.revision import Choice, Revision
from builders.store.store import Store
from scorers.errors import UserError
from scorers.maxmatch import Annotated, GoldEdit, read_m2
from scorers.suggestion import has_tag

BLANK = "blank text"
NO_TARGET = "without an edited text"
WITH_TAG = "edited text with a tag of the answers' form"
OTHER_ROWS = "other rows by where and at_least"
SOME = dict[str, Sequence[GoldEdit]]


@dataclass(frozen=True)
class Labelled:
    """One text of a source.

    Attributes:
        task: what is asked for.
        source: the text before.
        references: as people have edited it, the target first; none of an unlabelled text.
        gold: each annotator's edits, of an M2 file; None elsewhere.
    """

    task: str
    source: str
    references: tuple[str, ...]
    gold: Mapping[int, Sequence[GoldEdit]] | None = None


def source_stages(found: Sequence[PairSource], stem: str) -> dict[str, str]:
    """Return the sources by the names under which a stage reads them; those that name a stage become parents."""
    return {f"{stem}-{number}": one.source for number, one in enumerate(found, 1)}


def source_of(config: RationAlignSettings, found: Sequence[PairSource], *, require_pinned: bool) -> Source | None:
    """Return what identifies several sources; None where there is none.

    Raises:
        UserError: as `builders.core.sources.source_of`, and for a file that is missing.
    """
    identities: list[str | list[str]] = []
    for one in found:
        if one.source.startswith("world:"):
            continue
        if one.read_as == "table":
            choice = Choice(one.subset, one.split)
            store = Store(Path(config.store))
            identities.append(sources.source_of(one.source, store, choice, require_pinned=require_pinned).identity)
        else:
            identities.append([file_sha256(_file(path)) for path in (one.source, *one.references)])
    return Source(fingerprint_of(identities)) if identities else None


def read_texts(
    config: RationAlignSettings,
    source: PairSource,
    parent: Revision | None,
    counts: Counter[str],
    *,
    labelled: bool,
) -> Iterator[Labelled]:
    """Yield the texts of a source.

    Args:
        config: the configuration.
        source: the source.
        parent: the dataset of the stage that it names; None for what lies outside.
        counts: rows that are read, and left out by reason.
        labelled: whether a text without an edited form is left out.

    Raises:
        UserError: a file is missing or unreadable, a column is missing, a task is unknown.
    """
    where = f"source {source.source}"
    known: set[str] = set()
    for found in _READERS[source.read_as](config, source, parent, where):
        counts["read"] += 1
        if found is None:
            counts[f"dropped.{OTHER_ROWS}"] += 1
            continue
        if found.task not in known:
            task_of(config, found.task, where)
            known.add(found.task)
        text = found.source.strip()
        given = [reference.strip() for reference in found.references if reference.strip()]
        # What holds a tag of the answers' form could not be read as a suggestion.
        references = tuple(reference for reference in given if not has_tag(reference))
        if not text:
            counts[f"dropped.{BLANK}"] += 1
        elif labelled and given and not references:
            counts[f"dropped.{WITH_TAG}"] += 1
        elif labelled and not references:
            counts[f"dropped.{NO_TARGET}"] += 1
        else:
            yield Labelled(found.task, text, references, found.gold)


def nothing_in(source: str, counts: Mapping[str, int]) -> str:
    """Return in words that a source has no labelled text, and why."""
    if not counts.get("read"):
        return f"{source} has no row; give another file"
    return f"{source} has no text with an edited form ({counts['read']} rows read: {dropped_in(counts)}); mend it"


Found = Iterator[Labelled | None]


def _table(config: RationAlignSettings, source: PairSource, parent: Revision | None, where: str) -> Found:
    columns = source.columns
    texts = [columns.source, *source.where, *source.at_least]
    texts += [columns.task] if source.task is None else []
    lists = [name for name in (columns.target, *columns.references) if name is not None]
    table: Path | pl.LazyFrame
    if parent is not None:
        table = parent.scan()
        # What the world's own dataset has in a list needs no mapping.
        lists += [name for name in ("references",) if name in parent.schema() and name not in lists]
    elif (file := sources.source_file(source.source)) is not None:
        table = file
    else:
        choice = Choice(source.subset, source.split)
        table = open_revision(source.source, Store(Path(config.store)), "dataset", choice=choice).scan()
    try:
        for frame in read_columns(table, list(dict.fromkeys(texts)), where, lists=list(dict.fromkeys(lists))):
            yield from (_row(source, row, lists) for row in frame.iter_rows(named=True))
    except NoColumn as error:
        way = "name the columns: columns: {source: …, target: …, references: […]}"
        raise UserError(f"{error}; {_way_to_a_task(config, source, error.missing) or way}") from None


def _way_to_a_task(config: RationAlignSettings, source: PairSource, missing: Sequence[str]) -> str | None:
    """Return what to do where the column of the task alone is missing; None where others are."""
    if source.task is not None or list(missing) != [source.columns.task]:
        return None
    known = next(iter(tasks_of(config)))
    return f"name the task of all rows, such as task: {known}, or its column: columns: {{task: …}}"


def _tsv(config: RationAlignSettings, source: PairSource, parent: Revision | None, where: str) -> Found:
    path = _file(source.source)
    columns = source.columns
    lists = [name for name in (columns.target, *columns.references) if name is not None]
    wanted = [columns.source, *lists, *source.where, *source.at_least, *([] if source.task else [columns.task])]
    numbered = all(name.isdigit() for name in wanted)
    try:
        frame = pl.read_csv(path, separator="\t", has_header=not numbered, quote_char=None, infer_schema=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"{where} is not readable as tab-separated text: {_said_of_tsv(str(error))}") from None
    if numbered:
        frame = frame.rename({name: str(number) for number, name in enumerate(frame.columns, 1)})
    if missing := [name for name in wanted if name not in frame.columns]:
        there = f"1 to {frame.width}" if numbered else ", ".join(name[:40] for name in frame.columns[:10])
        way = "name those of its first line, or all by number where it has no header, as in columns: {source: '4', …}"
        way = _way_to_a_task(config, source, missing) or way
        raise UserError(f"{where}: no column {', '.join(missing)}; it has {there}: {way}")
    yield from (_row(source, row, lists) for row in frame.iter_rows(named=True))


def _said_of_tsv(error: str) -> str:
    """Return in plain words why a TSV file cannot be read; polars' own first line where that is all there is."""
    if "more fields" in error:
        return "a line has more fields than the first one; take out its tab"
    return (error.splitlines() or ["damaged"])[0]


def _m2(config: RationAlignSettings, source: PairSource, parent: Revision | None, where: str) -> Found:
    task = _one_task(source, where)
    with opened(_file(source.source)) as file, io.TextIOWrapper(file, encoding="utf-8-sig") as lines:
        try:
            for sentence in read_m2(lines, Path(source.source).name):
                whole = (who for who in sorted(sentence.gold) if not overlapping(sentence.gold[who]))
                references = tuple(dict.fromkeys(" ".join(corrected(sentence, who)) for who in whole))
                yield Labelled(task, " ".join(sentence.source), references, sentence.gold)
        except UnicodeDecodeError as error:
            raise UserError(f"{where}: not UTF-8 ({error}); save the file as UTF-8") from None


def overlapping(edits: Sequence[GoldEdit]) -> bool:
    """Whether edits of one annotator change the same word: nobody can tell what text they lead to."""
    ordered = sorted((edit.start, edit.end) for edit in edits)
    return any(before[1] > after[0] for before, after in pairwise(ordered))


def corrected(sentence: Annotated, annotator: int) -> list[str]:
    """Return the words of a sentence with one annotator's edits, of each its first correction."""
    words = list(sentence.source)
    # From the last one on, so that the places of the others stay; of insertions at one place the first comes first.
    for edit in sorted(sentence.gold[annotator], key=lambda e: (e.start, e.end))[::-1]:
        words[edit.start : edit.end] = edit.corrections[0] if edit.corrections else ()
    return words


def _lines(config: RationAlignSettings, source: PairSource, parent: Revision | None, where: str) -> Found:
    task = _one_task(source, where)
    files = [_lines_of(_file(path)) for path in (source.source, *source.references)]
    for path, lines in zip(source.references, files[1:], strict=True):
        if len(lines) != len(files[0]):
            raise UserError(
                f"{where}: {len(files[0])} lines, and {path} has {len(lines)}; the files belong together line by line"
            )
    for text, *references in zip(*files, strict=True):
        yield Labelled(task, text, tuple(references))


_READERS = {"table": _table, "tsv": _tsv, "m2": _m2, "lines": _lines}


def _row(source: PairSource, row: Mapping[str, Any], lists: Sequence[str]) -> Labelled | None:
    """Return the text of a row; None where `where` or `at_least` leave it out."""
    if any(row[name] != value for name, value in source.where.items()):
        return None
    if not all(_number(row[name]) >= value for name, value in source.at_least.items()):
        return None
    texts = [text for name in lists for text in ([row[name]] if isinstance(row[name], str) else row[name] or [])]
    task = source.task or row[source.columns.task] or ""
    return Labelled(task, row[source.columns.source] or "", tuple(texts))


def _number(text: str | None) -> float:
    """Return a text as a number; what is none is less than any."""
    try:
        return float(text) if text is not None else float("-inf")
    except ValueError:
        return float("-inf")


def _one_task(source: PairSource, where: str) -> str:
    if source.task is None:
        raise UserError(f"{where}: its rows name no task; set task, such as task: gec")
    return source.task


def _file(path: str) -> Path:
    if not Path(path).is_file():
        raise UserError(f"source {path}: no such file; name one, or a dataset owner/name")
    return Path(path)


def _lines_of(path: Path) -> list[str]:
    try:
        # A line ends at a line break alone: other signs that Python counts as one may stand in a text.
        with opened(path) as file:
            lines = file.read().decode("utf-8-sig").replace("\r\n", "\n").split("\n")
        return lines[:-1] if lines[-1] == "" else lines
    except UnicodeDecodeError as error:
        raise UserError(f"source {path}: not UTF-8 ({error}); save the file as UTF-8") from None
