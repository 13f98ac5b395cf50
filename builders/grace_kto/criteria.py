"""Stage `criteria`, where `score.rubric` is true: five criteria for each query that has a matched response.

One row is, for example::

    {"query_id": "8f1c…", "query": "Please write a report titled …", "language": "en", "round": 1,
     "criteria": [{"name": "Sections", "criteria_description": "…", "1-2": "…", …}, …], "criteria_writer": "…"}
"""

from collections import Counter
from collections.abc import Mapping

import polars as pl

from builders.core.stage import Asking, Asks, Context, Shard, ShardResult, row_shards
from builders.grace_kto.columns import CRITERIA_COLUMNS, GROUPS_COLUMNS
from builders.grace_kto.languages import language_column
from builders.grace_kto.settings import GraceKTOSettings
from builders.rubrics import criteria as rubrics
from builders.rubrics.criteria import ROWS_PER_SHARD, written
from builders.store.columns import polars_schema, require_columns
from builders.store.files import replacing
from builders.store.revision import Revision
from scorers.errors import UserError

CriteriaContext = Context[GraceKTOSettings]

READ = tuple(c for c in GROUPS_COLUMNS if c.name in ("query_id", "query", "round", "response_id", "matched"))
QUERIES = "queries.parquet"


def prompts(config: GraceKTOSettings, inputs: Mapping[str, Revision]) -> dict[str, str]:
    """Return the prompts by name, in the queries' languages."""
    return rubrics.prompts(languages_of(inputs["sample"]))


def languages_of(revision: Revision) -> list[str]:
    """Return the languages of a dataset's queries, each once, sorted."""
    found = revision.scan().select(language_column("query").unique()).collect().to_series()
    return sorted(found)


def plan(context: CriteriaContext) -> list[Shard]:
    """List the queries that have a matched response, and plan shards of them.

    Raises:
        UserError: for a parent without the columns of groups, with a null where none may be, with a response_id or a
            query_id that stands for two, and where no response is matched.
    """
    parent = context.inputs["sample"]
    require_columns(parent.schema(), READ, str(parent))
    check_groups(parent)
    matched = (
        parent.scan()
        .filter("matched")
        .select("query_id", "query", language_column("query"), pl.col("round").cast(pl.Int32))
    )
    queries = matched.unique(["query_id", "query"], keep="first", maintain_order=True).collect()
    if queries.is_empty():
        raise UserError(
            f"{parent}: no response is matched, so there is nothing to rate; look at the policy's responses"
        )
    if (twice := queries.filter(pl.col("query_id").is_duplicated())).height:
        raise UserError(
            f"{parent}: query_id {twice['query_id'][0]} stands for several queries; every query needs an id of its own"
        )
    context.work.mkdir(parents=True, exist_ok=True)
    with replacing(context.work / QUERIES) as file:
        queries.write_parquet(file)
    return row_shards(queries.height, context.config.criteria.shard_rows, ROWS_PER_SHARD)


def check_groups(groups: Revision) -> None:
    """Check what is paid for when it is rated, which other people's groups may lack.

    Raises:
        UserError: a query, an id or `matched` is null, a query is empty, or a response_id stands there twice.
    """
    rows = groups.scan().select("query_id", "query", "response_id", "matched")
    broken = {f"{name} is null": pl.col(name).is_null() for name in ("response_id", "query_id", "query", "matched")}
    broken["query is empty"] = pl.col("query").str.strip_chars() == ""
    for fault, where in broken.items():
        found = rows.filter(where).head(1).collect()
        if found.height:
            raise UserError(f"{groups}: {fault} in response_id {found['response_id'][0]}; a value is needed")
    ids = rows.select("response_id").collect().to_series()
    if (again := ids.filter(ids.is_duplicated())).len():
        raise UserError(f"{groups}: response_id {again[0]} stands there twice; every response needs an id of its own")


def build(context: CriteriaContext, shard: Shard) -> Asking:
    """Make the criteria of a shard's queries."""
    rows = pl.scan_parquet(context.work / QUERIES, glob=False).slice(*shard.spec).collect().to_dicts()
    counts: Counter[str] = Counter(read=len(rows))
    found = yield from written(context, shard, "criteria", rows, context.config.criteria, counts)
    writer = str(context.models["criteria"].record)
    whole = [
        {**row, "criteria": criteria, "criteria_writer": writer}
        for row, criteria in zip(rows, found, strict=True)
        if criteria is not None
    ]
    return ShardResult(pl.DataFrame(whole, schema=polars_schema(CRITERIA_COLUMNS)), dict(+counts))


BUILD = Asks("criteria", build)
