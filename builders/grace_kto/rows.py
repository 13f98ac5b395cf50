"""What a row of scores has to be before it is ranked, whoever made it.

A row counts as matched by its column `matched`, never by its metrics. A matched row has all of them, except that a
document of one token has no perplexity. Every response has an id of its own, and no round is negative.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from builders.grace_kto.columns import RANKED, RUBRIC, SCORES_COLUMNS
from builders.grace_kto.pieces import read_piece
from builders.store.columns import polars_schema
from builders.store.manifest import Manifest
from scorers.errors import UserError

_SCORES = polars_schema(SCORES_COLUMNS)
RANKING = pl.Schema({name: _SCORES[name] for name in ("query_id", "matched", *RANKED)})
"""What ranks and totals are computed from."""
CHECKED = pl.Schema({name: _SCORES[name] for name in ("response_id", "round", *RANKING)})
"""What the rules look at; with it a pass over the dataset also has what the totals need."""
OF_PERPLEXITY = ("professionalism", "ppl_domain")  # of RANKED, those that a document of one token lacks
_RUBRIC = pl.Schema({RUBRIC: _SCORES[RUBRIC]})
AT_ONCE = 1_000  # repeated ids looked for in one pass over the files


def with_rubric(schema: pl.Schema, names: Collection[str]) -> pl.Schema:
    """Return a schema of ranked metrics with `rubric`, where a dataset with these names has it."""
    return pl.Schema({**schema, **_RUBRIC}) if RUBRIC in names else schema


def require_rubric(coefficient: float, names: Collection[str], what: str) -> None:
    """Check that a dataset has the ratings that its ranks are to count.

    Raises:
        UserError: it has none, and their coefficient is not 0.
    """
    if coefficient and RUBRIC not in names:
        raise UserError(
            f"calibrate.coefficients.rubric is {coefficient:g}, and {what} has no column rubric; score it with "
            "score.rubric=true, or set the coefficient to 0"
        )


def check_texts(matched: pl.DataFrame, stage: str) -> None:
    """Check that matched rows have their texts, which other people's datasets may lack.

    Raises:
        UserError: for a matched row without query, summary or document.
    """
    unasked = matched.filter(pl.col("query").is_null())
    if unasked.height:
        raise UserError(f"stage {stage}: the query of {unasked['response_id'][0]} is null; give its text")
    lacking = matched.filter(pl.col("summary").is_null() | pl.col("document").is_null())
    if lacking.height:
        raise UserError(
            f"stage {stage}: {lacking['response_id'][0]} is matched but has no summary or no document; set matched to "
            "false or give both texts"
        )


@dataclass(frozen=True, eq=False)
class Rule:
    """What a value has to be.

    Attributes:
        column: its column.
        broken: whether a row breaks the rule; never null.
        allowed: what is allowed, in words, with the way out.
    """

    column: str
    broken: pl.Expr
    allowed: str


def rules(*, other_tokenizers: bool = False) -> list[Rule]:
    """Return the rules of a row.

    Args:
        other_tokenizers: whether perplexities count other tokens than `length` does: then no length tells whether a
            document can have one.
    """
    found = [
        Rule(name, pl.col(name).is_null(), "a value is needed")
        for name in ("response_id", "query_id", "round", "matched")
    ]
    found.append(Rule("round", (pl.col("round") < 0).fill_null(False), "rounds count from 0"))
    way_out = "score the row again, or set matched to false"
    for metric in RANKED:
        lacking = pl.col("matched").fill_null(False) & pl.col(metric).is_null()
        if metric not in OF_PERPLEXITY:
            found.append(Rule(metric, lacking, f"a matched row has a value; {way_out}"))
        elif not other_tokenizers:
            longer = (pl.col("length") > 1).fill_null(False)
            found.append(Rule(metric, lacking & longer, f"only a document of one token may lack it; {way_out}"))
    return found


def counts_other_tokens(manifest: Manifest | None) -> bool:
    """Whether a dataset's perplexities come from models that may have another tokenizer than the one of `length`."""
    models = {} if manifest is None else manifest.models
    return any(role in models and models[role] != models.get("tokenizer") for role in ("general", "domain"))


def scored() -> pl.Expr:
    """Whether a row is ranked: it is matched and has all ranked metrics; never null."""
    return pl.all_horizontal(pl.col("matched").fill_null(False), *(pl.col(m).is_not_null() for m in RANKED))


def broken_rules(rows: pl.DataFrame, rules: Sequence[Rule]) -> list[Rule]:
    """Return the rules that some row of a frame breaks."""
    broken = rows.select(rule.broken.any().alias(str(k)) for k, rule in enumerate(rules)).row(0)
    return [rule for rule, found in zip(rules, broken, strict=True) if found]


def name_broken(files: Sequence[Path], rule: Rule) -> str:
    """Name the first row of a dataset that breaks a rule, with its file, its number from 0 and what is allowed."""
    for file in files:
        rows = read_piece(str(file), CHECKED).with_row_index("row").filter(rule.broken)
        if rows.height:
            row = rows.row(0, named=True)
            value = "null" if row[rule.column] is None else row[rule.column]
            return (
                f"{file}, row {row['row']} (response_id {row['response_id']}): {rule.column} is {value}; {rule.allowed}"
            )
    raise LookupError(f"no row breaks the rule on {rule.column}")


class ResponseIds:
    """Finds response ids that stand in several rows, at 8 bytes per row; the ids themselves may need gigabytes."""

    def __init__(self) -> None:
        self._hashes: list[NDArray[np.uint64]] = []

    def add(self, ids: pl.Series) -> None:
        """Take up the ids of some rows."""
        self._hashes.append(ids.hash().to_numpy())

    def repeated(self, files: Sequence[Path]) -> Iterator[tuple[str, list[str]]]:
        """Yield each id that stands in several rows, with the first two of its places as `file, row N`.

        Args:
            files: the Parquet files of the dataset, which are read again only where hashes repeat.
        """
        hashes = np.concatenate(self._hashes) if self._hashes else np.empty(0, np.uint64)
        hashes.sort()
        # Two ids may share a hash, so those that repeat are looked up.
        again = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
        for start in range(0, len(again), AT_ONCE):
            wanted = pl.Series(again[start : start + AT_ONCE])
            found = pl.concat([_places(file, wanted) for file in files])
            places = found.group_by("response_id", maintain_order=True).agg(pl.col("place").head(2))
            for id_, where in places.rows():
                if len(where) > 1:
                    yield id_, where


def _places(file: Path, hashes: pl.Series) -> pl.DataFrame:
    """Return the first two places of each id of a file that has one of these hashes: `response_id` and `place`."""
    rows = pl.read_parquet(file, columns=["response_id"]).with_row_index("row")
    rows = rows.filter(pl.col("response_id").hash().is_in(hashes.implode()))
    rows = rows.group_by("response_id", maintain_order=True).head(2)
    return rows.select("response_id", place=pl.format("{}, row {}", pl.lit(str(file)), "row"))
