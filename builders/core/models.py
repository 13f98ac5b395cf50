"""Which model a name in the configuration stands for, and keeping models in memory while they are used.

A model is identified by its id and its commit on the Hub, its revision in the store, or the digest of its files; that
identity goes into fingerprints, manifests and the columns that name a model.
"""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from builders.engines import load_engine
from builders.store.files import ADAPTER_CONFIG
from builders.store.manifest import Model, content_digest, describe_files
from builders.store.store import Revision, Store, valid_revision
from scorers.errors import UserError

if TYPE_CHECKING:
    from builders.engines import Engine
    from builders.settings.engines import LocalEngineSettings

T = TypeVar("T")


@dataclass(frozen=True)
class LocalModel:
    """A model on disk. `adapter` is the folder of a LoRA adapter on top of `path`, or None."""

    record: Model
    path: Path
    adapter: Path | None = None


@dataclass
class ModelFinder:
    """Finds models by name: a folder's, the store's or the Hub's; each is looked up, and a folder hashed, once."""

    store: Store
    _known: dict[str, LocalModel] = field(default_factory=dict)

    def find(self, name: str) -> LocalModel:
        """A model by `folder` or `repo[@revision]`.

        Raises:
            UserError: for a name that stands for nothing.
        """
        if name not in self._known:
            found = self._find(name)
            self._known[name] = self._known[str(found.record)] = found
        return self._known[name]

    def _find(self, name: str) -> LocalModel:
        if Path(name).is_dir():
            return LocalModel(Model(id=Path(name).name, revision=folder_digest(Path(name))), Path(name))
        repo, _, revision = name.partition("@")
        stored = self.store.find(repo, revision or "main", "model")
        return self.of(stored) if stored else _from_hub(repo, revision or None)

    def of(self, revision: Revision) -> LocalModel:
        """A model of the store; an adapter comes with the model it was trained on.

        Raises:
            UserError: for an adapter whose base is nowhere.
        """
        record = Model(id=revision.repo, revision=revision.revision)
        if not (revision.path / ADAPTER_CONFIG).is_file():
            return LocalModel(record, revision.path)
        if revision.manifest is None or "base" not in revision.manifest.models:
            raise UserError(f"{revision}: an adapter without the model it belongs to in its manifest; pull it again")
        return LocalModel(record, self.find(str(revision.manifest.models["base"])).path, revision.path)


def folder_digest(folder: Path) -> str:
    """Content digest of a model folder's files."""
    return content_digest(describe_files(folder, sorted(p for p in folder.rglob("*") if p.is_file())))


def _from_hub(repo: str, revision: str | None) -> LocalModel:
    from builders.hub.pull import download_model

    if revision is not None and not valid_revision(revision):
        raise UserError(f"model {repo}@{revision}: not a branch, tag or commit")
    path, commit = download_model(repo, revision)
    return LocalModel(Model(id=repo, revision=commit), path)


class Loaded:
    """Models in memory, each loaded when first asked for and kept until another stage needs the room."""

    def __init__(self) -> None:
        self._held: dict[tuple[LocalModel, Hashable], Any] = {}

    def get(self, model: LocalModel, use: Hashable, load: Callable[[], T]) -> T:
        """What `load` made of a model for a use; made once."""
        key = (model, use)
        if key not in self._held:
            self._held[key] = load()
        loaded: T = self._held[key]
        return loaded

    def keep(self, models: Iterable[LocalModel]) -> None:
        """Give back the memory of all models but these."""
        kept = set(models)
        for key in [key for key in self._held if key[0] not in kept]:
            value = self._held.pop(key)
            if hasattr(value, "close"):
                value.close()

    def __reduce__(self) -> tuple[type["Loaded"], tuple[()]]:
        return (Loaded, ())  # what is loaded stays in its process


def pick_device(device: str) -> str:
    """`auto` becomes cuda where there is one, else cpu."""
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def pick_dtype(dtype: str, device: str) -> str:
    """`auto` becomes bfloat16 on a GPU and float32 on a CPU."""
    if dtype != "auto":
        return dtype
    return "bfloat16" if device.startswith("cuda") else "float32"


def set_threads(threads: int | None) -> None:
    """Give torch its number of threads; results are bit for bit the same only for equal numbers."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def load_engine_for(settings: "LocalEngineSettings", model: LocalModel) -> "Engine":
    """An engine of a role's settings with a model loaded."""
    device = pick_device(settings.device)
    return load_engine(
        settings.kind,  # type: ignore[attr-defined]
        str(model.path),
        adapter=None if model.adapter is None else str(model.adapter),
        device=device,
        dtype=pick_dtype(settings.dtype, device),
        batch_size=settings.batch_size,
        context_window=settings.context_window,
        yarn_factor=settings.yarn_factor,
        tensor_parallel_size=getattr(settings, "tensor_parallel", 1),
    )
