"""The state in which a round's training ended, from which the next round goes on. It travels with the policy.

    training_state/
        state.json               {"step": 32, "run": {"learning_rate": 5e-06, …}, "numbers": {…}}
        optimizer.safetensors    the optimizer's tensors, such as `…q_proj.lora_A.default.weight/exp_avg`
        random-0.safetensors     torch's random state of process 0, which dropout is drawn from

Neither file is a pickle: a policy may come from the Hub. The learning rate follows from the step alone.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from builders.store.files import write_text
from builders.store.manifest import TRAINING_STATE, content_digest, describe_files
from scorers.errors import UserError

if TYPE_CHECKING:
    import torch

HEADER = "state.json"
OPTIMIZER = "optimizer.safetensors"
AVERAGES = ("exp_avg", "exp_avg_sq")  # Adam's, of a gradient and of its square
COPY = "float32"  # a weight that is trained in float32 and kept in bfloat16 beside it, as DeepSpeed does
WITHOUT = f"delete its folder {TRAINING_STATE} to go on with a new optimizer"  # a way out of every fault


class TrainingState(BaseModel):
    """What `state.json` says.

    Attributes:
        step: optimizer steps done, counted over all rounds.
        run: the settings of the run that must stay the same in every round.
        numbers: what the optimizer keeps beside tensors, as `<parameter>/<quantity>`.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    step: int
    run: dict[str, Any]
    numbers: dict[str, int | float] = {}


def read_state(policy: Path) -> TrainingState | None:
    """Read which state a policy's folder carries; None where it carries none.

    Raises:
        UserError: the state is not readable.
    """
    path = policy / TRAINING_STATE / HEADER
    if not path.is_file():
        return None
    try:
        return TrainingState.model_validate_json(path.read_bytes())
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(map(str, fault["loc"])) or "it"
        raise UserError(f"{path}: not a training state: {where}: {fault['msg']}; {WITHOUT}") from None


def state_digest(policy: Path) -> str | None:
    """Return the content digest of a policy's training state; None where it carries none."""
    folder = policy / TRAINING_STATE
    return content_digest(describe_files(folder, sorted(folder.iterdir()))) if folder.is_dir() else None


def require_same_run(state: TrainingState, step: int, run: Mapping[str, Any], policy: Path | str) -> None:
    """Check that a policy's state is the one that a round begins with, under the settings that the run began with.

    Args:
        state: the policy's state.
        step: optimizer steps done before the round.
        run: the settings of the run as they are now, by name.
        policy: named in the message.

    Raises:
        UserError: the step or a setting differs; the message names the first one.
    """
    if state.step != step:
        raise UserError(
            f"{policy}: its training ended at step {state.step} of the schedule, and this round begins at step {step}; "
            f"keep the number of rows and the batch size of the earlier rounds, or {WITHOUT}"
        )
    for name, value in run.items():
        if state.run.get(name) != value:
            raise UserError(
                f"this run began with {name} {state.run.get(name)}, now it is {value}; optimizer and schedule travel "
                f"with the policy {policy}: keep the setting, start a new run under another name, or {WITHOUT}"
            )


def write_state(
    folder: Path, step: int, run: Mapping[str, Any], states: "Mapping[str, Mapping[str, torch.Tensor | float]]"
) -> None:
    """Write everything but the random states.

    Args:
        folder: the folder `training_state`, which exists.
        step: optimizer steps done, counted over all rounds.
        run: the settings of the run.
        states: what the optimizer keeps, by parameter and quantity.
    """
    import torch
    from safetensors.torch import save_file

    flat = {f"{name}/{quantity}": value for name, values in states.items() for quantity, value in values.items()}
    tensors = {key: value for key, value in flat.items() if isinstance(value, torch.Tensor)}
    numbers = {key: value for key, value in flat.items() if not isinstance(value, torch.Tensor)}
    save_file(tensors, folder / OPTIMIZER)
    header = TrainingState(step=step, run=dict(run), numbers=numbers)
    write_text(folder / HEADER, json.dumps(header.model_dump(), indent=1, sort_keys=True) + "\n")


