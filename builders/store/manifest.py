"""The manifest of a revision: where it came from, how it was made, what is in it.

It holds neither clock time nor local paths, so the same inputs give the same manifest and the same revision. Format 2
names the pipeline and the kind of every parent; a manifest of format 1 is upgraded when it is read.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
)

from builders.store.files import file_sha256
from builders.store.ref import REPO
from scorers.errors import UserError

FILE_NAME = "manifest.json"
FIGURE = re.compile(r"figure(-[a-z_]+)?\.png")
"""The pictures that a card may show; like the card they stand beside the manifest and are not listed in it."""
AGAIN = "delete its folder and build or fetch the revision again"
"""The way out of a manifest that is damaged or lost."""
TRAINING_STATE = "training_state"
"""The folder in which a model's revision keeps its optimizer's state, from which a later training goes on."""
TRAINING_LOG = "training_log.jsonl"
"""The file in which a model's revision keeps what each step of its training logged."""
HASHED_AT_ONCE = 8
"""Files that are hashed side by side."""
Kind = Literal["dataset", "model"]
Name = Annotated[str, Field(pattern=r"^\w[\w.:-]*$", max_length=96)]
"""Of a pipeline or a stage, such as `world:seeds`; manifests come from other people, and no name may be a path."""
FORMAT = 2
"""Version of the manifest's layout that is written, and the highest that is read."""


class _Record(BaseModel):
    """Base of all parts: immutable, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Parent(_Record):
    """A revision, of a dataset or of a model, from which this one was made.

    Attributes:
        stage: name of the stage that made it.
        kind: `dataset` or `model`.
        round: its round; None where it has no manifest that says so.
        repo: its repository, or the stem of a path.
        revision: its commit on the Hub or its name in the store.
        digest: its content digest.
        subset: the configuration that was read of a dataset from elsewhere; None for the one called `default`.
        split: the split that was read of it; None for `train`.
    """

    stage: str
    kind: Kind
    round: int | None = None
    repo: str
    revision: str
    digest: str
    subset: str | None = None
    split: str | None = None

    @model_serializer(mode="wrap")
    def _without_part(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out subset and split where there are none, so that manifests without them keep their bytes."""
        fields: dict[str, Any] = handler(self)
        return {key: value for key, value in fields.items() if value is not None or key not in ("subset", "split")}


class Model(_Record):
    """A model that took part.

    Attributes:
        id: its repository, or the name of a folder.
        revision: its commit on the Hub, its name in the store, or the digest of the folder's files.
    """

    id: str
    revision: str

    def __str__(self) -> str:
        return f"{self.id}@{self.revision}"


class Rows(_Record):
    """Numbers of rows: read, written, and dropped by reason."""

    read: NonNegativeInt
    written: NonNegativeInt
    dropped: dict[str, NonNegativeInt] = {}


class DataFile(_Record):
    """One file of the revision.

    Attributes:
        path: relative to the revision's folder, with forward slashes.
        size: bytes.
        sha256: 64 hex digits.
        rows: number of rows; None for a file that is no table.
    """

    path: str
    size: NonNegativeInt
    sha256: str
    rows: NonNegativeInt | None = None


