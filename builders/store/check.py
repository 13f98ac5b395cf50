"""Comparing a revision's files with its manifest: the one comparison that pull, publish and verify share."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa

from builders.store.files import file_sha256, inside
from builders.store.manifest import FIGURE, FILE_NAME, DataFile, Manifest, content_digest
from builders.store.shards import shard_rows
from scorers.errors import UserError

ROWS_SHOWN = 5  # differing rows listed


@dataclass(frozen=True)
class Finding:
    """One difference.

    Attributes:
        where: the file, or the row's id, in which it lies.
        what: what differs: a property of the file or the name of a column.
        stored: the value on record, as text.
        found: the value found instead, as text.
    """

    where: str
    what: str
    stored: str
    found: str


Faults = Callable[[pl.DataFrame], Iterator[Finding]]


def listed(files: Mapping[str, Path], sound: bool, names: tuple[str, ...], faults: Faults) -> list[Finding]:
    """Return the first faults of a dataset, and how many there are where they are more than `ROWS_SHOWN`.

    Args:
        files: the readable data files by path.
        sound: whether all files are there and fit the contract; nothing is looked at otherwise.
        names: the columns that are read.
        faults: yields the faults of all rows.
    """
    if not sound or not files:
        return [Finding("data/", names[-1], "", "not looked at: the rows are incomplete or do not fit")]
    found = list(faults(pl.concat([pl.read_parquet(path, columns=list(names), glob=False) for path in files.values()])))
    if len(found) <= ROWS_SHOWN:
        return found
    return [*found[:ROWS_SHOWN], Finding("data/", names[-1], "", f"{len(found)} rows differ, {ROWS_SHOWN} shown")]


def file_findings(manifest: Manifest, root: Path, *, contents: bool = True) -> list[Finding]:
    """List the differences between a folder and a manifest's list of files; empty where there are none.

    Reported are files that are missing, differ in size or SHA-256, lead out of the folder or are not listed, and the
    content digest.

    Args:
        manifest: what the folder should hold.
        root: the folder.
        contents: False looks at names and sizes alone and reads no file.
    """
    findings: list[Finding] = []
    present = []
    apart = manifest.apart
    for file in [*manifest.files, *apart]:
        path = inside(root, file.path)
        if path is None or not path.is_file():
            # A manifest's file names are untrusted: one that leads out of the folder is not read.
            found = "missing" if path else "a path outside the revision, not read"
            findings.append(Finding(file.path, "file", f"{file.size} bytes", found))
            continue
        sha256 = file_sha256(path) if contents else file.sha256
        actual = DataFile(path=file.path, size=path.stat().st_size, sha256=sha256)
        if file not in apart:  # which the digest leaves out
            present.append(actual)
        if actual.size != file.size:
            findings.append(Finding(file.path, "size", str(file.size), str(actual.size)))
        if actual.sha256 != file.sha256:
            findings.append(Finding(file.path, "sha256", file.sha256, actual.sha256))
    listed = {file.path for file in [*manifest.files, *apart]}
    findings += [Finding(name, "file", "not listed", "present") for name in sorted(_payload(manifest, root) - listed)]
    # Over the files found, so it differs as soon as one of them does.
    digest = content_digest(present)
    if digest != manifest.digest:
        findings.append(Finding(FILE_NAME, "digest", manifest.digest, digest))
    return findings


def _payload(manifest: Manifest, root: Path) -> set[str]:
    """Return the files in a folder that its manifest should list.

    Of a dataset these are all files under data/ and every Parquet file, of a model all but card, figures and manifest.
    Hidden files do not count, unless they are Parquet files under data/, whose rows would be read.
    """
    if manifest.kind == "dataset":
        paths = {*(root / "data").rglob("*"), *root.rglob("*.parquet")}
    else:
        paths = set(root.rglob("*"))
    names = {path.relative_to(root) for path in paths if path.is_file()}
    # Hidden files, such as .gitattributes and .cache, are the Hub's and the client's.
    kept = {name for name in names if not any(part.startswith(".") for part in name.parts)}
    if manifest.kind == "dataset":
        kept |= {path.relative_to(root) for path in (root / "data").glob(".*.parquet")}
    return {
        name.as_posix()
        for name in kept
        if name.name not in (FILE_NAME, "README.md") and not FIGURE.fullmatch(name.name)
    }


def require_whole(manifest: Manifest, root: Path, what: str) -> None:
    """Check that a folder holds exactly the files of its manifest.

    Raises:
        UserError: naming the first file that is missing, damaged, not listed or outside the folder, and for a manifest
            whose digest is not that of its own list.
    """
    fault = first_fault(manifest, root)
    if fault is not None:
        raise UserError(f"{what}: {fault}; pull or build again")


def require_rows(manifest: Manifest, root: Path, what: str) -> None:
    """Check the numbers of rows in a manifest against each other and against the files' footers.

    Raises:
        UserError: naming the first file that is no Parquet or has other rows than its manifest says.
    """
    total = 0
    for file in manifest.files if manifest.kind == "dataset" else ():
        try:
            rows = shard_rows(root / file.path)
        except pa.ArrowInvalid as error:
            raise UserError(f"{what}: {file.path} is no Parquet file ({' '.join(str(error).split())})") from None
        if rows != file.rows:
            raise UserError(f"{what}: {file.path} has {rows} rows, {file.rows} in its manifest")
        total += rows
    if manifest.kind == "dataset" and total != manifest.rows.written:
        raise UserError(f"{what}: its files have {total} rows, its manifest says {manifest.rows.written}")


def first_fault(manifest: Manifest, root: Path, *, contents: bool = True) -> str | None:
    """Say in words what is wrong with a folder's files, the first fault alone; None where they are the manifest's.

    Args:
        manifest: what the folder should hold.
        root: the folder.
        contents: False looks at names and sizes alone and reads no file.
    """
    if content_digest(manifest.files) != manifest.digest:
        return f"{FILE_NAME} contradicts itself: its digest is not that of its files"
    # Names and sizes first: hashing the files can take minutes.
    findings = file_findings(manifest, root, contents=False)
    if not findings and contents:
        findings = file_findings(manifest, root)
    return _sentence(findings[0]) if findings else None


def _sentence(finding: Finding) -> str:
    """Return a finding as a part of an error message."""
    where = finding.where
    if finding.stored == "not listed":
        return f"{where} is not named in its manifest"
    if finding.what == "file":
        return f"{where} is {finding.found}; its manifest names it"
    if finding.what == "size":
        return f"{where} is damaged: it has {finding.found} bytes, {finding.stored} in its manifest"
    return f"{where} is damaged: its SHA-256 is not the manifest's"
