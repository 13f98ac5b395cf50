"""Whether the files of a revision are those its manifest lists: the one comparison of pull, publish and verify."""

from dataclasses import dataclass
from pathlib import Path

from builders.store.files import file_sha256, inside
from builders.store.manifest import FIGURE, FILE_NAME, DataFile, Manifest, content_digest
from scorers.errors import UserError


@dataclass(frozen=True)
class Finding:
    """One difference: the file or row it is in, what differs, the stored value and the one found instead."""

    where: str
    what: str
    stored: str
    found: str


def file_findings(manifest: Manifest, root: Path) -> list[Finding]:
    """Files that are missing, differ in size or SHA-256, lead out of the folder or are not listed; the digest."""
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


def _payload(manifest: Manifest, root: Path) -> set[str]:
    """Files that the manifest should list: all under data/ of a dataset and every Parquet file, all but card, figure
    and manifest of a model."""
    if manifest.kind == "dataset":
        paths = {*(root / "data").rglob("*"), *root.rglob("*.parquet")}
    else:
        paths = set(root.rglob("*"))
    names = {path.relative_to(root) for path in paths if path.is_file()}
    kept = (name for name in names if not any(part.startswith(".") for part in name.parts))
    return {name.as_posix() for name in kept if name.name not in (FILE_NAME, "README.md", FIGURE)}


def require_whole(manifest: Manifest, root: Path, what: str) -> None:
    """Refuse a folder whose files are not those of its manifest.

    Raises:
        UserError: naming the first file that is missing, damaged, not listed or outside.
    """
    if content_digest(manifest.files) != manifest.digest:
        raise UserError(f"{what}: {FILE_NAME} contradicts itself: its digest is not that of its files")
    findings = file_findings(manifest, root)
    if not findings:
        return
    raise UserError(f"{what}: {_sentence(findings[0])}")


def _sentence(finding: Finding) -> str:
    where = finding.where
    if finding.stored == "not listed":
        return f"{where} is not named in its manifest"
    if finding.what == "file":
        return f"{where} is {finding.found}; its manifest names it"
    what = finding.what.replace("sha256", "SHA-256")
    return f"{where} is damaged: its {what} is not the manifest's; pull or build again"