def read_states(folder: Path, shapes: "Mapping[str, torch.Size]") -> dict[str, dict[str, Any]]:
    """Read what an optimizer kept, by parameter and quantity.

    Args:
        folder: the folder `training_state`.
        shapes: of the parameters that are trained, by name.

    Raises:
        UserError: the file is not readable, or belongs to other parameters.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    header = read_state(folder.parent)
    try:
        found: dict[str, Any] = {**load_file(folder / OPTIMIZER), **(header.numbers if header else {})}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{folder / OPTIMIZER} is not readable: {' '.join(str(error).split())}; {WITHOUT}") from None
    states: dict[str, dict[str, Any]] = {name: {} for name in shapes}
    for key, value in found.items():
        name, _, quantity = key.rpartition("/")
        # The averages have the shape of what they average; Adafactor's rows and columns have other names.
        if name not in shapes or (quantity in AVERAGES and value.shape != shapes[name]):
            raise UserError(f"{folder / OPTIMIZER} does not fit this model: {key}; {WITHOUT}")
        states[name][quantity] = value
    if missing := [name for name, values in states.items() if not values]:
        raise UserError(f"{folder / OPTIMIZER} does not fit this model: it has nothing of {missing[0]}; {WITHOUT}")
    return states


def states_of(model: Any, optimizer: Any) -> dict[str, dict[str, Any]]:
    """Return what a torch optimizer keeps, by parameter and quantity, copied to the CPU's memory."""
    import torch

    held = optimizer.state_dict()["state"]
    states: dict[str, dict[str, Any]] = {}
    for index, name in enumerate(_parameters(model, optimizer)):
        values: dict[str, Any] = {}
        for quantity, value in held.get(index, {}).items():
            # bitsandbytes nests some of the quantities, and reads them flat as well.
            values |= value if isinstance(value, dict) else {quantity: value}
        states[name] = {
            # Copied, because safetensors takes no tensors that share memory, as the tables of 8-bit states do.
            quantity: value.detach().to("cpu", copy=True).contiguous() if isinstance(value, torch.Tensor) else value
            for quantity, value in values.items()
        }
    return states


def load_optimizer(folder: Path, model: Any, optimizer: Any) -> None:
    """Give a new torch optimizer the state of an earlier one; its settings and learning rate stay as they are.

    Raises:
        UserError: as `read_states`.
    """
    parameters = _parameters(model, optimizer)
    states = read_states(folder, {name: parameter.shape for name, parameter in parameters.items()})
    held = {index: without_copy(states[name]) for index, name in enumerate(parameters)}
    optimizer.load_state_dict({"state": held, "param_groups": optimizer.state_dict()["param_groups"]})


def without_copy(values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the float32 copy of a weight, which only DeepSpeed keeps."""
    return {quantity: value for quantity, value in values.items() if quantity != COPY}


def _parameters(model: Any, optimizer: Any) -> "dict[str, torch.Tensor]":
    """Return the parameters that an optimizer trains, by name, in its own order."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: p for group in optimizer.param_groups for p in group["params"]}


def write_random(folder: Path, process: int) -> None:
    """Write the random state of one process: torch's on the CPU, and on its GPU where it has one."""
    import torch
    from safetensors.torch import save_file

    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    save_file(states, folder / _random_file(process))


def load_random(folder: Path, process: int) -> None:
    """Go on with the random state of one process; nothing happens where there were fewer processes.

    Raises:
        UserError: the file holds no random state.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / _random_file(process)
    if not path.is_file():
        return
    try:
        states = load_file(path)
        torch.set_rng_state(states["cpu"])
        if torch.cuda.is_available() and "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"])
    except (SafetensorError, KeyError, RuntimeError, TypeError) as error:
        raise UserError(f"{path} is no random state: {' '.join(str(error).split())}; {WITHOUT}") from None


def _random_file(process: int) -> str:
    return f"random-{process}.safetensors"
