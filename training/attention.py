"""Which models can be trained, and with which attention."""

from pathlib import Path

from scorers.errors import UserError
from scorers.model_loading import attention_for, check_attention_only


def require_attention(setting: str, wanted: str, *, bf16: bool) -> None:
    """Check that an implementation of attention is there.

    Args:
        setting: path of the setting, for the message.
        wanted: transformers' name of the implementation.
        bf16: whether training computes in bfloat16.

    Raises:
        UserError: FlashAttention is wanted and not installed, or there is no GPU for it, or not its number format.
    """
    from transformers.utils import is_flash_attn_2_available

    if wanted != "flash_attention_2":
        return
    if not is_flash_attn_2_available():
        raise UserError(
            f"{setting} flash_attention_2 needs the package flash-attn and a GPU that it supports, which are not here; "
            f"install it, or set {setting} to sdpa"
        )
    if not bf16:
        raise UserError(
            f"{setting} flash_attention_2 computes in bfloat16 alone, and precision is fp32 or means it here; set "
            f"precision to bf16, or {setting} to sdpa"
        )


def trainable_attention(model: Path | str, wanted: str) -> str:
    """Check that a model is a decoder of attention layers, and return the attention to load it with.

    Args:
        model: a folder or an id; its configuration alone is read.
        wanted: transformers' name of an implementation.

    Returns:
        `wanted`, or `eager` for a model whose attention scores have a soft cap (Gemma-2), which others leave out.

    Raises:
        UserError: the model has recurrent layers, or an encoder: padding would change what it computes; FlashAttention
            is wanted and not there.
    """
    from transformers import AutoConfig

    require_attention("attention", wanted, bf16=True)
    config = AutoConfig.from_pretrained(model, trust_remote_code=False)
    check_attention_only(config, str(model), "training", "train another model")
    return attention_for(config, wanted) or wanted
