"""Loading of models, tokenizers and adapters for the engines, with errors that a user can act on."""

from pathlib import Path
from typing import Any

from builders.store.files import ADAPTER_CONFIG
from scorers.errors import UserError
from scorers.model_loading import (
    attention_for,
    naming_wrong_shapes,
    quiet_loading,
    require_all_keys,
    require_vocabulary,
    unreadable_model,
)


def resolve_device(device: str) -> str:
    """Resolve the device "auto" to "cuda" where PyTorch finds a GPU, else to "cpu".

    Raises:
        UserError: for "cuda" where PyTorch finds no GPU.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("engine device 'cuda': PyTorch finds no GPU on this machine; use device cpu or auto")
    return device


def load_tokenizer_and_config(model: str, revision: str | None, chat_template: str | None = None) -> tuple[Any, Any]:
    """Load the tokenizer and the configuration of a folder or a Hub id.

    Args:
        model: the folder or the id.
        revision: branch, tag or commit on the Hub; None for the default branch.
        chat_template: a template that takes the place of the tokenizer's own; None for its own.

    Raises:
        UserError: where they cannot be read, for an encoder, and for a tokenizer without a vocabulary or with a larger
            one than the model has.
    """
    from transformers import AutoConfig, AutoTokenizer

    try:
        # Models come from the Hub and are untrusted: their code is never run.
        config = AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(model, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise unreadable_model(model, revision, error) from error
    if encoder := next((name for name in config.architectures or () if name.endswith("ForMaskedLM")), None):
        raise UserError(f"model {model}: is an encoder, {encoder}; give a causal language model")
    require_vocabulary(model, tokenizer, config)
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    return tokenizer, config


def load_model(model: str, revision: str | None, config: Any, device: str, dtype: str) -> Any:
    """Load a causal LM in evaluation mode.

    Raises:
        UserError: where its weights cannot be read, or are not all there.
    """
    from transformers import AutoModelForCausalLM

    # What transformers would report of missing weights is an error below.
    with quiet_loading(warnings=False), naming_wrong_shapes(f"model {model}"):
        try:
            loaded, report = AutoModelForCausalLM.from_pretrained(
                model, revision=revision, config=config, dtype=dtype, attn_implementation=attention_for(config),
                trust_remote_code=False, output_loading_info=True,
            )  # fmt: skip
        except (OSError, ValueError) as error:
            raise unreadable_model(model, revision, error) from error
    require_all_keys(f"model {model}", report)
    return loaded.to(device).eval()


def merge_adapter(model: Any, adapter: str) -> Any:
    """Merge a LoRA adapter into a model's weights.

    Raises:
        UserError: where the folder holds no adapter, or one that does not fit the model.
    """
    from peft import PeftModel

    check_adapter(adapter)
    try:
        # safe_merge: NaN in the merged weights is an error instead of a silent result.
        return PeftModel.from_pretrained(model, adapter).merge_and_unload(safe_merge=True).eval()
    except (OSError, ValueError, RuntimeError) as error:  # no weights, NaN in them, or shapes of another model
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"adapter {adapter}: cannot be merged into the model ({reason}); give one trained on this model"
        ) from error


def check_adapter(adapter: str) -> None:
    """Check that a folder holds a PEFT adapter.

    Raises:
        UserError: where it does not.
    """
    if not (Path(adapter) / ADAPTER_CONFIG).is_file():
        raise UserError(
            f"adapter {adapter}: no {ADAPTER_CONFIG} found in this folder; give the folder that PEFT's "
            "save_pretrained wrote"
        )


def load_end_ids(model: str, revision: str | None, config: Any) -> Any:
    """Return the end-of-sequence id or ids of a model; None where it states none.

    They come from its generation settings, or else from its configuration.
    """
    from transformers import GenerationConfig

    try:
        ids = GenerationConfig.from_pretrained(model, revision=revision).eos_token_id
    except OSError:  # a model without generation_config.json
        ids = None
    return config.get_text_config().eos_token_id if ids is None else ids
