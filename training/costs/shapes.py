"""A model's shape: its parameters by part and the sizes that memory and time follow from, without reading a weight.

The modules are made by transformers on the device `meta`, where tensors have shapes and no numbers, so the counts hold
for every architecture that it knows.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builders.store.ref import valid_revision
from builders.store.store import Store
from scorers.errors import UserError
from scorers.model_loading import HUB_ID, window_in
from training.costs.known_models import KNOWN
from training.memory import empty_model, linear_layers

SHIPPED = "the table of known models"
"""Where a shape comes from that neither a folder nor a store nor the Hub's cache has."""


@dataclass(frozen=True)
class Found:
    """A model's configuration and where it was found, in words."""

    config: Any
    origin: str


@dataclass(frozen=True)
class Shape:
    """The sizes of a model; numbers of parameters count tied ones once.

    Attributes:
        name: the model, as the configuration names it.
        origin: where its configuration was found, in words.
        config: its configuration, one of transformers.
        embedding: parameters of the embeddings of tokens, positions and types.
        layers: parameters of all layers.
        head: parameters of the head that are not the embedding's.
        rest: all others, such as the last norm.
        linear: parameters of linear layers but the head: what 4-bit loading packs and a token is multiplied with.
        depth: number of layers.
        hidden: width H of a token's state.
        inner: width of the MLP.
        heads: attention heads.
        key_heads: heads that have keys and values of their own.
        head_dim: width of a head.
        vocabulary: rows V of the head.
        window: longest text in tokens; None where the configuration states none.
        norms: norms of a layer over the whole state.
        gated: whether the MLP multiplies two projections, as SwiGLU does.
        capped: whether attention scores have a soft cap, for which they are computed one by one (eager attention).
        stored: bytes of one parameter in the checkpoint.
    """

    name: str
    origin: str
    config: Any
    embedding: int
    layers: int
    head: int
    rest: int
    linear: int
    depth: int
    hidden: int
    inner: int
    heads: int
    key_heads: int
    head_dim: int
    vocabulary: int
    window: int | None
    norms: int
    gated: bool
    capped: bool
    stored: int

    @property
    def total(self) -> int:
        """All parameters."""
        return self.embedding + self.layers + self.head + self.rest

    @property
    def tied(self) -> bool:
        """Whether the head is the embedding."""
        return self.head == 0

    @property
    def multiplied(self) -> int:
        """Parameters that a token of a causal model is multiplied with: linear layers, and the head."""
        return self.linear + self.vocabulary * self.hidden

    @property
    def attention(self) -> int:
        """Width of all heads together."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Width of all keys of a layer together, and of all values."""
        return self.key_heads * self.head_dim


def find_config(name: str, store: Store) -> Found:
    """Find a model's configuration here: in a folder, the store, the Hub's cache, or the table of known models.

    Args:
        name: a folder, or `repo[@revision]`.
        store: the local store.

    Raises:
        UserError: it is nowhere here; nothing is downloaded.
    """
    from transformers import CONFIG_MAPPING, AutoConfig

    repo, _, revision = name.partition("@")
    place = _folder(name, repo, revision, store)
    if place is not None:
        folder, origin = place
        try:
            return Found(AutoConfig.from_pretrained(folder, trust_remote_code=False), origin)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"model {name}: its config.json cannot be read ({reason}); correct it") from None
    if repo in KNOWN:
        values = dict(KNOWN[repo])
        return Found(CONFIG_MAPPING[values.pop("model_type")](**values), SHIPPED)
    raise UserError(
        f"model {name}: no config.json of it is here, and nothing is downloaded to plan; `grace pull {repo} --model` "
        "brings it, or give a folder with its config.json"
    )


def _folder(name: str, repo: str, revision: str, store: Store) -> tuple[Path, str] | None:
    """Return the folder that holds a model's config.json, and what it is; None where there is none."""
    if (Path(name) / "config.json").is_file():
        return Path(name), "its folder"
    if not HUB_ID.fullmatch(repo) or (revision and not valid_revision(revision)):
        return None
    held = store.find(repo, revision or "main", "model")
    if held is not None and (held.path / "config.json").is_file():
        return held.path, "the store"
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(repo, "config.json", revision=revision or None)
    return (Path(cached).parent, "the Hub's cache") if isinstance(cached, str) else None


def shape_of(name: str, found: Found) -> Shape:
    """Compute a model's shape from its configuration.

    Args:
        name: the model, as the user named it.
        found: its configuration.
    """
    import torch

    model, config = empty_model(found.config), found.config.get_text_config()
    linear = linear_layers(model)
    parts = dict.fromkeys(("embedding", "layers", "head", "rest"), 0)
    head = model.get_output_embeddings()
    owned = {id(parameter) for parameter in (head.parameters() if head is not None else ())}
    for path, parameter in model.named_parameters():  # a tied parameter comes once, as the embedding's
        embeds = ("embed" in path or ".wte." in path or ".wpe." in path) and not _layer_of(path)
        part = "embedding" if embeds else "head" if id(parameter) in owned else "layers" if _layer_of(path) else "rest"
        parts[part] += parameter.numel()
    first = [path for path, _ in model.named_parameters() if _layer_of(path) == "0"]
    vectors = [path for path in first if re.search(r"(norm|ln_\d)\.?(\w*)\.weight$", path, re.I)]
    heads = config.num_attention_heads
    hidden = config.hidden_size
    return Shape(
        name=name,
        origin=found.origin,
        config=found.config,
        **parts,
        linear=sum(layer.weight.numel() for layer in linear.values()),
        depth=config.num_hidden_layers,
        hidden=hidden,
        inner=getattr(config, "intermediate_size", None) or 4 * hidden,
        heads=heads,
        key_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or hidden // heads,
        vocabulary=config.vocab_size,
        window=window_in(config),
        norms=sum(model.get_parameter(path).numel() == hidden for path in vectors),
        gated=any("gate" in path or "w1" in path for path in first),
        capped=getattr(config, "attn_logit_softcapping", None) is not None,
        stored=4 if found.config.dtype == torch.float32 else 2,
    )


def _layer_of(path: str) -> str | None:
    """Return the number of the layer that a parameter belongs to; None for one of no layer."""
    found = re.search(r"\b(?:layers?|h|blocks)\.(\d+)\.", path)
    return found[1] if found else None
