"""`grace verify`: whether a revision is what its manifest says, and its numbers are what its stage computes.

Compared are every file's SHA-256, size and rows, the content digest, the columns of the stage's contract, and what the
stage itself recomputes. The manifest is not trusted: paths that lead out of the revision are not followed.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from builders.core.pipeline import Pipeline, pipeline_named
from builders.store.check import Finding, file_findings
from builders.store.columns import Column, fits, present
from builders.store.files import inside
from builders.store.manifest import FILE_NAME, Manifest
from builders.store.revision import Revision
from scorers.errors import UserError


def verify(revision: Revision, pipelines: Sequence[Pipeline]) -> list[Finding]:
    """List everything in which a revision differs from its manifest, its contract or the method.

    Of a model the files, the card and what its stage recomputes are compared.

    Args:
        revision: the revision on disk.
        pipelines: the pipelines whose stages are known.

    Returns:
        The differences; empty where there are none.

    Raises:
        UserError: where there is no manifest to compare with.
    """
    manifest = revision.manifest
    if manifest is None:
        raise UserError(f"{revision}: no {FILE_NAME} in it, so there is nothing to verify it against")
    findings = _check_name(revision) + file_findings(manifest, revision.path)
    card = revision.path / "README.md"
    if not card.is_file() or not card.stat().st_size:
        findings.append(Finding("README.md", "card", "a card", "missing or empty"))
    return findings + _check_stage(manifest, revision.path, pipelines)


def _check_name(revision: Revision) -> list[Finding]:
    """Check the name of a revision that was never published: it is the SHA-1 of its manifest."""
    path = revision.path / FILE_NAME
    if not revision.local or revision.path.name != revision.revision or not path.is_file():
        return []
    name = hashlib.sha1(path.read_bytes()).hexdigest()
    return [] if name == revision.revision else [Finding(FILE_NAME, "sha1", revision.revision, name)]


def _check_stage(manifest: Manifest, root: Path, pipelines: Sequence[Pipeline]) -> list[Finding]:
    """Check row counts, the contract of the stage, and what the stage recomputes."""
    pipeline = pipeline_named(manifest.pipeline, pipelines)
    if pipeline is None:
        known = ", ".join(p.name for p in pipelines)
        return [Finding(FILE_NAME, "pipeline", manifest.pipeline, f"unknown; pipelines: {known}")]
    stage = pipeline.find(manifest.stage)
    if stage is None:
        known = ", ".join(s.name for s in pipeline.stages)
        return [Finding(FILE_NAME, "stage", manifest.stage, f"unknown; stages: {known}")]
    if stage.kind != manifest.kind:
        return [Finding(FILE_NAME, "kind", manifest.kind, f"stage {stage.name} yields a {stage.kind}")]
    findings: list[Finding] = []
    files: dict[str, Path] = {}
    if stage.kind == "dataset":
        findings, files = _check_rows(manifest, root, stage.columns)
    if stage.check is not None:
        # Rows that are incomplete or do not fit cannot be recomputed; the check is told.
        findings += stage.check(manifest, files, not findings)
    return findings


def _check_rows(manifest: Manifest, root: Path, columns: Sequence[Column]) -> tuple[list[Finding], dict[str, Path]]:
    """Check row counts and contract of a dataset's files; return the findings and the readable files by path."""
    findings: list[Finding] = []
    files: dict[str, Path] = {}
    total = 0
    for file in manifest.files:
        path = inside(root, file.path)
        # Missing files and untrusted paths were reported by `file_findings`.
        if path is None or not path.is_file() or path.suffix != ".parquet":
            continue
        rows = _readable_rows(path)
        if isinstance(rows, str):
            findings.append(Finding(file.path, "content", "readable Parquet", rows))
            continue
        total += rows
        files[file.path] = path
        if rows != file.rows:
            findings.append(Finding(file.path, "rows", str(file.rows), str(rows)))
    # An optional column of one file is needed in all of them.
    needed = present(columns, {name for path in files.values() for name in pl.read_parquet_schema(path)})
    for name, path in files.items():
        try:
            findings += _check_columns(name, path, needed)
        except pl.exceptions.PolarsError as error:
            findings.append(Finding(name, "content", "readable Parquet", str(error).splitlines()[0]))
    if total != manifest.rows.written:
        findings.append(Finding(FILE_NAME, "rows", str(manifest.rows.written), str(total)))
    return findings, files


def _readable_rows(path: Path) -> int | str:
    """Return the rows of a file that decodes completely; else why it does not."""
    try:
        # Every row group is decoded: a footer can be sound where the pages are not.
        file = pq.ParquetFile(path, page_checksum_verification=True)
        for group in range(file.num_row_groups):
            file.read_row_group(group)
        pl.scan_parquet(path, glob=False).collect_schema()
    except (pa.ArrowException, pl.exceptions.PolarsError, OSError) as error:
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    return int(file.metadata.num_rows)


def _check_columns(name: str, path: Path, columns: Iterable[Column]) -> Iterator[Finding]:
    """Yield differences of one file from the contract: columns, types, nulls and non-finite numbers."""
    scan = pl.scan_parquet(path, glob=False)
    found = scan.collect_schema()
    contract = {column.name: column for column in columns}
    for column in found.names():
        if column not in contract:
            yield Finding(name, f"column {column}", "not in the contract", str(found[column]))
    for column, rule in contract.items():
        if not fits(found.get(column), rule):
            yield Finding(name, f"column {column}", str(rule.dtype), str(found.get(column, "missing")))
            continue
        # A null where none may be; in float columns also NaN and infinity.
        bad = pl.lit(False) if rule.nullable else pl.col(column).is_null()
        if found[column].is_float():
            bad = bad | ~pl.col(column).is_finite().fill_null(True)
        elif rule.nullable:
            continue
        count = scan.select(bad.sum()).collect().item()
        if count:
            wanted = "finite, or null" if rule.nullable else "a value in each row"
            yield Finding(name, f"column {column}", wanted, f"{count} rows without")
