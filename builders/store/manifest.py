"""The manifest of a revision: where it came from, how it was made, what is in it.

It holds no clock time and no path of a machine, so the same inputs give the same manifest and the same revision.
Format 2 names the pipeline and the kind of every parent; a manifest of format 1 is read as one of format 2.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from builders.store.files import file_sha256
from scorers.errors import UserError

FILE_NAME = "manifest.json"
FIGURE = "figure.png"
"""The picture that a card may show; like the card it stands beside the manifest and is not listed in it."""
Kind = Literal["dataset", "model"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Parent(_Record):
    """A dataset or model revision this one was made from; `round` is null where it has no manifest that says it."""

    stage: str
    kind: Kind
    round: int | None = None
    repo: str
    revision: str
    digest: str


class Model(_Record):
    """A model that took part: its id, and its commit, its revision in the store or the digest of its files."""

    id: str
    revision: str

    def __str__(self) -> str:
        return f"{self.id}@{self.revision}"


class Rows(_Record):
    """Rows read, rows written, rows dropped by reason."""

    read: int
    written: int
    dropped: dict[str, int] = {}


class DataFile(_Record):
    """One file of the revision, path relative to its root; rows is null for files without rows."""

    path: str
    size: int
    sha256: str
    rows: int | None = None


class Summary(_Record):
    """Distribution of one numeric column over its non-null rows; null counts those without a value."""

    count: int
    null: int
    mean: float
    std: float
    min: float
    q10: float
    q25: float
    median: float
    q75: float
    q90: float
    max: float


class Manifest(_Record):
    """Everything a card, a reader or a later stage needs to know of a revision.

    `configuration` is what decides the data, `execution` what decided only time and memory (batch sizes, devices,
    workers). `bytes_depend_on` names what else the exact bytes depend on, beyond what the fingerprint covers.
    """

    format: Literal[2] = 2
    pipeline: str
    kind: Kind = "dataset"
    stage: str
    stage_version: int
    code_version: str
    repo: str
    round: int
    fingerprint: str
    random_seed: int
    configuration: dict[str, Any]
    execution: dict[str, Any] = {}
    bytes_depend_on: list[str] = []
    prompts: dict[str, str] = {}
    parents: list[Parent] = []
    models: dict[str, Model] = {}
    rows: Rows
    counts: dict[str, int] = {}
    metrics: dict[str, Summary] = {}
    results: dict[str, float] = {}
    files: list[DataFile]
    digest: str

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, so equal manifests are equal bytes."""
        return json.dumps(self.model_dump(), sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @property
    def revision(self) -> str:
        """The revision's name in the local store: SHA-1 of the manifest, 40 hex digits as a Hub commit."""
        return hashlib.sha1(self.to_json().encode()).hexdigest()


def portable(value: Any) -> Any:
    """A configuration as JSON has it, without folders of the machine: an absolute path becomes its last part."""
    if isinstance(value, dict):
        return {key: portable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [portable(item) for item in value]
    if isinstance(value, str) and Path(value).is_absolute():
        return Path(value).name
    return value


def fingerprint_of(value: object) -> str:
    """SHA-256 of a JSON value; what decides whether a revision is stale."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def describe_files(root: Path, files: Iterable[Path], rows: Mapping[str, int] | None = None) -> list[DataFile]:
    """Path relative to root, size and SHA-256 of each file."""
    described = []
    for file in files:
        name = file.relative_to(root).as_posix()
        described.append(
            DataFile(path=name, size=file.stat().st_size, sha256=file_sha256(file), rows=(rows or {}).get(name))
        )
    return described


def content_digest(files: Iterable[DataFile]) -> str:
    """SHA-256 over the sorted (path, sha256) of the data files: equal digests mean equal content."""
    lines = sorted(f"{file.path}\0{file.sha256}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def is_manifest(value: object) -> bool:
    """Whether the JSON in a manifest.json means to be one of this project's; other software writes such files too."""
    return isinstance(value, dict) and {"stage", "digest", "files"} <= value.keys()


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a snapshot folder; None where there is none (somebody else's dataset).

    Raises:
        UserError: where the file is there but cannot be read as a manifest.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_bytes())
        return Manifest.model_validate(_upgraded(value), strict=False)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(map(str, fault["loc"])) or "it"
        raise UserError(f"{path}: not a manifest: {where}: {fault['msg']}; fetch the revision again") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path}: not a manifest: it is no JSON; fetch the revision again") from None


def _upgraded(value: object) -> object:
    """A manifest of format 1 in format 2.

    Format 1 knew one pipeline, GRACE-KTO, and two stages that yield models; it called the policy's stage `train`, the
    queries of earlier rounds `queries round-NNN` and the settings of the policy's engine `engine`.
    """
    if not isinstance(value, dict) or value.get("format") != 1:
        return value
    upgraded = {**value, "format": 2, "pipeline": "grace-kto"}
    if upgraded.get("stage") == "train":
        upgraded["stage"] = "policy"
    configuration, parents = value.get("configuration"), value.get("parents")
    if isinstance(configuration, dict):
        upgraded["configuration"] = _upgraded_configuration(configuration, value.get("random_seed"))
    if isinstance(parents, list):
        upgraded["parents"] = [_upgraded_parent(parent) if isinstance(parent, dict) else parent for parent in parents]
    return upgraded


def _upgraded_configuration(configuration: dict[str, Any], random_seed: object) -> dict[str, Any]:
    """The stages with an engine draw from the run's seed, which is one of their settings now."""
    engine = configuration.get("engine")
    if not isinstance(engine, dict):
        return configuration
    # Now each kind of engine has its own settings alone.
    settings = {key: value for key, value in engine.items() if key != "tensor_parallel" or engine.get("kind") == "vllm"}
    others = {key: value for key, value in configuration.items() if key != "engine"}
    return {"engines.policy": settings, "random_seed": random_seed, **others}


def _upgraded_parent(parent: dict[str, Any]) -> dict[str, Any]:
    stage, _, tag = str(parent.get("stage")).partition(" ")
    kind = "model" if stage in ("sft", "train") else "dataset"
    if stage == "queries" and tag.startswith("round-") and tag[6:].isdecimal():
        return {**parent, "stage": "generate", "kind": kind, "round": int(tag[6:])}
    return {**parent, "stage": "policy" if stage == "train" else parent.get("stage"), "kind": kind}
