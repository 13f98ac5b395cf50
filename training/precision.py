"""Which precision a training computes in, for every method."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from scorers.errors import UserError
from training.processes import process_count

Precision = Literal["auto", "fp32", "bf16"]


def precision_arguments(precision: Precision, setting: str = "precision") -> dict[str, bool]:
    """Choose transformers' training arguments for a precision.

    Args:
        precision: fp32; bf16: mixed precision, on a CPU too; auto: bf16 on a GPU that has it, else fp32.
        setting: its path, for the message.

    Returns:
        `bf16`, and `use_cpu`, which is true on a machine without an accelerator: unless told that the CPU is meant,
        transformers refuses bf16 there, and processes that torchrun started would not join.

    Raises:
        UserError: bf16 is asked for and the accelerator of this machine does not have it.
    """
    import torch
    from transformers.utils import is_torch_bf16_gpu_available

    alone = not torch.accelerator.is_available()
    if precision == "auto":
        bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        return {"bf16": bf16, "use_cpu": alone}
    if precision == "bf16" and not alone and not is_torch_bf16_gpu_available():
        raise UserError(
            f"{setting} is bf16, but this machine's {torch.accelerator.current_accelerator()} cannot compute in "
            f"bfloat16; set {setting} to fp32 or auto"
        )
    return {"bf16": precision == "bf16", "use_cpu": alone}


def deepspeed_arguments(
    file: Path | str | None,
    precision: Mapping[str, bool],
    adapter: bool,
    section: str | None = None,
    processes: int | None = None,
) -> dict[str, Any]:
    """Add DeepSpeed to the training arguments of a precision.

    In bf16 DeepSpeed's engine turns every parameter into bfloat16 and trains a float32 copy, which no policy is saved
    from: after a few steps an adapter's `lora_A` has hardly moved in the file. So where an adapter is trained, its
    parameters stay as they are and DeepSpeed's autocast does the computing in bf16. ZeRO-3 cannot mix types.

    Args:
        file: DeepSpeed's JSON file; None: no DeepSpeed.
        precision: from `precision_arguments`.
        adapter: whether an adapter is trained, not every weight.
        section: section of the settings, for the message; None: they are named without one.
        processes: processes that will train together; None: those that were started.

    Returns:
        `deepspeed` (None, or DeepSpeed's configuration), `bf16` and `use_cpu`.

    Raises:
        UserError: bf16 on a CPU, where transformers would leave DeepSpeed out without a word; several processes on
            CPUs, whose number accelerate takes for one where DeepSpeed does not.
    """
    if file is None:
        return {"deepspeed": None, **precision}
    at = f"{section}." if section else ""
    if precision["use_cpu"] and (processes or process_count()) > 1:
        raise UserError(
            f"{at}deepspeed in several processes needs an accelerator in each, and this machine has none; set "
            f"{at}deepspeed to null, or start one process"
        )
    if precision["use_cpu"] and precision["bf16"]:
        raise UserError(
            f"{at}precision bf16 on a machine without an accelerator does not go with deepspeed; "
            f"set {at}precision to fp32 or {at}deepspeed to null"
        )
    config = json.loads(Path(file).read_text(encoding="utf-8"))
    stage = config.get("zero_optimization", {}).get("stage", 0)
    # A file that says itself what bf16 is to be is left as it is.
    if adapter and precision["bf16"] and stage < 3 and config.get("bf16") == {"enabled": "auto"}:
        autocast = {"torch_autocast": {"enabled": True, "dtype": "bfloat16"}}
        return {"deepspeed": config | autocast, "bf16": False, "use_cpu": False}
    # Told that the CPU is meant, transformers would leave DeepSpeed out.
    return {"deepspeed": config, "bf16": precision["bf16"], "use_cpu": False}
