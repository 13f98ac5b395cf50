"""LoRA adapters and the 4-bit weights under them, the same for every method.

This module imports torch and PEFT, so import it inside functions.
"""

from collections.abc import Sequence

import torch  # noqa: TID253
from peft import LoraConfig  # noqa: TID253
from transformers import BitsAndBytesConfig  # noqa: TID253


def new_adapter(
    rank: int, alpha: int, targets: str | Sequence[str], dropout: float = 0.0, task: str = "CAUSAL_LM"
) -> LoraConfig:
    """Describe a new LoRA adapter.

    Args:
        rank: rank of the two factors.
        alpha: scale of their product, divided by the rank.
        targets: `all-linear`, or names of the modules that get an adapter.
        dropout: dropout before the adapter, in [0, 1).
        task: PEFT's name of what the model does: CAUSAL_LM, or SEQ_CLS, whose head is trained and saved too.
    """
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type=task,
    )


def nf4(compute: torch.dtype, whole: Sequence[str] | None = None) -> BitsAndBytesConfig:
    """4-bit NormalFloat weights with double quantisation, as QLoRA (Dettmers et al., 2023) trains on.

    Args:
        compute: type that the weights are turned into for a product.
        whole: names of modules that stay as they are; None: the head of a language model.
    """
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
        llm_int8_skip_modules=None if whole is None else list(whole),
    )
