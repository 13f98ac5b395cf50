"""What the page says of a revision before its rows are looked at: facts, distributions of its metrics, results."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from builders.core.evaluation_table import Table
from builders.report.page.layout import layout_of
from builders.report.page.sources import reading
from builders.store.manifest import Manifest, Summary
from builders.store.revision import Revision
from builders.store.summary import summarise

STATISTICS = ("mean", "std", "min", "q10", "q25", "median", "q75", "q90", "max")
ROUNDING = 1e-12
"""Below it a mean, such as that of standardised rewards, is 0."""


@dataclass(frozen=True)
class Overview:
    """A revision in short.

    Attributes:
        name: repository and the beginning of the revision.
        title: the same for people: stage and round, or the repository.
        facts: labels with values.
        metrics: distributions, None where there are none.
        results: of a model's training, None where there are none.
    """

    name: str
    title: str
    facts: Sequence[tuple[str, str]]
    metrics: Table | None
    results: Table | None


def overviews_of(revisions: Sequence[Revision]) -> list[Overview]:
    """Return revisions in short; those that would have one title, such as answers of two policies, have their names."""
    found = []
    for revision in revisions:
        with reading(revision):
            found.append(overview_of(revision))
    titles = Counter(one.title for one in found)
    return [replace(one, title=one.name) if titles[one.title] > 1 else one for one in found]


def overview_of(revision: Revision) -> Overview:
    """Return a revision in short; what a manifest does not say of a dataset is computed from its files."""
    manifest = revision.manifest
    name = f"{revision.repo}@{revision.revision[:12]}"
    if manifest is None:
        schema = revision.schema()
        found = summarise(revision.data_files(), [c for c in schema.names() if schema[c].is_numeric()])
        layout = layout_of(schema, f"dataset {revision}", known=False)
        left = ", ".join(name for name in schema.names() if name not in layout.read)
        facts = [("rows", f"{_rows(revision):,}"), ("columns", ", ".join(schema.names()))]
        facts += [("not shown", left)] if left else []
        return Overview(name, revision.repo, facts, _metrics(found), None)
    round_ = f", round {manifest.round}" if manifest.round else ""
    results = [(key, f"{value:.4g}") for key, value in sorted(manifest.results.items())]
    return Overview(
        name,
        f"{manifest.stage}{round_}",
        _facts(manifest),
        _metrics(manifest.metrics),
        Table("Results of the training", ("", "value"), results) if results else None,
    )


def _rows(revision: Revision) -> int:
    """Return the number of rows of a dataset without a manifest."""
    import polars as pl

    return int(revision.scan().select(pl.len()).collect().item())


def _facts(manifest: Manifest) -> list[tuple[str, str]]:
    """Return what a manifest says of a revision, as labels and values."""
    rows = manifest.rows
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in sorted(rows.dropped.items()) if count)
    trained = "rows trained on" if manifest.kind == "model" else "rows"
    # A stage that asks a model can make several rows of one reply.
    way = "of" if rows.written < rows.read else "from"
    read = f" {way} {rows.read:,} read" if rows.written != rows.read else ""
    facts = [
        ("revision", f"{manifest.repo}@{manifest.revision}"),
        ("stage", f"{manifest.pipeline} / {manifest.stage}, version {manifest.stage_version}"),
        ("round", str(manifest.round) if manifest.round else "of all rounds"),
        (trained, f"{rows.written:,}{read}"),
        ("dropped", dropped or "none"),
        *((name.replace("_", " "), f"{count:,}") for name, count in sorted(manifest.counts.items())),
        *((f"model: {role}", f"{model.id}@{model.revision[:12]}") for role, model in sorted(manifest.models.items())),
        ("content digest", manifest.digest),
    ]
    return [(label, value) for label, value in facts if value]


def _metrics(found: dict[str, Summary]) -> Table | None:
    """Return the distributions of the metrics as a table."""
    rows = [
        (name, f"{one.count:,}", f"{one.null:,}", *(_text(getattr(one, key)) for key in STATISTICS))
        for name, one in found.items()
    ]
    return Table("Metrics", ("metric", "values", "null", *STATISTICS), rows) if rows else None


def _text(value: float) -> str:
    """Return a number of four significant digits; what rounding left of 0 is 0."""
    return "0" if abs(value) < ROUNDING else f"{value:.4g}"
