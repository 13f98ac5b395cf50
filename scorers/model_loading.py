"""Loading helpers for models: find one, choose its attention, silence the libraries, report a failure in one line."""

import json
import logging
import re
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scorers.errors import UserError

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
HEADS = ("colbert_linear.pt", "sparse_linear.pt")  # of BGE-M3
PICKLE = "pytorch_model.bin"
ATTENTION_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}


def local_folder(scorer: str, name: str) -> Path | None:
    """Decide whether a name is a folder or a model id of the Hub.

    Args:
        scorer: what the message calls the scorer, such as `relevance`.
        name: path of a folder, or a Hub id.

    Returns:
        The folder, or None where the name is a Hub id.

    Raises:
        UserError: the name can be neither.
    """
    if Path(name).is_dir():
        return Path(name)
    # Without this check a mistyped path would be looked up on the Hub and end in a network error.
    if not HUB_ID.fullmatch(name):
        raise UserError(
            f"{scorer} model {name!r} is no folder here and no Hub id (owner/name); give one of the two, check the path"
        )
    return None


def check_weights(folder: Path) -> None:
    """Check that a model's folder holds whole safetensors files, by their headers and their sizes.

    BGE-M3 is published as a pickle, beside two heads that are pickles too; torch reads those with its restricted reader
    `weights_only`. Other models saved as pickles are refused, in a folder as on the Hub.

    Raises:
        UserError: for a folder without weights, a file that is cut short, and one that an index lists and is missing.
    """
    from safetensors import SafetensorError, safe_open

    files = sorted(folder.glob("*.safetensors"))
    indices = sorted(folder.glob("*.safetensors.index.json"))
    if len(files) > 1 and not indices and not (folder / "model.safetensors").is_file():
        raise UserError(f"model {folder}: model.safetensors.index.json is missing, which lists its files; copy it too")
    if not files and not is_published_bge_m3({path.name for path in folder.iterdir()}):
        raise UserError(f"model {folder}: no .safetensors file in it; models saved as pickles are not read")
    for index in indices:
        try:
            listed = set(json.loads(index.read_bytes())["weight_map"].values())
        except (ValueError, KeyError, AttributeError, TypeError):
            raise UserError(f"{index}: not an index of safetensors files; copy the model again") from None
        if missing := sorted(str(name) for name in listed - {file.name for file in files}):
            raise UserError(f"model {folder}: {missing[0]} is missing, which {index.name} lists; copy the model again")
    for file in files:
        try:
            with safe_open(file, "numpy"):
                continue
        except SafetensorError as error:
            raise UserError(f"{file}: damaged ({' '.join(str(error).split())}); copy the model again") from None
        except OSError:  # also says "no such file" of one that may not be read
            raise UserError(f"{file}: cannot be opened; check its permissions") from None


def is_published_bge_m3(files: Set[str]) -> bool:
    """Whether files are those of BGE-M3 as it was published: a pickle beside its two heads, and no safetensors."""
    return {PICKLE, *HEADS} <= files and not any(name.endswith(".safetensors") for name in files)


