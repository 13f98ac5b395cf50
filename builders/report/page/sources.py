"""The groups of one or several datasets, in the order of their ids, read a piece at a time.

A dataset is never whole in memory: its ids and the sizes of its texts are read first, then the rows of a few groups.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import polars as pl

from builders.hub.refs import open_revision
from builders.report.page.layout import FLAGS, IDS, Layout, is_messages, layout_of
from builders.report.page.records import criteria_of, part_of, query_of, text_of
from builders.store.revision import Revision
from builders.store.store import Store
from scorers.errors import UserError, plain

PIECE = 16 * 2**20
"""Bytes of texts that are read at once."""
SLICE = 20_000
"""Rows whose queries are read at once where a dataset has no ids."""
ID, ROW = "\0id", "\0row"
"""Names of the columns of ids and of places while rows are read; NUL is in no name of a column that anybody writes."""
NESTED = 200
"""Bytes that a value which is neither text nor messages counts for."""
MAX_PARENTS = 8
"""Datasets that are opened at most for the texts of ratings."""


@dataclass(frozen=True)
class Source:
    """One dataset of the page.

    Attributes:
        revision: the dataset.
        layout: how it is read.
        key: its column of ids; None where ids are computed from the queries.
        groups: `id`, `size` (bytes of texts) and, without a key, `row`: one line for each row then, else for each id.
        texts: datasets with the queries, criteria and responses that ratings are about.
    """

    revision: Revision
    layout: Layout
    key: str | None
    groups: pl.DataFrame
    texts: tuple[Revision, ...] = ()


def source_of(revision: Revision, store: Store) -> Source:
    """Return a dataset as a source of groups; its ids are read.

    Raises:
        UserError: a foreign dataset without texts, or one that is empty or cannot be read.
    """
    with reading(revision):
        return _source_of(revision, store)


@contextmanager
def reading(revision: Revision) -> Iterator[None]:
    """Say which dataset cannot be read.

    Raises:
        UserError: polars cannot read what it needs of the dataset inside.
    """
    try:
        yield
    except pl.exceptions.PolarsError as error:
        reason = plain(str(error).splitlines()[0])
        way = "make it anew" if revision.manifest is None else "run `grace verify` on it"
        raise UserError(f"dataset {revision}: not readable: {reason}; {way}, or name another") from None


def _source_of(revision: Revision, store: Store) -> Source:
    """Return a dataset as a source of groups."""
    schema = revision.schema()
    known = revision.manifest is not None
    layout = layout_of(schema, f"dataset {revision}", known=known, zero_or_one=_zero_or_one(revision, schema))
    # Other people's ids may be numbers in the order of the file, which would be no fair sample.
    key = next((name for name in IDS if known and schema.get(name) == pl.String), None)
    groups = _by_key(revision, layout, key) if key else _by_query(revision, layout)
    if groups.is_empty():
        raise UserError(f"dataset {revision}: has no row, so there is nothing to show; name another revision")
    texts = tuple(_texts_of(revision, store)) if layout.kind == "ratings" else ()
    for parent in texts:
        groups = _with_sizes(groups, parent)
    return Source(revision, layout, key, groups, texts)


def _zero_or_one(revision: Revision, schema: pl.Schema) -> list[str]:
    """Return the integer columns of `FLAGS` in which there is nothing but 0 and 1."""
    numbers = [name for name in FLAGS if name in schema and schema[name].is_integer()]
    if not numbers:
        return []
    held = revision.scan().select(pl.col(numbers).drop_nulls().is_in([0, 1]).all()).collect(engine="streaming")
    return [name for name in numbers if held[name].item()]


def order_of(sources: Sequence[Source]) -> pl.DataFrame:
    """Return `id` and `size` of all groups: those that most sources have first, then in the order of the ids."""
    frames = [source.groups.group_by("id").agg(pl.col("size").sum()) for source in sources]
    counted = pl.concat(frames).group_by("id").agg(pl.col("size").sum(), pl.len().alias("held"))
    return counted.sort([pl.col("held"), pl.col("id")], descending=[True, False]).select("id", "size")


def groups_of(sources: Sequence[Source]) -> Iterator[dict[str, Any]]:
    """Yield the record of each group, in the order of `order_of`; see `records`."""
    order = order_of(sources)
    pieces = order.with_columns(piece=(pl.col("size").cum_sum() - pl.col("size")) // PIECE)
    for _, piece in pieces.group_by("piece", maintain_order=True):
        ids = piece["id"].to_list()
        parts = [_read_parts(source, ids) for source in sources]
        for id_ in ids:
            found = [(number, part[id_]) for number, part in enumerate(parts) if id_ in part]
            yield _group(id_, found)


def _group(id_: str, found: Sequence[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
    """Return the record of a group from what each source says of it."""
    first: dict[str, Any] = {
        key: next((part[key] for _, part in found if part[key]), None) for key in ("query", "base")
    }
    criteria: list[Any] = next((part["criteria"] for _, part in found if part["criteria"]), [])
    parts = [{"source": n, "fields": part["fields"], "responses": part["responses"]} for n, part in found]
    return {"id": id_, "query": first["query"] or "", "base": first["base"], "criteria": criteria, "parts": parts}


def _sizes(layout: Layout, schema: pl.Schema) -> pl.Expr:
    """Return the bytes of the texts of each row, about."""

    def size(name: str) -> pl.Expr:
        if schema[name] == pl.String:
            return pl.col(name).str.len_bytes().fill_null(0).cast(pl.Int64)
        if is_messages(schema[name]) and dict(schema[name].inner)["content"] == pl.String:  # type: ignore[attr-defined]
            each = pl.element().struct.field("content").str.len_bytes()
            return pl.col(name).list.eval(each).list.sum().fill_null(0).cast(pl.Int64)
        return pl.lit(NESTED, pl.Int64)

    return pl.sum_horizontal(pl.lit(0, pl.Int64), *(size(name) for name in layout.read)).alias("size")


def _by_key(revision: Revision, layout: Layout, key: str) -> pl.DataFrame:
    """Return the groups of a dataset that has ids."""
    scan = revision.scan()
    sized = scan.select(pl.col(key).alias("id"), _sizes(layout, scan.collect_schema()))
    return sized.group_by("id").agg(pl.col("size").sum()).collect(engine="streaming")


def _by_query(revision: Revision, layout: Layout) -> pl.DataFrame:
    """Return the rows of a dataset without ids, each with the beginning of the SHA-256 of its query's text."""
    scan = revision.scan()
    sizes = _sizes(layout, scan.collect_schema())
    # Rows without responses stand for themselves, whatever they have in common.
    names = list(layout.read) if layout.kind == "rows" else [layout.query] if layout.query else list(layout.texts)
    frames = []
    for start in range(0, scan.select(pl.len()).collect().item(), SLICE):
        rows = scan.slice(start, SLICE).select(*names, sizes.alias(ID)).collect()
        found = rows.select(names).iter_rows(named=True)
        texts = (text_of(list(row.values())) if layout.kind == "rows" else query_of(layout, row) for row in found)
        ids = [hashlib.sha256(text.encode()).hexdigest()[:16] for text in texts]
        row = pl.Series("row", range(start, start + rows.height), pl.UInt32)
        frames.append(pl.DataFrame({"id": ids, "size": rows[ID], "row": row}))
    return pl.concat(frames) if frames else pl.DataFrame(schema={"id": pl.String, "size": pl.Int64, "row": pl.UInt32})