class Summary(_Record):
    """Distribution of one numeric column.

    Attributes:
        count: rows with a value; the statistics are over these.
        null: rows without one.
        std: population standard deviation; the other statistics are named as usual, q10 being the 10 % quantile.
    """

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
    """Everything that a card, a reader or a later stage needs to know of a revision.

    Attributes:
        format: version of this layout.
        pipeline: name of the pipeline.
        kind: `dataset` or `model`.
        stage: name of the stage.
        stage_version: version of the stage.
        code_version: version of the installed package.
        repo: the repository, in the store or on the Hub.
        round: the round; 0 for a stage whose result all rounds share.
        fingerprint: hash of everything that decided the data.
        random_seed: root of every random draw.
        configuration: the settings that decided the data, by section.
        execution: the settings that decided time and memory alone, such as batch sizes, devices and workers.
        bytes_depend_on: what the exact bytes depend on beyond the fingerprint.
        prompts: the prompts' texts by name.
        parents: the revisions it was made from.
        models: the models that took part, by role.
        rows: rows read, written and dropped.
        counts: the stage's other counts.
        metrics: distributions of numeric columns.
        results: means and losses of a training.
        files: the data files, or a model's files.
        digest: content digest of the files.
        training_state: the files of the folder `training_state`, which do not count for the digest: the same weights
            with and without them are the same model. None where the revision has none.
        training_log: the files of what each training step logged, which do not count for the digest either. None where
            the revision has none.
    """

    format: Literal[2] = 2
    pipeline: Name
    kind: Kind = "dataset"
    stage: Name
    stage_version: int
    code_version: str
    repo: Annotated[str, Field(pattern=f"^{REPO.pattern}$")]
    round: NonNegativeInt
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
    training_state: list[DataFile] | None = None
    training_log: list[DataFile] | None = None

    @field_validator("training_state")
    @classmethod
    def _in_its_folder(cls, files: list[DataFile] | None) -> list[DataFile] | None:
        """Check that no file of the model itself is kept out of the digest."""
        if any(not file.path.startswith(f"{TRAINING_STATE}/") for file in files or ()):
            raise ValueError(f"a file outside the folder {TRAINING_STATE}")
        return files

    @field_validator("training_log")
    @classmethod
    def _named_as_logs(cls, files: list[DataFile] | None) -> list[DataFile] | None:
        """Check that no file of the model itself is kept out of the digest."""
        if any(file.path.rpartition("/")[2] != TRAINING_LOG for file in files or ()):
            raise ValueError(f"a file of another name than {TRAINING_LOG}")
        return files

    @property
    def apart(self) -> list[DataFile]:
        """The files that the digest leaves out: the same weights with and without them are the same model."""
        return [*(self.training_state or ()), *(self.training_log or ())]

    def to_json(self) -> str:
        """Return canonical JSON: sorted keys, so that equal manifests are equal bytes."""
        value = self.model_dump()
        for name in ("training_state", "training_log"):
            if value[name] is None:
                del value[name]  # as it is in every manifest that has none
        return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @property
    def revision(self) -> str:
        """The revision's name in the local store: SHA-1 of the manifest, 40 hex digits as a Hub commit has."""
        return hashlib.sha1(self.to_json().encode()).hexdigest()


