"""Finding models by the names in a configuration, and keeping loaded models in memory from shard to shard.

A model's identity is its id with its commit on the Hub, its revision in the store, or the digest of its files; that
identity goes into fingerprints, manifests and the columns that name a model.
"""

import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from builders.engines import POLICY, Message, load_engine
from builders.engines.loading import load_tokenizer_and_config
from builders.engines.prompts import check_template
from builders.settings.base import Settings
from builders.settings.engines import (
    EngineSettings,
    LocalEngineSettings,
    OpenAIEngineSettings,
    TransformersEngineSettings,
    VllmEngineSettings,
)
from builders.store.adapter import adapters_in
from builders.store.files import ADAPTER_CONFIG
from builders.store.manifest import Model, has_manifest, read_manifest
from builders.store.ref import is_commit, valid_revision
from builders.store.revision import Revision
from builders.store.store import Store
from scorers.context import stretch
from scorers.errors import UserError
from scorers.model_loading import check_attention_only, check_weights

if TYPE_CHECKING:
    from builders.engines import Engine

T = TypeVar("T")
VLLM_ALONE = ("tensor_parallel", "pipeline_parallel", "memory_share", "sleep")
_FOLDER_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class LocalModel:
    """A model on disk.

    Attributes:
        record: its identity, as manifests name it.
        path: folder of the model; for an adapter, folder of the base model.
        adapter: folder of a LoRA adapter on top of `path`; None for a complete model.
    """

    record: Model
    path: Path
    adapter: Path | None = None


@dataclass(frozen=True)
class ServedModel:
    """A model that a server runs.

    Attributes:
        record: its identity, as manifests name it: the name there, and a digest of what the server says of it.
        window: its context window in tokens.
        setting: path of the engine's section, for messages.
    """

    record: Model
    window: int
    setting: str


AnyModel = LocalModel | ServedModel


def on_disk(model: AnyModel, what: str) -> LocalModel:
    """Return a model whose files are needed.

    Args:
        model: the model.
        what: what needs its files, for the message.

    Raises:
        UserError: for a model that a server runs.
    """
    if isinstance(model, ServedModel):
        raise UserError(
            f"{what} needs the files of model {model.record.id}, which a server runs ({model.setting}.kind is openai); "
            f"name a model of this machine or of the Hub, and set {model.setting}.kind to transformers or vllm, or "
            f"write {model.record.id}@main for the files of that name"
        )
    return model


def require_distinct(models: Iterable[tuple[str, LocalModel]], what: str) -> None:
    """Check that no model is compared with itself, under one name or two.

    Args:
        models: names with models.
        what: what compares them, for the message.

    Raises:
        UserError: two names stand for the same revision, or one is there twice.
    """
    names: dict[str, str] = {}
    for name, model in models:
        if (first := names.get(model.record.revision)) == name:
            raise UserError(f"{what}: {name} is named twice; leave one out")
        names[model.record.revision] = name
        if first is not None:
            raise UserError(f"{what}: {first} and {name} are the same model, {model.record}; leave one out")