def _read_parts(source: Source, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return what a source says of some groups, by id.

    Raises:
        UserError: the dataset cannot be read.
    """
    with reading(source.revision):
        return _parts(source, ids)


def _parts(source: Source, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return what a source says of some groups, by id."""
    scan = source.revision.scan()
    if source.key is not None:
        found = scan.filter(pl.col(source.key).is_in(ids)).select(pl.col(source.key).alias(ID), *source.layout.read)
    else:
        wanted = source.groups.filter(pl.col("id").is_in(ids)).select(pl.col("row").alias(ROW), pl.col("id").alias(ID))
        rows = scan.select(source.layout.read).with_row_index(ROW).filter(pl.col(ROW).is_in(wanted[ROW].implode()))
        found = rows.join(wanted.sort(ROW).lazy(), on=ROW, how="left", maintain_order="left").drop(ROW)
    by_id: dict[str, list[dict[str, Any]]] = {}
    for row in found.collect().iter_rows(named=True):
        by_id.setdefault(row.pop(ID), []).append(row)
    parts = {id_: part_of(source.layout, rows) for id_, rows in by_id.items()}
    for parent in source.texts:
        _add_texts(parts, parent)
    return parts


def _texts_of(revision: Revision, store: Store) -> Iterator[Revision]:
    """Yield the datasets that hold the texts which ratings are about, from what the ratings were made from.

    One that is neither in the store nor on the Hub is passed over: its texts are not shown.
    """
    waiting = [revision]
    seen: set[str] = set()
    while waiting and len(seen) < MAX_PARENTS:
        manifest = waiting.pop(0).manifest
        for parent in manifest.parents if manifest else ():
            name = f"{parent.repo}@{parent.revision}"
            if parent.kind != "dataset" or name in seen or len(seen) >= MAX_PARENTS:
                continue
            seen.add(name)
            try:
                found = open_revision(name, store, "dataset")
                names = set(found.schema())
            except UserError:
                continue
            waiting.append(found)
            if "query_id" in names and names & {"response", "criteria"}:
                yield found


def _with_sizes(groups: pl.DataFrame, parent: Revision) -> pl.DataFrame:
    """Return the groups of ratings with the bytes of a dataset of texts added."""
    scan = parent.scan()
    names = [name for name in ("query", "response") if name in scan.collect_schema()]
    sizes = pl.sum_horizontal(pl.col(name).str.len_bytes().fill_null(0).cast(pl.Int64) for name in names)
    texts = scan.group_by(pl.col("query_id").alias("id")).agg(sizes.sum().alias("more")).collect(engine="streaming")
    return groups.join(texts, on="id", how="left").select("id", pl.col("size") + pl.col("more").fill_null(0))


def _add_texts(parts: dict[str, dict[str, Any]], parent: Revision) -> None:
    """Write queries, criteria and responses of a dataset into what ratings say of some groups."""
    scan = parent.scan()
    there = scan.collect_schema()
    names = [name for name in ("query_id", "query", "criteria", *_OF_RESPONSES) if name in there]
    for row in scan.filter(pl.col("query_id").is_in(list(parts))).select(names).collect().iter_rows(named=True):
        part = parts[row["query_id"]]
        part["query"] = part["query"] or text_of(row.get("query"))
        part["criteria"] = part["criteria"] or criteria_of(row.get("criteria"))
        for one in part["responses"]:
            if one["id"] == row.get("response_id"):
                one["text"] = one["text"] or text_of(row.get("response"))
                if row.get("matched") is not None:
                    one["matched"] = row["matched"]
                if row.get("policy"):
                    one["fields"]["policy"] = row["policy"]


_OF_RESPONSES = ("response_id", "response", "matched", "policy")
