"""Stage `benchmark`: the queries and criteria of a benchmark's own files, in the place of `criteria`.

WritingBench's are JSON lines; a query is `{"index": 16, "domain1": …, "domain2": …, "query": …, "checklist": […]}` with
five criteria. Subsets of the queries that ask for a style, a format or a length stand in a folder of requirements:
`style_subset.jsonl` names its queries by index, `style_subset_C.jsonl` the criteria that ask for it. One row::

    {"query_id": "77ab…", "query": "…", "domain": "Education", "subdomain": "Lesson Plan", "language": "en",
     "criteria": [{"name": "Sections", …}, …], "index": 16, "requirements": ["length"],
     "required_criteria": [{"requirement": "length", "criterion": "Sections"}], "words": null}

Those of LongBench-Write are `{"prompt": "…", "type": "Academic", "length": 2000}`: the words asked for, and six fixed
dimensions of quality for all (§4.5).
"""

import ast
import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from builders.core import sources
from builders.core.draws import query_id
from builders.core.languages import DEFAULT, is_chinese
from builders.core.stage import Context, Shard, ShardResult, Source
from builders.store.columns import frame_of
from builders.store.files import file_sha256
from builders.store.revision import Choice
from builders.store.store import Store
from builders.writingbench.columns import BENCHMARK_COLUMNS
from builders.writingbench.messages import in_language
from builders.writingbench.settings import PROMPTS, WritingBenchSettings
from scorers.criteria import Criterion, check_criteria
from scorers.errors import UserError

BenchmarkContext = Context[WritingBenchSettings]

REQUIREMENTS = ("style", "format", "length")
"""The subsets, by the names of their files."""
FIELDS = ("index", "domain1", "domain2", "query", "checklist")
LONGBENCH = ("prompt", "type", "length")
"""The fields of LongBench-Write, by which its files are told."""


def given(config: WritingBenchSettings) -> str:
    """Return the setting that names the benchmark.

    Raises:
        UserError: none is set.
    """
    if config.benchmark.data is None:
        raise UserError("benchmark.data is null; set it to the benchmark's file, such as benchmark_all.jsonl")
    return config.benchmark.data


def source_of(config: WritingBenchSettings, require_pinned: bool = False) -> Source:
    """Return the benchmark's file by its SHA-256, or a dataset by its commit, and the files of its requirements.

    Raises:
        UserError: as `builders.core.sources.source_of`, and for a folder of requirements without its files.
    """
    found = sources.source_of(given(config), Store(Path(config.store)), Choice(), require_pinned=require_pinned)
    files = requirement_files(config.benchmark.requirements)
    more = [file_sha256(file) for pair in files.values() for file in pair]
    return Source(" ".join([found.identity, *more]), found.ref, found.choice)


def requirement_files(folder: str | None) -> dict[str, tuple[Path, Path]]:
    """Return the files of the requirements' subsets, R and C, by requirement; none without a folder.

    Raises:
        UserError: for a folder without any of them, and for half of a pair.
    """
    found: dict[str, tuple[Path, Path]] = {}
    for name in REQUIREMENTS if folder is not None else ():
        places = [Path(str(folder)), Path(str(folder)) / name]
        pair = [
            next((place / file for place in places if (place / file).is_file()), None)
            for file in (f"{name}_subset.jsonl", f"{name}_subset_C.jsonl")
        ]
        if pair == [None, None]:
            continue
        if pair[0] is None or pair[1] is None:
            raise UserError(
                f"benchmark.requirements {folder}: of {name} there is one of {name}_subset.jsonl and "
                f"{name}_subset_C.jsonl, both are needed; add the other, or take it out"
            )
        found[name] = (pair[0], pair[1])
    if folder is not None and not found:
        raise UserError(
            f"benchmark.requirements {folder}: no subset such as style_subset.jsonl in it or in a folder style; give "
            "the benchmark's folder `requirement`, or null"
        )
    return found


def plan(context: BenchmarkContext) -> list[Shard]:
    """Plan one shard: a benchmark has about a thousand queries."""
    return [Shard(0, None)]


def build(context: BenchmarkContext, shard: Shard) -> ShardResult:
    """Read the benchmark.

    Raises:
        UserError: for a line that is no query, an index or a query that stands there twice, and a subset that names an
            index or a criterion that the benchmark does not have.
    """
    settings = context.config.benchmark
    parent = context.inputs.get("source")
    data = given(context.config)
    rows = json_lines(Path(data)) if parent is None else enumerate(parent.scan().collect().iter_rows(named=True), 1)
    found: dict[int, dict[str, Any]] = {}
    texts: set[str] = set()
    long: bool | None = None
    for number, row in rows:
        where = f"{data}, line {number}"
        if long is None:
            long = set(LONGBENCH) <= row.keys()
        query = read_long(row, number, where) if long else read_query(row, where)
        if query["index"] in found or query["query_id"] in texts:
            what = f"index {query['index']}" if query["index"] in found else "its query"
            raise UserError(f"{data}, line {number}: {what} stands there twice; leave one out")
        texts.add(query["query_id"])
        found[query["index"]] = query
    if not found:
        raise UserError(f"{data}: holds no query; give the benchmark's file")
    for name, (queries, criteria) in requirement_files(settings.requirements).items():
        _mark(found, name, queries, criteria)
    return ShardResult(frame_of(list(found.values()), BENCHMARK_COLUMNS), {"read": len(found)})


