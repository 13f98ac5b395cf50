"""Which models can be trained, and with which attention."""

from pathlib import Path

from scorers.errors import UserError
from scorers.model_loading import attention_for, check_attention_only


def trainable_attention(model: Path | str, wanted: str) -> str:
    """Check that a model is a decoder of attention layers, and return the attention to load it with.

    Args:
        model: a folder or an id; its configuration alone is read.
        wanted: transformers' name of an implementation.

    Returns:
        `wanted`, or `eager` for a model whose attention scores have a soft cap (Gemma-2), which others leave out.

    Raises:
        UserError: the model has recurrent layers, or an encoder: padding would change what it computes; FlashAttention
            is wanted and not installed.
    """
    from transformers import AutoConfig
    from transformers.utils import is_flash_attn_2_available

    if wanted == "flash_attention_2" and not is_flash_attn_2_available():
        raise UserError(
            "attention flash_attention_2 needs the package flash-attn and a GPU that it supports, which are not here; "
            "install it, or set attention to sdpa"
        )
    config = AutoConfig.from_pretrained(model, trust_remote_code=False)
    check_attention_only(config, str(model), "training", "train another model")
    return attention_for(config, wanted) or wanted
