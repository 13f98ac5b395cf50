"""What the columns of a dataset are to a reader: query, text, metrics, label, fields; by their names and types alone.

Datasets of this project and of other people are read alike:

    responses    query or prompt, and response or completion (or suggestion, beside the source that it edits)
    preferences  chosen and rejected, with or without a prompt
    ratings      response_id, criterion and score; the texts stand in the datasets that they were made from
    edits        source and target
    rows         anything else of this project: one row is one entry, without responses
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from builders.store.columns import MESSAGES
from scorers.errors import UserError

Kind = Literal["responses", "preferences", "ratings", "edits", "rows"]
QUERIES = ("query", "prompt", "source", "request", "text")
"""Columns that hold what a group is about; the first one that is there counts."""
IDS = ("query_id", "text_id", "pair_id", "request_id", "subdomain_id")
"""Columns of this project by which the rows of a group belong together; all are hashes of texts."""
SIDES = (("chosen", "rejected"), ("winner", "loser"))
"""Ends of the names of columns that belong to one side of a preference."""
_NUMBERS = {"round", "sample_seed", "fold", "index", "attempts", "repeat", "temperature", "top_p"}
"""Numbers that are no metrics."""
_TOLD: dict[Kind, tuple[str, ...]] = {
    "responses": ("label", "matched", "response_id"),
    "preferences": ("samples", "metrics", "contest_id"),
    "ratings": ("response_id", "criterion", "score", "reason", "repeat", "attempts"),
    "edits": ("references",),
    "rows": (),
}
"""By kind, columns with a place of their own."""
FLAGS = ("label", "matched")
"""Columns that are told as a label and a form, where they hold truth values."""
_PARTS = {"summary", "outline", "document", "prompt", "completion", "response", "suggestion", "chosen", "rejected"}
"""Columns of this project that repeat a part of what is shown already."""


@dataclass(frozen=True)
class Layout:
    """How the rows of one dataset are read.

    Attributes:
        kind: what a row is.
        query: column of what the group is about; None where a preference's two sides hold it.
        texts: columns of the texts: one of a response, two of a preference, none of ratings and rows.
        whole: for each of `texts`, the column of the whole reply that the text was taken from; None for none.
        base: column of the text before an edit.
        metrics: names of the metrics; of a preference without the side at their end.
        columns: by metric, its columns: one, or one for each side.
        ranks: by metric, the column of its rank in the group.
        fields: columns that are shown as they are.
        flags: those of `FLAGS` that hold truth values.
        read: every column that is read.
    """

    kind: Kind
    query: str | None
    texts: tuple[str, ...]
    whole: tuple[str | None, ...]
    base: str | None
    metrics: tuple[str, ...]
    columns: dict[str, tuple[str, ...]]
    ranks: dict[str, str]
    fields: tuple[str, ...]
    flags: tuple[str, ...]
    read: tuple[str, ...]


def layout_of(schema: pl.Schema, what: str, *, known: bool, zero_or_one: Collection[str] = ()) -> Layout:
    """Return how a dataset is read.

    Args:
        schema: its columns.
        what: names the dataset in the error message.
        known: whether this project made it; then every dataset can be shown.
        zero_or_one: columns of integers that hold 0 and 1 alone.

    Raises:
        UserError: for a foreign dataset that has neither queries with responses nor pairs.
    """
    names = set(schema.names())
    query = next((name for name in QUERIES[: None if known else 2] if _is_text(schema.get(name))), None)
    reply = next((name for name in ("suggestion", "response", "completion") if _is_text(schema.get(name))), None)
    kind: Kind = "rows"
    texts: tuple[str, ...] = ()
    if known and {"response_id", "criterion", "score"} <= names:
        # `critique` has a prompt too, which holds query, response and criterion in one text.
        kind, query = "ratings", "query" if "query" in names else None
    elif all(_is_text(schema.get(side)) for side in ("chosen", "rejected")):
        kind = "preferences"
        texts = next(pair for pair in _pairs() if set(pair) <= names)
    elif query is not None and reply is not None:
        kind, texts = "responses", (reply,)
    elif known and {"source", "target"} <= names:
        kind, texts = "edits", ("target",)
    elif not known:
        needed = ("query", "prompt", "response", "completion", "chosen", "rejected")
        mixed = [name for name in schema.names() if name in needed and not _is_text(schema[name])]
        fault = f", of which {', '.join(mixed)} not of texts alone, nor of messages alone" if mixed else ""
        raise UserError(
            f"{what}: has no text to show: it needs query or prompt with response or completion, or chosen and "
            f"rejected; it has {', '.join(schema.names()) or 'no column'}{fault}; rename what fits, or name another "
            "dataset"
        )
    flags = tuple(name for name in FLAGS if schema.get(name) == pl.Boolean or name in zero_or_one)
    return _completed(schema, kind, query, texts, flags, known=known)


def _pairs() -> list[tuple[str, ...]]:
    """Return the columns that may hold the two texts of a preference, the most specific first."""
    return [("suggestion_chosen", "suggestion_rejected"), ("winner", "loser"), ("chosen", "rejected")]


def _completed(
    schema: pl.Schema, kind: Kind, query: str | None, texts: tuple[str, ...], flags: tuple[str, ...], *, known: bool
) -> Layout:
    """Return a layout with what follows from its texts: metrics, ranks, fields."""
    names = schema.names()
    whole = {"suggestion": "response", "suggestion_chosen": "chosen", "suggestion_rejected": "rejected"}
    wholes = tuple(whole[text] if whole.get(text) in names else None for text in texts)
    base = "source" if "source" in names and _edits(texts) else None
    if kind == "rows":
        query = query or next((name for name in names if schema[name] == pl.String), None)
    told = [name for name in _TOLD[kind] if name not in FLAGS or name in flags]
    placed = {*texts, *filter(None, wholes), query, base, *told, *(IDS if known else ())}
    placed |= _PARTS if known and kind != "rows" else set()
    numbers = [name for name in names if schema[name].is_numeric() and name not in placed and not _is_count(name)]
    columns = _columns(kind, numbers)
    ranks = {name: f"rank_{name}" for name in columns if f"rank_{name}" in numbers}
    metrics = tuple(name for name in columns if name not in ranks.values())
    placed |= {column for several in columns.values() for column in several}
    fields = tuple(name for name in names if name not in placed and _is_field(schema[name], known=known))
    told = [name for name in told if name in names and (known or kind != "preferences")]
    needed = (query, *texts, *wholes, base, *(c for m in metrics for c in columns[m]), *ranks.values(), *fields, *told)
    read = tuple(dict.fromkeys(name for name in needed if name is not None))
    return Layout(kind, query, texts, wholes, base, metrics, columns, ranks, fields, flags, read)


def _is_count(name: str) -> bool:
    """Whether a number is no metric: a setting, a place, an id."""
    return name in _NUMBERS or name in ("id", "idx") or name.endswith("_id")


def _columns(kind: Kind, numbers: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the columns of each metric; rows without responses have none."""
    if kind == "rows":
        return {}
    return _sided(numbers) if kind == "preferences" else {name: (name,) for name in numbers}