def read_query(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Read one query of the benchmark.

    Args:
        row: the object of its line.
        where: file and line, for messages.

    Raises:
        UserError: a field is missing or has another type, or the checklist is not five whole criteria.
    """
    if missing := [name for name in FIELDS if row.get(name) is None]:
        raise UserError(f"{where}: no {', '.join(missing)}; a query has {', '.join(FIELDS)}")
    texts = {name: row[name] for name in ("domain1", "domain2", "query")}
    if wrong := [name for name, value in texts.items() if not isinstance(value, str) or not value.strip()]:
        raise UserError(f"{where}: {wrong[0]} is no text; correct it")
    criteria = check_criteria(_listed(row["checklist"]))
    if isinstance(criteria, str):
        raise UserError(f"{where}: its checklist has {criteria}; five whole criteria are needed")
    query = row["query"].strip()
    return {
        "query_id": query_id(query),
        "query": query,
        "domain": row["domain1"].strip(),
        "subdomain": row["domain2"].strip(),
        "language": "zh" if is_chinese(query) else DEFAULT,
        "criteria": criteria,
        "index": index_of(row, where),
        "requirements": [],
        "required_criteria": [],
        "words": None,
    }


def read_long(row: Mapping[str, Any], number: int, where: str) -> dict[str, Any]:
    """Read one query of LongBench-Write, whose index is the number of its line.

    Raises:
        UserError: a field has another type, or no length is asked for.
    """
    if missing := [name for name in LONGBENCH if row.get(name) is None]:
        raise UserError(f"{where}: no {', '.join(missing)}; a query of LongBench-Write has {', '.join(LONGBENCH)}")
    query, kind, words = (row[name] for name in LONGBENCH)
    if not isinstance(query, str) or not query.strip() or not isinstance(kind, str):
        raise UserError(f"{where}: prompt or type is no text; correct it")
    if isinstance(words, bool) or not isinstance(words, int) or not 1 <= words < 2**31:
        raise UserError(f"{where}: length is {words!r}; a number of words is needed")
    language = "zh" if is_chinese(query) else DEFAULT
    return {
        "query_id": query_id(query.strip()),
        "query": query.strip(),
        "domain": kind.strip() or "other",
        "subdomain": kind.strip() or "other",
        "language": language,
        "criteria": in_language(_dimensions(), language),
        "index": number,
        "requirements": ["length"],
        "required_criteria": [],
        "words": words,
    }


@functools.cache
def _dimensions() -> Mapping[str, list[Criterion]]:
    """Return LongBench-Write's dimensions of quality, by language."""
    found: dict[str, list[Criterion]] = yaml.safe_load(
        (PROMPTS / "criteria.longbench.yaml").read_text(encoding="utf-8")
    )
    return found


def index_of(row: Mapping[str, Any], where: str) -> int:
    """Return the index of a line, a number or its digits.

    Raises:
        UserError: it has none.
    """
    value = row.get("index")
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise UserError(f"{where}: index is {value!r}, a whole number is needed, 0 or more")
    return value


def _listed(value: Any) -> list[Any]:
    """Return a checklist as a list: some tools write it as the text of a Python list, which is parsed as a literal."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return []
    return list(value) if isinstance(value, list) else []


def _mark(found: Mapping[int, dict[str, Any]], name: str, queries: Path, criteria: Path) -> None:
    """Note in the queries of a subset that they are in it, and which of their criteria ask for it."""
    for number, row in json_lines(queries):
        query = _known(found, row, f"{queries}, line {number}")
        if name in query["requirements"]:
            raise UserError(f"{queries}, line {number}: index {query['index']} stands there twice; leave one out")
        query["requirements"].append(name)
    seen: set[int] = set()
    for number, row in json_lines(criteria):
        where = f"{criteria}, line {number}"
        query = _known(found, row, where)
        if query["index"] in seen:
            raise UserError(f"{where}: index {query['index']} stands there twice; leave one out")
        if name not in query["requirements"]:
            raise UserError(f"{where}: index {query['index']} is not in {queries.name}; take both files of one version")
        if not _listed(row.get("checklist")):
            raise UserError(f"{where}: no checklist; it names the criteria that ask for {name}")
        seen.add(query["index"])
        names = {criterion["name"] for criterion in query["criteria"]}
        for criterion in _listed(row.get("checklist")):
            wanted = str(criterion.get("name", "")).strip() if isinstance(criterion, dict) else ""
            if wanted not in names:
                raise UserError(f"{where}: its query has no criterion {wanted!r}; take both files of one version")
            query["required_criteria"].append({"requirement": name, "criterion": wanted})


def _known(found: Mapping[int, dict[str, Any]], row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the query that a line of a subset names.

    Raises:
        UserError: the benchmark does not have it.
    """
    index = index_of(row, where)
    if index not in found:
        raise UserError(f"{where}: index {index} is not in the benchmark; take both files of one version")
    return found[index]


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a file of JSON lines with their numbers, from 1; blank lines are skipped.

    Raises:
        UserError: the file is missing or no UTF-8, or a line is no object.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.suffix != ".jsonl":
        raise UserError(f"{path}: {path.suffix or 'no ending'}; the benchmarks' files of JSON lines are read, .jsonl")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8; save the file as UTF-8") from None
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise UserError(
                f"{path}, line {number}: holds half a surrogate pair, which is no text; correct it"
            ) from None
        except (ValueError, RecursionError):
            raise UserError(f"{path}, line {number}: not JSON; correct the line or leave it out") from None
        if not isinstance(row, dict):
            raise UserError(f'{path}, line {number}: no object; each line is one, such as {{"index": 1, …}}')
        yield number, row