@dataclass
class ModelFinder:
    """Resolves model names to models.

    A name is that of a model on a server, a folder, a repository of the store or a repository on the Hub, tried in this
    order. Each name is resolved once and a folder is hashed once, so one finder gives the same answer throughout a run.
    """

    store: Store
    served: Mapping[str, tuple[str, OpenAIEngineSettings]] = field(default_factory=dict)
    """By the name of a model that a server runs: path and settings of its engine; see `served_by`."""
    _known: dict[str, LocalModel] = field(default_factory=dict)
    _asked: dict[str, ServedModel] = field(default_factory=dict)

    def find_any(self, name: str) -> AnyModel:
        """Find a model by the name a configuration gives it, also one that a server runs.

        Raises:
            UserError: as `find`, and where the server cannot be reached or does not have it.
        """
        if name not in self.served:
            return self.find(name)
        if name not in self._asked:
            from builders.engines.openai_engine import describe_model

            setting, settings = self.served[name]
            record, window = describe_model(name, settings, setting)
            self._asked[name] = ServedModel(record, window, setting)
        return self._asked[name]

    def find(self, name: str) -> LocalModel:
        """Find a model by the name a configuration gives it.

        Args:
            name: a folder, or `repo[@revision]` in the store or on the Hub.

        Raises:
            UserError: where neither a folder, the store nor the Hub has a model of this name.
        """
        if name not in self._known:
            found = self._find(name)
            # Also under `id@revision`, the form in which a manifest names the base of an adapter.
            self._known[name] = self._known[str(found.record)] = found
        return self._known[name]

    def _find(self, name: str) -> LocalModel:
        """Look a model up: a folder, then the store, then the Hub."""
        # A folder has no commit: its files are its identity.
        if Path(name).is_dir():
            ours = self._require_whole(Path(name))
            if ours is not None and adapters_in(ours.path):
                return self.of(ours)
            if not (Path(name) / "config.json").is_file():
                found = "an adapter" if (Path(name) / ADAPTER_CONFIG).is_file() else "no config.json in it"
                raise UserError(f"model {name}: {found}; give the folder of a whole model")
            if ours is None:
                check_weights(Path(name))
            return LocalModel(Model(id=Path(name).name, revision=self.store.digest_of(Path(name))), Path(name))
        repo, _, revision = name.partition("@")
        if _FOLDER_DIGEST.fullmatch(revision):
            return self._folder_of(name, revision)
        stored = self.store.find(repo, revision or "main", "model")
        return self.of(stored) if stored else _from_hub(repo, revision or None)

    def _folder_of(self, name: str, digest: str) -> LocalModel:
        """Find the folder that a manifest names as a base model among those that were found before, by its content."""
        same = next((model for model in self._known.values() if model.record.revision == digest), None)
        if same is None:
            raise UserError(
                f"model {name}: was a folder, and no model of this configuration has its content; name that folder in "
                "models again, or make the rounds from round 1 on anew"
            )
        return same

    def _require_whole(self, folder: Path) -> Revision | None:
        """Check a folder that this project wrote, whose manifest says what belongs into it; None for any other."""
        if not has_manifest(folder) or (manifest := read_manifest(folder)) is None:
            return None
        # A snapshot of a store is named by the bytes of its manifest, which may be of format 1.
        revision = folder.name if is_commit(folder.name) else manifest.revision
        found = Revision(manifest.repo, revision, folder, manifest)
        self.store.require_whole(found)
        return found

    def of(self, revision: Revision) -> LocalModel:
        """Return the model of a revision in the store; an adapter comes with the base model it was trained on.

        Raises:
            UserError: for a revision that is damaged, and for an adapter whose manifest names no base model, or whose
                base model cannot be found.
        """
        self.store.require_whole(revision)
        record = Model(id=revision.repo, revision=revision.revision)
        if not adapters_in(revision.path):
            return LocalModel(record, revision.path)
        if revision.manifest is None or "base" not in revision.manifest.models:
            raise UserError(f"{revision}: an adapter without the model it belongs to in its manifest; pull it again")
        return LocalModel(record, self.find(str(revision.manifest.models["base"])).path, revision.path)


def served_by(config: Settings) -> dict[str, tuple[str, OpenAIEngineSettings]]:
    """Return path and settings of the engines that ask a server, by the name of the role's model there.

    Raises:
        UserError: one name is given to two engines that differ, so that it does not tell which model is meant.
    """
    engines = getattr(config, "engines", None)
    if engines is None:
        return {}
    roles = type(engines).model_fields
    named = [(role, name, getattr(engines, role)) for role in roles for name in config.models_of(role)]
    served: dict[str, tuple[str, OpenAIEngineSettings]] = {}
    for role, name, settings in named:
        if settings.kind != "openai":
            continue
        others = (other for other, found, engine in named if found == name and engine != settings)
        if (other := next(others, None)) is not None:
            if getattr(engines, other).kind == "openai":
                raise UserError(
                    f"models.{role} and models.{other} are both {name}, and engines.{role} and engines.{other} ask "
                    "servers in different ways; give both engines the same settings, or let one server call its model "
                    "by another name (vLLM: --served-model-name)"
                )
            raise UserError(
                f"models.{role} and models.{other} are both {name}, and engines.{role} asks a server otherwise than "
                f"engines.{other}; give both engines the same settings, or call one of the models by another name, "
                f"such as {name}@main for the files of that name"
            )
        served.setdefault(name, (f"engines.{role}", settings))
    return served


def _from_hub(repo: str, revision: str | None) -> LocalModel:
    """Download a model of the Hub at its newest or at the given revision."""
    from builders.hub.pull import download_model

    if revision is not None and not valid_revision(revision):
        raise UserError(f"model {repo}@{revision}: not a branch, tag or commit")
    path, commit = download_model(repo, revision)
    return LocalModel(Model(id=repo, revision=commit), path)


class Loaded:
    """A cache of loaded models: loaded on first use, released when a stage needs other models."""

    def __init__(self) -> None:
        self._held: dict[tuple[AnyModel, Hashable], Any] = {}

    def get(self, model: AnyModel, use: Hashable, load: Callable[[], T]) -> T:
        """Return a model as it was loaded for one use, loading it the first time.

        Args:
            model: the model on disk.
            use: what it is loaded as, with the settings that matter, such as `("engine", settings)`; one model may be
                loaded for several uses.
            load: loads it.
        """
        key = (model, use)
        if key not in self._held:
            self._held[key] = load()
        loaded: T = self._held[key]
        return loaded

    def keep(self, models: Iterable[AnyModel]) -> None:
        """Release all models except these."""
        kept = set(models)
        for key in [key for key in self._held if key[0] not in kept]:
            value = self._held.pop(key)
            # Engines free a GPU's memory in `close`; scorers and tokenizers are freed with their last reference.
            if hasattr(value, "close"):
                value.close()

    def __reduce__(self) -> tuple[type["Loaded"], tuple[()]]:
        return (Loaded, ())  # pickled as an empty cache: loaded models stay in their process