def _edits(texts: Sequence[str]) -> bool:
    """Whether texts are edits of a source."""
    return any(name.startswith("suggestion") or name in ("winner", "target") for name in texts)


def _sided(numbers: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return metrics that each side of a preference has its own of, and those that both share."""
    found: dict[str, tuple[str, ...]] = {}
    for name in numbers:
        for first, second in SIDES:
            other = f"{name.removesuffix(first)}{second}"
            if name.endswith(f"_{first}") and other in numbers:
                found[name.removesuffix(f"_{first}")] = (name, other)
    sided = {column for pair in found.values() for column in pair}
    # TRL's and UltraFeedback's files: score_chosen, but also one number of the whole pair.
    return found | {name: (name, name) for name in numbers if name not in sided}


def _is_text(dtype: pl.DataType | None) -> bool:
    """Whether a column holds texts or chat messages."""
    return dtype is not None and (dtype in (pl.String, pl.Categorical, pl.Enum) or is_messages(dtype))


def is_messages(dtype: pl.DataType | None) -> bool:
    """Whether a column holds chat messages, with whatever fields beside role and content."""
    inner = dtype.inner if isinstance(dtype, pl.List) else None
    return dtype == MESSAGES or (
        isinstance(inner, pl.Struct) and {"role", "content"} <= {field.name for field in inner.fields}
    )


def _is_field(dtype: pl.DataType, *, known: bool) -> bool:
    """Whether a column is shown as it is: all but bytes and, of other people, lists of numbers, such as embeddings."""
    numbers = isinstance(dtype, pl.List | pl.Array) and dtype.inner.is_numeric()
    return _is_said(dtype) and (known or not numbers)


def _is_said(dtype: Any) -> bool:
    """Whether nothing of a type is bytes."""
    if isinstance(dtype, pl.Struct):
        return all(_is_said(field.dtype) for field in dtype.fields)
    return _is_said(dtype.inner) if isinstance(dtype, pl.List | pl.Array) else dtype not in (pl.Binary, pl.Object)
