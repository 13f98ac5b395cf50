"""The state of an optimizer that DeepSpeed has divided among the processes, put together and divided again.

DeepSpeed's own checkpoints are pickles, of one file per process; what is written here is neither, so another number of
processes, or none of DeepSpeed, can go on from it. This module imports DeepSpeed inside functions.
"""

import logging
from pathlib import Path
from typing import Any

from training.kto.state import AVERAGES, COPY, read_states

log = logging.getLogger(__name__)


def gathered_states(model: Any, optimizer: Any) -> dict[str, dict[str, Any]] | None:
    """Return what Adam keeps, by parameter and quantity, in the CPU's memory; all processes call this together.

    Args:
        model: the model under DeepSpeed's engine.
        optimizer: the optimizer, as accelerate wraps it.

    Returns:
        The averages, the number of steps, and the float32 copy of a weight that is not float32 itself; None for an
        optimizer without Adam's averages, whose state DeepSpeed cannot put together.
    """
    import torch
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    held = list(optimizer.optimizer.optimizer.state.values())
    if not held or not {*AVERAGES, "step"} <= held[0].keys():
        log.warning("DeepSpeed cannot put the state of this optimizer together; the next round begins with a new one")
        return None
    _link(optimizer.optimizer)
    step = float(held[0]["step"])
    states: dict[str, dict[str, Any]] = {}
    for name, parameter in _trained(model).items():
        values = {quantity: safe_get_full_optimizer_state(parameter, quantity) for quantity in AVERAGES}
        if parameter.dtype != torch.float32:
            values[COPY] = safe_get_full_fp32_param(parameter)
        copies = {quantity: value.detach().to("cpu", copy=True).contiguous() for quantity, value in values.items()}
        states[name] = {**copies, "step": torch.tensor(step)}
    return states


def load_partitioned(folder: Path, model: Any, optimizer: Any) -> None:
    """Give each process its part of an earlier state.

    Raises:
        UserError: as `read_states`.
    """
    import torch
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

    trained = _trained(model)
    # Under ZeRO-3 a parameter of its own is empty and `ds_shape` says what it stands for.
    states = read_states(folder, {name: getattr(p, "ds_shape", p.shape) for name, p in trained.items()})
    step = next(float(values["step"]) for values in states.values())
    divided, adam = optimizer.optimizer, optimizer.optimizer.optimizer
    # Adam's own state comes with its first step, and has to be there before it can be set.
    for part in _parts(divided):
        averages = {quantity: torch.zeros_like(part.data) for quantity in AVERAGES}
        counted = torch.tensor(step) if isinstance(adam, torch.optim.AdamW) else int(step)
        adam.state[part] = {"step": counted, **averages}
    _link(divided)
    for name, parameter in trained.items():
        for quantity, value in states[name].items():
            if quantity in AVERAGES:
                safe_set_full_optimizer_state(parameter, value.to(parameter.device), quantity)
            elif quantity == COPY:
                safe_set_full_fp32_param(parameter, value.to(parameter.device))


def _link(divided: Any) -> None:
    """Let DeepSpeed find the averages of every parameter.

    ZeRO-1 and 2 do so after the first step of the first group of parameters, when the other groups have none yet.
    """
    if hasattr(divided, "_lazy_init_hp_params_optimizer_state"):
        divided._hp_optimizer_states_linked = False
        divided._lazy_init_hp_params_optimizer_state()


def _parts(divided: Any) -> list[Any]:
    """Return this process's parts of the parameters, which the optimizer under DeepSpeed's sees."""
    # ZeRO-1 and 2 have one part of each group of parameters, ZeRO-3 several.
    parts = getattr(divided, "single_partition_of_fp32_groups", None)
    return list(divided.fp32_partitioned_groups_flat if parts is None else parts)


def _trained(model: Any) -> dict[str, Any]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