def pick_device(device: str) -> str:
    """Resolve the device `auto` to `cuda` where PyTorch finds a GPU, else to `cpu`; others are kept."""
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def pick_dtype(dtype: str, device: str) -> str:
    """Resolve the dtype `auto` to `bfloat16` on a GPU and to `float32` on a CPU; others are kept."""
    if dtype != "auto":
        return dtype
    return "bfloat16" if device.startswith("cuda") else "float32"


def set_threads(threads: int | None) -> None:
    """Set the number of CPU threads of torch; None leaves torch's default.

    Torch splits sums among its threads, so results are equal bit for bit only for equal numbers of threads.
    """
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def require_policy(
    settings: LocalEngineSettings, model: LocalModel, prompts: Sequence[Sequence[Message]], setting: str = POLICY
) -> None:
    """Check that an engine can run a model, by the model's configuration and tokenizer alone.

    Args:
        settings: the engine's.
        model: the model.
        prompts: prompts such as it will be given.
        setting: path of the engine's section, for messages.

    Raises:
        UserError: the chat template is missing or cannot render the prompts; the context does not fit the model; the
            engine cannot run its architecture.
    """
    name = str(model.path)
    tokenizer, config = load_tokenizer_and_config(name, None, settings.chat_template)
    check_template(tokenizer, prompts, settings.chat_template_kwargs, setting)
    _window_of(settings, name, config, setting)
    if settings.kind == "transformers":  # type: ignore[attr-defined]
        check_attention_only(config, name, "the engine transformers", "use the engine vllm or another model")


def _window_of(settings: LocalEngineSettings, name: str, config: Any, setting: str) -> int:
    """Return the context window in tokens that an engine has with a model of a configuration."""
    return stretch(name, config, settings.context.method, settings.context.window, f"{setting}.context").window


@dataclass(frozen=True)
class Window:
    """What an engine says of its model before any weight is loaded.

    Attributes:
        tokenizer: the model's; None where a server has it.
        context_window: largest number of prompt and generated tokens together.
    """

    tokenizer: Any
    context_window: int


def load_window(settings: EngineSettings, model: AnyModel, setting: str = POLICY) -> Window:
    """Load the tokenizer and the window that an engine has with a model, without the model.

    Args:
        settings: the engine's.
        model: the model.
        setting: path of the engine's section, for messages.

    Raises:
        UserError: as `load_engine`, for what can be told without the weights.
    """
    if isinstance(model, ServedModel):
        return Window(None, model.window)
    local, name = _loading(settings, model), str(model.path)
    tokenizer, config = load_tokenizer_and_config(name, None, local.chat_template)
    return Window(tokenizer, _window_of(local, name, config, setting))


def _loading(settings: EngineSettings, model: LocalModel) -> TransformersEngineSettings | VllmEngineSettings:
    """Return the settings of an engine that loads a model which was made here.

    Raises:
        UserError: the engine asks a server.
    """
    if isinstance(settings, OpenAIEngineSettings):
        raise UserError(
            f"model {model.record} was made here, and an engine of kind openai asks a server; set its kind to "
            "transformers or vllm"
        )
    return settings


def load_engine_for(
    settings: EngineSettings, model: AnyModel, adapter_rank: int | None = None, setting: str = POLICY
) -> "Engine":
    """Load the engine that a role's settings describe, with a model and its adapter.

    Args:
        settings: the engine's.
        model: the model.
        adapter_rank: rank of the adapters that the role's later models are, see `Settings.adapter_rank`.
        setting: path of the engine's section, for messages.

    Raises:
        UserError: as `load_engine`; for a model on a server and an engine that loads one, or the other way round.
    """
    if isinstance(model, ServedModel) and isinstance(settings, OpenAIEngineSettings):
        from builders.engines.openai_engine import OpenAIEngine

        return OpenAIEngine(model.record.id, settings, model.window, model.setting)
    model = on_disk(model, f"engine {settings.kind}")
    local = _loading(settings, model)
    device = pick_device(local.device)
    return load_engine(
        local.kind,
        str(model.path),
        adapter=None if model.adapter is None else str(model.adapter),
        device=device,
        dtype=pick_dtype(local.dtype, device),
        batch_size=local.batch_size,
        context_window=local.context.window,
        context_method=local.context.method,
        chat_template=local.chat_template,
        chat_template_kwargs=local.chat_template_kwargs,
        adapter_rank=adapter_rank,
        setting=setting,
        # Settings of vLLM alone.
        **{name: getattr(local, name) for name in VLLM_ALONE if hasattr(local, name)},
    )
