"""Stage `taxonomy`: the kinds of writing, a row for each in each language.

The package's own has the paper's 6 domains and 100 subdomains; a user's is a file or a dataset with the columns
`domain`, `subdomain`, `description` and perhaps `language`. One row::

    {"subdomain_id": "5b1c…", "domain": "Education", "subdomain": "Lesson Plan", "language": "en",
     "description": "What a teacher does in one lesson …", "source": "taxonomy.csv"}
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from builders.core import sources
from builders.core.draws import query_id
from builders.core.languages import base_language
from builders.core.stage import Context, Shard, ShardResult, Source
from builders.core.tables import read_columns
from builders.store.columns import frame_of
from builders.store.revision import Choice
from builders.store.store import Store
from builders.writingbench.columns import TAXONOMY_COLUMNS
from builders.writingbench.settings import TaxonomySettings, WritingBenchSettings
from scorers.errors import UserError

TaxonomyContext = Context[WritingBenchSettings]

OURS = Path(__file__).parent / "taxonomy.csv"
NEEDED = ("domain", "subdomain")
OPTIONAL = ("description", "language")


def source_stage(config: WritingBenchSettings, round_: int) -> dict[str, str]:
    """Return the source under the name `source`; it becomes a parent where it is the name of a stage."""
    return {} if config.taxonomy.source is None else {"source": config.taxonomy.source}


def source_of(config: WritingBenchSettings, require_pinned: bool = False) -> Source:
    """Return what the stage reads, see `builders.core.sources.source_of`."""
    settings = config.taxonomy
    choice = Choice(settings.subset, settings.split)
    source = str(OURS) if settings.source is None else settings.source
    return sources.source_of(source, Store(Path(config.store)), choice, require_pinned=require_pinned)


def plan(context: TaxonomyContext) -> list[Shard]:
    """Plan one shard: a taxonomy has some hundred rows."""
    return [Shard(0, None)]


def build(context: TaxonomyContext, shard: Shard) -> ShardResult:
    """Read the source.

    Raises:
        UserError: for a source that is missing or unreadable, lacks a column, or has no row in a language asked for.
    """
    settings = context.config.taxonomy
    name = sources.source_name(str(OURS) if settings.source is None else settings.source)
    counts: Counter[str] = Counter()
    rows: dict[str, dict[str, object]] = {}
    for found in _read(context):
        counts["read"] += 1
        texts = {key: (value or "").strip() for key, value in found.items()}
        if not texts["domain"] or not texts["subdomain"]:
            counts["dropped.blank"] += 1
            continue
        languages = _languages(texts["language"], settings)
        counts["dropped.other language"] += not languages
        for language in languages:
            identity = query_id("\0".join((texts["domain"], texts["subdomain"], language)))
            counts["dropped.duplicate"] += identity in rows
            rows.setdefault(
                identity,
                {
                    "subdomain_id": identity,
                    "domain": texts["domain"],
                    "subdomain": texts["subdomain"],
                    "language": language,
                    "description": texts["description"] or None,
                    "source": name,
                },
            )
    if not rows:
        raise UserError(
            f"taxonomy source {name}: no row with domain and subdomain in the languages "
            f"{', '.join(settings.languages)}, of {counts['read']} rows; check taxonomy.source and taxonomy.languages"
        )
    there = {row["language"] for row in rows.values()}
    if lacking := [language for language in settings.languages if language not in there]:
        raise UserError(
            f"taxonomy source {name}: no row is in {', '.join(lacking)}; leave that out of taxonomy.languages "
            f"({', '.join(settings.languages)}), or give a taxonomy.source that has such rows"
        )
    return ShardResult(frame_of(list(rows.values()), TAXONOMY_COLUMNS), dict(+counts))


def _languages(language: str, settings: TaxonomySettings) -> list[str]:
    """Return the languages that a row counts for: its own, where that is asked for, else all."""
    if not language:
        return list(settings.languages)
    return [wanted for wanted in settings.languages if base_language(wanted) == base_language(language)]


def _read(context: TaxonomyContext) -> Iterator[dict[str, str | None]]:
    """Yield the source's rows with the columns of `NEEDED` and `OPTIONAL`."""
    settings = context.config.taxonomy
    parent = context.inputs.get("source")
    source = parent.scan() if parent is not None else OURS if settings.source is None else Path(settings.source)
    what = f"taxonomy source {settings.source or OURS.name}"
    for frame in read_columns(source, NEEDED, what, OPTIONAL):
        yield from frame.iter_rows(named=True)
