"""Which precision a training computes in, for every method."""

from typing import Literal

from scorers.errors import UserError

Precision = Literal["auto", "fp32", "bf16"]


def precision_arguments(precision: Precision) -> dict[str, bool]:
    """Choose transformers' training arguments for a precision.

    Args:
        precision: fp32; bf16: mixed precision, on a CPU too; auto: bf16 on a GPU that has it, else fp32.

    Returns:
        `bf16`, and `use_cpu`, which is true for bf16 on a machine without an accelerator: transformers refuses bf16
        there unless told that the CPU is meant.

    Raises:
        UserError: bf16 is asked for and the accelerator of this machine does not have it.
    """
    import torch
    from transformers.utils import is_torch_bf16_gpu_available

    if precision == "auto":
        return {"bf16": torch.cuda.is_available() and torch.cuda.is_bf16_supported(), "use_cpu": False}
    if precision == "fp32" or is_torch_bf16_gpu_available():
        return {"bf16": precision == "bf16", "use_cpu": False}
    if torch.accelerator.is_available():
        raise UserError(
            f"precision is bf16, but this machine's {torch.accelerator.current_accelerator()} cannot compute in "
            "bfloat16; set precision to fp32 or auto"
        )
    return {"bf16": True, "use_cpu": True}
