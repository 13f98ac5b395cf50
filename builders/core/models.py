"""Which model a name in the configuration stands for, and loading it once.

A model is identified by its id and its commit on the Hub, its revision in the store, or the digest of its files; that
identity goes into fingerprints, manifests and the `policy` and `generator` columns.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from builders.settings.load import Config
from builders.store.manifest import Model, content_digest
from builders.store.store import Revision, Store, describe_files, round_tag, valid_revision
from scorers.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from builders.engines import Engine
    from scorers.perplexity import Perplexity
    from scorers.relevance import Relevance

WORLD_PREFIX = "world:"
_WORLD_NAME = re.compile(r"world:[a-z0-9][a-z0-9-]*")  # the name may come from a manifest on the Hub


class ModelNotReady(UserError):
    """A model, or the generated world's texts, that this project makes itself has not been made yet."""


@dataclass(frozen=True)
class LocalModel:
    """A model on disk. `adapter` is the folder of a LoRA adapter on top of `path`, or None."""

    record: Model
    path: Path
    adapter: Path | None = None


def sft_repo(config: Config) -> str:
    """Store repository of the model that `train --sft` writes."""
    return f"{config.local_namespace}/{config.name}-sft"


def policy_repo(config: Config) -> str:
    """Store repository of the policies that the rounds write."""
    return f"{config.local_namespace}/{config.name}-policy"


def world_folder(config: Config, store: Store) -> Path:
    """Folder of the generated world."""
    if config.world is None:
        raise UserError(
            "world: is not set, so no `world:` name can be used; give real models and data, or add `world: {}`"
        )
    return store.root / ".world" / f"seed-{config.world.seed}"


def resolve_model(text: str, config: Config, store: Store) -> LocalModel:
    """Find a model by name: the generated world's, the store's, a folder's or the Hub's.

    Raises:
        ModelNotReady: for a world or store model that is still to be made.
        UserError: for a name that stands for nothing.
    """
    if text.startswith(WORLD_PREFIX):
        if not _WORLD_NAME.fullmatch(text):
            raise UserError(f"{text!r} names no model of the generated world, such as world:base")
        folder = world_folder(config, store) / text.removeprefix(WORLD_PREFIX)
        if not folder.is_dir():
            raise ModelNotReady(f"{text} is not made yet in {folder.parent}; `grace loop` or `build` makes it")
        return LocalModel(Model(id=text, revision=folder_digest(folder)), folder)
    if Path(text).is_dir():
        return LocalModel(Model(id=Path(text).name, revision=folder_digest(Path(text))), Path(text))
    repo, _, revision = text.partition("@")
    if stored := store.find(repo, revision or "main", "model"):
        return from_store(stored, config, store)
    return _from_hub(repo, revision or None)


def folder_digest(folder: Path) -> str:
    """Content digest of a model folder's files."""
    return content_digest(describe_files(folder, sorted(p for p in folder.rglob("*") if p.is_file())))


def from_store(revision: Revision, config: Config, store: Store) -> LocalModel:
    """A model of the store; an adapter comes with the model it was trained on."""
    record = Model(id=revision.repo, revision=revision.revision)
    if not (revision.path / "adapter_config.json").is_file():
        return LocalModel(record, revision.path)
    if revision.manifest is None or "base" not in revision.manifest.models:
        raise UserError(f"{revision}: an adapter without the model it belongs to in its manifest; pull it again")
    base = revision.manifest.models["base"]
    name = base.id if base.id.startswith(WORLD_PREFIX) else str(base)
    return LocalModel(record, resolve_model(name, config, store).path, revision.path)


def _from_hub(repo: str, revision: str | None) -> LocalModel:
    from builders.hub.pull import download_model

    if revision is not None and not valid_revision(revision):
        raise UserError(f"model {repo}@{revision}: not a branch, tag or commit")
    path, commit = download_model(repo, revision)
    return LocalModel(Model(id=repo, revision=commit), path)