def check_all_weights(folder: Path) -> None:
    """Check that a causal language model's folder has every weight that its configuration asks for, in its shape.

    transformers would fill in random ones. Only names and shapes are read. A quantized model, whose weights have other
    names and shapes on disk, passes.

    Raises:
        UserError: a weight is missing, or has another shape.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if getattr(config, "quantization_config", None) is not None:
        return
    with quiet_loading(warnings=False), naming_wrong_shapes(f"model {folder}"):
        try:
            _, report = AutoModelForCausalLM.from_pretrained(
                folder, config=config, device_map="meta", output_loading_info=True, trust_remote_code=False
            )
        except (OSError, ValueError) as error:
            raise unreadable_model(str(folder), None, error) from error
    require_all_keys(f"model {folder}", report)


def require_all_keys(model: str, report: Mapping[str, Any]) -> None:
    """Check transformers' report of a loading for weights that the files lack.

    Args:
        model: what the message calls the model.
        report: as `from_pretrained` returns it with `output_loading_info`.

    Raises:
        UserError: naming the first one.
    """
    if missing := sorted(report["missing_keys"]):
        raise UserError(
            f"{model} lacks {len(missing)} weights, the first is {missing[0]}; random ones would take their "
            "place: give the folder of a whole causal language model"
        )


@contextmanager
def naming_wrong_shapes(model: str) -> Iterator[None]:
    """Turn transformers' error about shapes, which points to a report that is not printed, into one line.

    Args:
        model: what the message calls the model.

    Raises:
        UserError: a weight has another shape than its configuration asks for.
    """
    try:
        yield
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):  # such as too little memory
            raise
        raise UserError(
            f"{model}: a weight in its files has another shape than its config.json asks for; give a folder whose "
            "files belong together"
        ) from None


def unreadable_model(model: str, revision: str | None, error: Exception) -> UserError:
    """The UserError for a model that transformers cannot load, on one line.

    Args:
        model: the folder or the Hub id.
        revision: branch, tag or commit; None where none was given.
        error: transformers' exception.
    """
    reason = " ".join(str(error).split())[:300]
    at = f"@{revision}" if revision else ""
    return UserError(f"model {model}{at}: cannot be loaded ({reason}); give a model folder or a Hub id that exists")


def require_vocabulary(model: str, tokenizer: Any, config: Any) -> None:
    """Check that a model has an embedding for every token of its tokenizer but added ones, which texts may never hold.

    Raises:
        UserError: for a tokenizer that is larger than the model's vocabulary, or has no token but special ones.
    """
    # Of a folder without the file of its vocabulary transformers makes a tokenizer that knows special tokens alone.
    if tokenizer.vocab_size <= len(tokenizer.all_special_ids):
        raise UserError(f"model {model}: its tokenizer has no vocabulary; give a folder with tokenizer.json in it")
    size = config.get_text_config().vocab_size
    if tokenizer.vocab_size > size:
        raise UserError(
            f"model {model}: its tokenizer has {tokenizer.vocab_size} tokens and the model embeddings for {size}; give "
            "a model with the tokenizer that it was trained with"
        )


@contextmanager
def quiet_loading(*, warnings: bool) -> Iterator[None]:
    """Silence FlagEmbedding's notices and transformers' progress bars while a model loads, then restore the settings.

    Args:
        warnings: whether transformers may still report missing weights.
    """
    from transformers.utils import logging as transformers_logging

    had_bars = transformers_logging.is_progress_bar_enabled()
    verbosity = transformers_logging.get_verbosity()
    logger = logging.getLogger("FlagEmbedding")
    level = logger.level
    transformers_logging.disable_progress_bar()
    if not warnings:
        transformers_logging.set_verbosity_error()
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
        transformers_logging.set_verbosity(verbosity)
        if had_bars:
            transformers_logging.enable_progress_bar()


def load_error(scorer: str, name: str, revision: str | None, error: Exception) -> UserError:
    """The UserError for a model that is missing or cannot be read.

    Args:
        scorer: what the message calls the scorer.
        name: the model, as the user named it.
        revision: branch, tag or commit; None where none was given.
        error: the library's exception; the first line of its message becomes the reason.
    """
    lines = str(error).strip().splitlines()
    reason = lines[0] if lines else type(error).__name__
    at = "" if revision is None else f" at revision {revision!r}"
    return UserError(
        f"{scorer} model {name!r}{at} cannot be loaded ({reason}); give a folder with a complete model, or a Hub id "
        "and the network or a cached copy for the latter"
    )


def attention_for(config: Any, wanted: str | None = None) -> str | None:
    """Return the attention implementation to load a model with: eager where another one would compute something else.

    Gemma-2 bounds its attention scores by a soft cap (`attn_logit_softcapping`). PyTorch's `sdpa` has no such bound and
    leaves it out without a word, and so do older builds of FlashAttention.

    Args:
        config: the model's configuration.
        wanted: transformers' name of an implementation; None for its default.

    Returns:
        `eager` for a model with a soft cap, else `wanted`.
    """
    capped = getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None
    return "eager" if capped else wanted


def window_in(config: Any) -> int | None:
    """Return the longest sequence that a model's configuration states, in tokens; None where it states none."""
    window: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return window


def check_attention_only(config: Any, name: str, user: str, way_out: str) -> None:
    """Check that a model is a decoder of attention layers alone: padding would change a recurrent state.

    Args:
        config: the model's configuration.
        name: the model, as the user named it.
        user: what takes such models only, such as `training`.
        way_out: what the user can do, such as `use another model`.

    Raises:
        UserError: for a model with other layers, and for an encoder and a decoder.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    other = set(getattr(config.get_text_config(), "layer_types", None) or ()) - ATTENTION_LAYERS
    known = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
    # Some recurrent models (RWKV, RecurrentGemma) do not list their layers; transformers marks their class.
    stateful = known and getattr(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], "_is_stateful", False)
    if config.is_encoder_decoder or other or stateful:
        found = "an encoder and a decoder" if config.is_encoder_decoder else ", ".join(sorted(other)) or "a recurrence"
        raise UserError(
            f"model {name}: {config.model_type} has {found}, {user} takes decoders of attention layers alone; {way_out}"
        )
