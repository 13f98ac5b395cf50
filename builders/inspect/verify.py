"""`grace verify`: whether a revision is what its manifest says, and its weights what its scores give.

Every file's SHA-256, size and rows, the content digest, the columns of the stage's contract; for a weights dataset the
ranks, rewards, weights and labels are computed again (eq. 5–10) from the scores columns with the manifest's own
coefficients. Nothing is trusted: paths that leave the revision are not followed.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from builders.grace_kto.calibrate import Totals, add_rewards, add_weights, totals_of
from builders.grace_kto.columns import RANKED, Column
from builders.hub.refs import open_revision
from builders.report.console import print_json, print_table
from builders.settings.load import CalibrateSettings
from builders.store.manifest import FILE_NAME, DataFile, Manifest, content_digest, file_sha256
from builders.store.store import Kind, Revision, Store, parse_ref
from scorers.errors import UserError
from training.pipelines import GRACE_KTO

TOLERANCE = 1e-9  # a recomputed number may differ by this much, absolutely
ROWS_SHOWN = 5  # differing rows that are listed of each column
RUN_QUERIES = 4096  # queries recomputed together where a group is spread over files
KINDS: tuple[Kind, ...] = ("dataset", "model")
CALIBRATED = (*(f"rank_{metric}" for metric in RANKED), "rank_sum", "reward", "weight", "label")


@dataclass(frozen=True)
class Finding:
    """One difference: the file or response it is in, what differs, the stored value and the one found instead."""

    where: str
    what: str
    stored: str
    found: str


def open_any(text: str, store: Store) -> Revision:
    """The dataset or model a REF names: a path, else the store's, else the Hub's; a dataset before a model.

    Raises:
        UserError: where there is neither.
    """
    ref = parse_ref(text)
    if ref.path is not None:
        return open_revision(text, store)
    for kind in KINDS:
        found = store.find(ref.repo, ref.revision, kind) if ref.revision else store.latest(ref.repo, kind)
        if found is not None:
            return found
    from builders.hub.client import NotOnHub

    try:
        return open_revision(text, store, "dataset")
    except NotOnHub as no_dataset:
        try:
            return open_revision(text, store, "model")
        except NotOnHub:
            raise no_dataset from None


def verify(revision: Revision) -> list[Finding]:
    """Everything in which a revision differs from its manifest, its contract or the method; empty where all is well.

    Of a model only the files and the card are looked at.

    Raises:
        UserError: where there is no manifest to compare with.
    """
    manifest = revision.manifest
    if manifest is None:
        raise UserError(f"{revision}: no {FILE_NAME} in it, so there is nothing to verify it against")
    findings = _check_name(revision) + _check_files(manifest, revision.path)
    card = revision.path / "README.md"
    if not card.is_file() or not card.stat().st_size:
        findings.append(Finding("README.md", "card", "a card", "missing or empty"))
    if manifest.kind == "dataset":
        findings += _check_rows(manifest, revision.path)
    return findings


def _check_name(revision: Revision) -> list[Finding]:
    """A revision that was never published is named by its manifest's SHA-1; a published one by the Hub's commit."""
    path = revision.path / FILE_NAME
    if revision.repo.partition("/")[0] != "local" or revision.path.name != revision.revision or not path.is_file():
        return []
    name = hashlib.sha1(path.read_bytes()).hexdigest()
    return [] if name == revision.revision else [Finding(FILE_NAME, "sha1", revision.revision, name)]


def _check_files(manifest: Manifest, root: Path) -> list[Finding]:
    """Digests and sizes of the files the manifest lists, files it does not list, and the content digest."""
    findings: list[Finding] = []
    present = []
    for file in manifest.files:
        path = inside(root, file.path)
        if path is None or not path.is_file():
            found = "missing" if path else "a path outside the revision, not read"
            findings.append(Finding(file.path, "file", f"{file.size} bytes", found))
            continue
        actual = DataFile(path=file.path, size=path.stat().st_size, sha256=file_sha256(path))
        present.append(actual)
        if actual.size != file.size:
            findings.append(Finding(file.path, "size", str(file.size), str(actual.size)))
        if actual.sha256 != file.sha256:
            findings.append(Finding(file.path, "sha256", file.sha256, actual.sha256))
    listed = {file.path for file in manifest.files}
    findings += [Finding(name, "file", "not listed", "present") for name in sorted(_payload(manifest, root) - listed)]
    digest = content_digest(present)
    if digest != manifest.digest:
        findings.append(Finding(FILE_NAME, "digest", manifest.digest, digest))
    return findings


def inside(root: Path, name: str) -> Path | None:
    """The path of a file that a manifest names; None for a name that leads out of the revision."""
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or name.startswith("/") or "\0" in name:
        return None
    return root.joinpath(*parts)


def _payload(manifest: Manifest, root: Path) -> set[str]:
    """Files that the manifest should list: all under data/ of a dataset, all but card and manifest of a model."""
    base = root / "data" if manifest.kind == "dataset" else root
    names = {path.relative_to(root) for path in base.rglob("*") if path.is_file()}
    kept = (name for name in names if not any(part.startswith(".") for part in name.parts))
    return {name.as_posix() for name in kept if name.name not in (FILE_NAME, "README.md")}


def _check_rows(manifest: Manifest, root: Path) -> list[Finding]:
    """Row counts, the contract of the stage, and for weights the calibration."""
    stage = next((s for s in GRACE_KTO if s.name == manifest.stage), None)
    if stage is None:
        known = ", ".join(s.name for s in GRACE_KTO)
        return [Finding(FILE_NAME, "stage", manifest.stage, f"unknown; stages: {known}")]
    findings: list[Finding] = []
    files: dict[str, Path] = {}
    total = 0
    for file in manifest.files:
        path = inside(root, file.path)
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
        try:
            findings += _check_columns(file.path, path, stage.columns)
        except pl.exceptions.PolarsError as error:
            findings.append(Finding(file.path, "content", "readable Parquet", str(error).splitlines()[0]))
    if total != manifest.rows.written:
        findings.append(Finding(FILE_NAME, "rows", str(manifest.rows.written), str(total)))
    if stage.name == "calibrate":
        findings += _check_calibration(manifest, files, sound=not findings)
    return findings


def _readable_rows(path: Path) -> int | str:
    """Rows of a file that decodes completely; else why it does not."""
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
        for group in range(file.num_row_groups):
            file.read_row_group(group)
        pl.scan_parquet(path, glob=False).collect_schema()
    except (pa.ArrowException, pl.exceptions.PolarsError, OSError) as error:
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    return int(file.metadata.num_rows)


def _check_columns(name: str, path: Path, columns: Iterable[Column]) -> Iterator[Finding]:
    """Columns and types of one file against the contract; nulls and non-finite numbers where none may be."""
    scan = pl.scan_parquet(path, glob=False)
    found = scan.collect_schema()
    contract = {column.name: column for column in columns}
    for column in found.names():
        if column not in contract:
            yield Finding(name, f"column {column}", "not in the contract", str(found[column]))
    for column, rule in contract.items():
        if found.get(column) != rule.dtype:
            yield Finding(name, f"column {column}", str(rule.dtype), str(found.get(column, "missing")))
            continue
        bad = pl.lit(False) if rule.nullable else pl.col(column).is_null()
        if rule.dtype.is_float():
            bad = bad | ~pl.col(column).is_finite().fill_null(True)
        elif rule.nullable:
            continue
        count = scan.select(bad.sum()).collect().item()
        if count:
            wanted = "finite, or null" if rule.nullable else "a value in each row"
            yield Finding(name, f"column {column}", wanted, f"{count} rows without")


def _check_calibration(manifest: Manifest, files: dict[str, Path], *, sound: bool) -> list[Finding]:
    """Compute ranks, rewards, weights and labels again and list the first rows that differ."""
    try:
        settings = CalibrateSettings.model_validate(manifest.configuration.get("calibrate"))
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(["configuration.calibrate", *map(str, fault["loc"])])
        return [Finding(FILE_NAME, where, "the coefficients", fault["msg"])]
    if not sound or not files:
        return [Finding("data/", "calibration", "", "not recomputed: the rows are incomplete or do not fit")]
    pieces = list(_pieces(list(files.values())))
    totals = Totals()
    for piece in pieces:
        totals += totals_of(add_rewards(piece.select("query_id", *RANKED).collect(), settings.coefficients)["reward"])
    counts = dict.fromkeys(CALIBRATED, 0)
    findings: list[Finding] = []
    for piece in pieces:
        stored = piece.select("response_id", "query_id", *RANKED, *CALIBRATED).collect()
        rewards = add_rewards(stored.select("query_id", *RANKED), settings.coefficients)
        for column, differing in _differences(stored, add_weights(rewards, totals, binary=settings.binary)):
            shown = differing.head(max(0, ROWS_SHOWN - counts[column]))
            findings += [Finding(row[0], column, str(row[1]), str(row[2])) for row in shown.rows()]
            counts[column] += differing.height
    return findings + [
        Finding("data/", column, "", f"{count} rows differ, {ROWS_SHOWN} shown")
        for column, count in counts.items()
        if count > ROWS_SHOWN
    ]


def _pieces(files: list[Path]) -> Iterator[pl.LazyFrame]:
    """Parts of the dataset that hold whole groups: its files, or runs of queries where groups are spread over files."""
    scans = [pl.scan_parquet(file, glob=False) for file in files]
    everything = pl.scan_parquet(files, glob=False)
    distinct = pl.col("query_id").n_unique()
    if sum(s.select(distinct).collect().item() for s in scans) == everything.select(distinct).collect().item():
        yield from scans
        return
    ids = everything.select(pl.col("query_id").unique(maintain_order=True)).collect()["query_id"]
    for start in range(0, len(ids), RUN_QUERIES):
        yield everything.filter(pl.col("query_id").is_in(ids[start : start + RUN_QUERIES].implode()))


def _differences(stored: pl.DataFrame, computed: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    """Per column the rows (response_id, stored, computed) that differ by more than the tolerance, or in being null."""
    for column in CALIBRATED:
        pair = pl.DataFrame({"id": stored["response_id"], "stored": stored[column], "computed": computed[column]})
        differ = pl.col("stored").ne_missing(pl.col("computed"))
        if column != "label":
            near = (pl.col("stored") - pl.col("computed")).abs() <= TOLERANCE
            differ = differ & ~near.fill_null(False)
        yield column, pair.filter(differ)


def print_findings(revision: Revision, findings: list[Finding], *, as_json: bool) -> None:
    """What `grace verify` found: a table, or one line where all is well."""
    manifest = revision.manifest
    rows = manifest.rows.written if manifest and manifest.kind == "dataset" else None
    files = len(manifest.files) if manifest else 0
    if as_json:
        value: dict[str, Any] = {"repo": revision.repo, "revision": revision.revision, "digest": revision.digest}
        print_json(value | {"rows": rows, "files": files, "ok": not findings, "findings": [*map(asdict, findings)]})
    elif findings:
        table = [tuple(plain(cell) for cell in asdict(finding).values()) for finding in findings]
        print_table(f"{revision} differs", ("where", "what", "stored", "found"), table)
    else:
        counted = "" if rows is None else f"{rows} rows, "
        print(f"ok: {revision}, digest {revision.digest}, {counted}{files} files")


def plain(text: str) -> str:
    """Text from a manifest or dataset for a terminal: control characters become visible escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