def portable(value: Any) -> Any:
    """Return a configuration as plain JSON values; an absolute path becomes its last part."""
    if isinstance(value, dict):
        return {key: portable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [portable(item) for item in value]
    # A folder of one machine means nothing elsewhere, and would make equal runs differ.
    if isinstance(value, str) and Path(value).is_absolute():
        return Path(value).name
    return value


def fingerprint_of(value: object) -> str:
    """Return the SHA-256 of a JSON value, 64 hex digits; it decides whether a revision is stale."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def describe_files(root: Path, files: Iterable[Path], rows: Mapping[str, int] | None = None) -> list[DataFile]:
    """Return path, size and SHA-256 of each file; several are read at a time.

    Args:
        root: the folder to which paths are relative.
        files: files below it.
        rows: number of rows by relative path, for tables.
    """

    def described(file: Path) -> DataFile:
        name = file.relative_to(root).as_posix()
        return DataFile(path=name, size=file.stat().st_size, sha256=file_sha256(file), rows=(rows or {}).get(name))

    # Hashing leaves Python's lock free; one core does 1.5 GB a second, which are minutes for a large model.
    with ThreadPoolExecutor(HASHED_AT_ONCE) as threads:
        return list(threads.map(described, files))


def content_digest(files: Iterable[DataFile]) -> str:
    """Return the SHA-256 over the sorted (path, SHA-256) pairs of the data files.

    Equal digests mean equal content; names of repositories, commits and cards do not count.
    """
    lines = sorted(f"{file.path}\0{file.sha256}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def is_manifest(value: object) -> bool:
    """Whether a parsed manifest.json is meant as one of this project's; other software has files of that name."""
    return isinstance(value, dict) and {"stage", "digest", "files"} <= value.keys()


def has_manifest(folder: Path) -> bool:
    """Whether a folder has a manifest.json that is meant as one of this project's."""
    try:
        return is_manifest(json.loads((folder / FILE_NAME).read_bytes()))
    except (FileNotFoundError, ValueError, RecursionError):
        return False


def read_manifest(folder: Path) -> Manifest | None:
    """Read the manifest of a snapshot folder; None where there is none, as in a dataset of another project.

    Raises:
        UserError: for a file that is not a valid manifest, and for one of a newer version of this project.
    """
    path = folder / FILE_NAME
    return parse_manifest(path.read_bytes(), str(path), AGAIN) if path.is_file() else None


def parse_manifest(content: bytes, what: str, way_out: str) -> Manifest:
    """Read the content of a manifest.

    Args:
        content: the file's bytes.
        what: what messages call the file.
        way_out: what a user can do about a faulty one.

    Raises:
        UserError: as `read_manifest`.
    """
    try:
        value = json.loads(content)
        _require_known_format(value, what)
        # RecursionError, below: a foreign file may be nested without end.
        return Manifest.model_validate(_upgraded(value), strict=False)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        where = ".".join(map(str, faults[0]["loc"])) or "it"
        # Format 1 gained its last field long ago.
        newest = isinstance(value, dict) and value.get("format") == FORMAT
        if newest and all(fault["type"] == "extra_forbidden" for fault in faults):
            raise _newer(what, f"this one does not know its field {where}") from None
        raise UserError(f"{what}: not a manifest: {where}: {faults[0]['msg']}; {way_out}") from None
    except (ValueError, RecursionError):
        raise UserError(f"{what}: not a manifest: it is no JSON; {way_out}") from None


def _require_known_format(value: object, what: str) -> None:
    """Check that a manifest is not of a later format than this version reads.

    Raises:
        UserError: for one that is.
    """
    found = value.get("format") if isinstance(value, dict) else None
    if isinstance(found, int) and found > FORMAT:
        raise _newer(what, f"format {found}, this one reads up to {FORMAT}")


def _newer(what: str, why: str) -> UserError:
    """Return the error for a manifest that a later version of this project wrote."""
    return UserError(f"{what}: written by a newer version of this project: {why}; upgrade")


def _upgraded(value: object) -> object:
    """Return a manifest of format 1 in format 2; any other value as it is.

    Format 1 knew one pipeline, GRACE-KTO, and two stages that yield models. It called the policy's stage `train`, the
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
    """Return the settings of a manifest of format 1 under the names of format 2.

    In format 2 random_seed is one of the settings of the stages that draw samples.
    """
    engine = configuration.get("engine")
    if not isinstance(engine, dict):
        return configuration
    # In format 2 each kind of engine has its own settings only; tensor_parallel is vLLM's.
    settings = {key: value for key, value in engine.items() if key != "tensor_parallel" or engine.get("kind") == "vllm"}
    others = {key: value for key, value in configuration.items() if key != "engine"}
    return {"engines.policy": settings, "random_seed": random_seed, **others}


def _upgraded_parent(parent: dict[str, Any]) -> dict[str, Any]:
    """Return a parent of a manifest of format 1 with its kind and, where its name tells, its round."""
    stage, _, tag = str(parent.get("stage")).partition(" ")
    kind = "model" if stage in ("sft", "train") else "dataset"
    # The queries of an earlier round, which format 1 named `queries round-002`.
    if stage == "queries" and tag.startswith("round-") and tag[6:].isdecimal():
        return {**parent, "stage": "generate", "kind": kind, "round": int(tag[6:])}
    return {**parent, "stage": "policy" if stage == "train" else parent.get("stage"), "kind": kind}