def policy_model(config: Config, store: Store, round_: int) -> LocalModel:
    """The policy that samples a round: the first one, or what training on the round before yielded.

    Raises:
        ModelNotReady: where it has not been trained yet.
    """
    if round_ > 1:
        trained = store.find(policy_repo(config), round_tag(round_ - 1), "model")
        if trained is None:
            raise ModelNotReady(
                f"round {round_} samples from the policy of round {round_ - 1}, which is not trained; "
                f"run `grace loop`, or `train --round {round_ - 1}` first"
            )
        return from_store(trained, config, store)
    if config.models.policy != "sft":
        return resolve_model(config.models.policy, config, store)
    tuned = store.find(sft_repo(config), "main", "model")
    if tuned is None:
        raise ModelNotReady(
            f"the first policy is the result of `train --sft`, and {sft_repo(config)} is not in the store"
        )
    return from_store(tuned, config, store)


def tokenizer_model(config: Config, store: Store) -> LocalModel:
    """The model whose tokenizer counts L and E: training never changes it, so the first policy's serves all rounds."""
    return resolve_model(config.models.base if config.models.policy == "sft" else config.models.policy, config, store)


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


@dataclass
class Models:
    """The models of one round, each loaded when first asked for and kept until `close`."""

    config: Config
    store: Store
    round: int
    _found: dict[str, LocalModel] = field(default_factory=dict)
    _engine: "Engine | None" = None
    _tokenizer: "PreTrainedTokenizerBase | None" = None
    _perplexity: "dict[str, Perplexity]" = field(default_factory=dict)
    _relevance: "Relevance | None" = None

    def find(self, role: str) -> LocalModel:
        """The model in a role: policy, tokenizer, general, domain or relevance; a folder's files are hashed once."""
        if role not in self._found:
            self._found[role] = self._resolve(role)
        return self._found[role]

    def _resolve(self, role: str) -> LocalModel:
        if role == "policy":
            return policy_model(self.config, self.store, self.round)
        if role == "tokenizer":
            return tokenizer_model(self.config, self.store)
        return resolve_model(str(getattr(self.config.models, role)), self.config, self.store)

    def engine(self) -> "Engine":
        """The sampling engine with the round's policy."""
        if self._engine is None:
            self._engine = load_policy_engine(self.config, self.find("policy"))
        return self._engine

    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The policy's tokenizer."""
        if self._tokenizer is None:
            from transformers import AutoTokenizer

            self._tokenizer = AutoTokenizer.from_pretrained(self.find("tokenizer").path, trust_remote_code=False)
        return self._tokenizer

    def perplexity(self, role: str) -> "Perplexity":
        """The perplexity scorer of the general or the domain model."""
        if role not in self._perplexity:
            from scorers.perplexity import Perplexity

            settings = self.config.score
            device = pick_device(settings.device)
            self._perplexity[role] = Perplexity(
                self.find(role).path,
                device=device,
                dtype=pick_dtype(settings.dtype, device),
                window=settings.window,
                tokens_per_batch=settings.tokens_per_batch,
            )
        return self._perplexity[role]

    def relevance(self) -> "Relevance":
        """The BGE-M3 scorer."""
        if self._relevance is None:
            from scorers.relevance import Relevance

            settings = self.config.score
            device = pick_device(settings.device)
            self._relevance = Relevance(
                self.find("relevance").path,
                device=device,
                fp16=pick_dtype(settings.dtype, device) == "float16",
                max_length=settings.max_length,
                batch_size=settings.texts_per_batch,
            )
        return self._relevance

    def close_engine(self) -> None:
        """Give the policy's memory back; scoring and training need it."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None


def load_policy_engine(config: Config, policy: LocalModel) -> "Engine":
    """An engine with a policy loaded."""
    from builders.engines import load_engine

    settings = config.engine
    device = pick_device(settings.device)
    return load_engine(
        settings.kind,
        str(policy.path),
        adapter=None if policy.adapter is None else str(policy.adapter),
        device=device,
        dtype=pick_dtype(settings.dtype, device),
        batch_size=settings.batch_size,
        context_window=settings.context_window,
        yarn_factor=settings.yarn_factor,
        tensor_parallel_size=settings.tensor_parallel,
    )
