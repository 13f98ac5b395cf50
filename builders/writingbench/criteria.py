"""Stage `criteria`: five criteria for each query (§3.2), written by the teacher, or fixed ones for all (table 4).

A query without criteria after `criteria.attempts` replies is dropped and counted. One row is the query's with::

    {…, "criteria": [{"name": "Sections", "criteria_description": "…", "1-2": "…", …, "9-10": "…"}, …],
     "criteria_writer": "Qwen/Qwen2.5-72B-Instruct@495f…"}
"""

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import yaml

from builders.core.stage import Asking, Asks, Context, Shard, ShardResult, row_shards
from builders.rubrics import criteria as rubrics
from builders.rubrics.criteria import ROWS_PER_SHARD, written
from builders.store.columns import check_frame, polars_schema, require_columns
from builders.store.revision import Revision
from builders.writingbench.columns import CRITERIA_COLUMNS, QUERIES_COLUMNS
from builders.writingbench.messages import in_language
from builders.writingbench.request import languages_of
from builders.writingbench.settings import PROMPTS, WritingBenchSettings
from scorers.criteria import Criterion
from scorers.errors import UserError

CriteriaContext = Context[WritingBenchSettings]


def prompts(config: WritingBenchSettings, inputs: Mapping[str, Revision]) -> dict[str, str]:
    """Return the prompts by name, in the queries' languages; of fixed criteria their file."""
    if config.criteria.mode == "query":
        return rubrics.prompts(languages_of(inputs["refine"]))
    name = f"criteria.{config.criteria.mode}"
    return {name: (PROMPTS / f"{name}.yaml").read_text(encoding="utf-8")}


def plan(context: CriteriaContext) -> list[Shard]:
    """Plan shards of consecutive queries.

    Raises:
        UserError: for a parent without the queries' columns; for a domain without fixed criteria, where they are asked
            for.
    """
    parent = context.inputs["refine"]
    require_columns(parent.schema(), QUERIES_COLUMNS, str(parent))
    rows = parent.scan().select("domain").collect()
    if context.config.criteria.mode == "domain":
        for domain in rows["domain"].unique().sort():
            fixed_criteria("domain", domain, "en")
    return row_shards(rows.height, context.config.criteria.shard_rows, ROWS_PER_SHARD)


def build(context: CriteriaContext, shard: Shard) -> Asking:
    """Make the criteria of a shard's queries."""
    config, parent = context.config, context.inputs["refine"]
    queries = parent.scan().select(c.name for c in QUERIES_COLUMNS).slice(*shard.spec).collect()
    check_frame(queries, QUERIES_COLUMNS, str(parent))
    counts: Counter[str] = Counter(read=queries.height)
    rows = list(queries.iter_rows(named=True))
    if config.criteria.mode != "query":
        fixed = [fixed_criteria(config.criteria.mode, row["domain"], row["language"]) for row in rows]
        return ShardResult(_rows(rows, fixed, None), dict(counts))
    found = yield from written(context, shard, "teacher", rows, config.criteria, counts)
    return ShardResult(_rows(rows, found, str(context.models["teacher"].record)), dict(+counts))


BUILD = Asks("teacher", build)


def _rows(
    rows: Sequence[dict[str, Any]], criteria: Sequence[list[Criterion] | None], writer: str | None
) -> pl.DataFrame:
    """Return the rows of the queries that have criteria."""
    whole = [
        {**row, "criteria": found, "criteria_writer": writer}
        for row, found in zip(rows, criteria, strict=True)
        if found is not None
    ]
    return pl.DataFrame(whole, schema=polars_schema(CRITERIA_COLUMNS))


@functools.cache
def _fixed(mode: str) -> Mapping[str, Any]:
    """Return the file of fixed criteria of a mode: by language, or by domain and language."""
    found: dict[str, Any] = yaml.safe_load((PROMPTS / f"criteria.{mode}.yaml").read_text(encoding="utf-8"))
    return found


def fixed_criteria(mode: str, domain: str, language: str) -> list[Criterion]:
    """Return the criteria that come with this package: the same for all queries, or for those of a domain.

    Raises:
        UserError: for a domain without any.
    """
    known = _fixed(mode)
    if mode == "domain" and domain not in known:
        raise UserError(
            f"criteria.mode is domain, and there are no fixed criteria for domain {domain}; there are for "
            f"{', '.join(known)}: set criteria.mode to global or query"
        )
    by_language: Mapping[str, list[Criterion]] = known[domain] if mode == "domain" else known
    return in_language(by_language, language)
