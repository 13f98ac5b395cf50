"""What `grace verify` looks at in WritingBench's datasets, beyond their files.

A selected row's messages are its query and its response; a critic's answer says its row's score, and no query is in
both parts. Of criteria and ratings see `builders.rubrics.check`.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from builders.core.prompting import answer, chat
from builders.store.check import Finding, listed
from builders.store.manifest import Manifest
from scorers.rating import read_rating


def check_selection(manifest: Manifest, files: Mapping[str, Path], sound: bool) -> list[Finding]:
    """List rows whose messages are not their query and response; see `listed`."""
    return listed(files, sound, ("response_id", "query", "response", "prompt", "completion"), _selection)


def check_critic_rows(manifest: Manifest, files: Mapping[str, Path], sound: bool) -> list[Finding]:
    """List rows whose answer is not their score, and queries in both parts; see `listed`."""
    names = ("query_id", "response_id", "score", "reason", "split", "completion")
    return listed(files, sound, names, _critic_rows)


def _selection(rows: pl.DataFrame) -> Iterator[Finding]:
    for row in rows.iter_rows(named=True):
        for name, text in (("prompt", chat(row["query"])), ("completion", answer(row["response"]))):
            if row[name] != text:
                yield Finding(row["response_id"], name, _short(row[name]), "another text")


def _critic_rows(rows: pl.DataFrame) -> Iterator[Finding]:
    for row in rows.iter_rows(named=True):
        rating = read_rating(row["completion"][0]["content"]) if row["completion"] else None
        if rating is None or rating.score != row["score"]:
            yield Finding(row["response_id"], "completion", _short(row["completion"]), f"score {row['score']}")
    both = rows.group_by("query_id", maintain_order=True).agg(pl.col("split").n_unique())
    for query in both.filter(pl.col("split") > 1)["query_id"]:
        yield Finding(query, "split", "train and test", "one of them")


def _short(value: Any) -> str:
    """Return a value as a short text."""
    return json.dumps(value, ensure_ascii=False)[:80]
