"""Whether a training can fit: the memory of one process, counted from the configuration before anything is loaded.

    full, no DeepSpeed     16 bytes a parameter with Adam: weight, gradient and two averages, all float32
    full, ZeRO-2 in bf16   2 bytes a parameter, and 14 shared among the processes
    lora, qlora            the frozen weights (2 or 4 bytes; about 0.52 in 4 bits), and the adapter as above

Activations are not counted, so what passes may still run out of memory; what is refused surely cannot fit.
"""

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from builders.settings.kto import TrainSettings
from builders.settings.sft import TuningSettings
from builders.store.files import ADAPTER_CONFIG
from scorers.errors import UserError
from training.precision import precision_arguments
from training.processes import process_count

GIB = 2**30
# A 4-bit weight, its share of a block's 8-bit scale (64 weights), and of a float32 scale of scales (256 blocks).
NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)
# Bytes a parameter of what the optimizer keeps on the device; 8-bit pages may leave it, Adafactor keeps sums alone.
STATES = {"adamw_torch": 8, "adamw_torch_fused": 8, "paged_adamw_8bit": 0, "adafactor": 0}


@dataclass(frozen=True)
class Sizes:
    """Numbers of parameters of a model, tied ones counted once.

    Attributes:
        total: all of them, without an adapter.
        linear: those that 4-bit loading packs: the weights of linear layers but the head.
        adapter: those of a LoRA adapter; 0 for full fine-tuning.
        stored: bytes of one parameter in the checkpoint.
        inputs: widths of the inputs of all layers that an adapter stands beside, added up; 0 for full fine-tuning.
        adapted: number of these layers.
    """

    total: int
    linear: int
    adapter: int
    stored: int
    inputs: int = 0
    adapted: int = 0


@dataclass(frozen=True)
class Zero:
    """What DeepSpeed shards among the processes, and what it moves to the CPU's memory.

    Attributes:
        stage: 0 nothing, 1 the optimizer's states, 2 gradients too, 3 weights too.
        optimizer: where the optimizer's states lie: none (the device), cpu or nvme.
        weights: where stage 3 keeps the weights: none (the device), cpu or nvme.
    """

    stage: int = 0
    optimizer: str = "none"
    weights: str = "none"


@dataclass(frozen=True)
class Need:
    """Bytes that one process surely needs, on its device and in the CPU's memory."""

    device: float
    host: float = 0.0


def require_deepspeed(section: str, name: str | None) -> None:
    """Check that DeepSpeed is installed where a setting asks for it.

    Raises:
        UserError: it is not; the message names the extra that brings it.
    """
    if name is not None and find_spec("deepspeed") is None:
        raise UserError(
            f"{section}.deepspeed {name} needs the package deepspeed, which is not installed; install the extra that "
            "brings it: pip install 'grace-data[deepspeed]'"
        )


def deepspeed_file(section: str, name: str | None) -> str | None:
    """Return the DeepSpeed file that a setting names; None for none.

    Args:
        section: section of the setting, for the message.
        name: `zero2`, `zero3`, `zero3-offload`, a path, or None.

    Raises:
        UserError: there is no such file.
    """
    if name is None:
        return None
    folder = Path(__file__).parent / "zero"
    ours = folder / f"{name}.json"
    path = ours if ours.is_file() else Path(name)
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in folder.glob("*.json")))
        raise UserError(f"{section}.deepspeed {name} is neither one of {names} nor a file here; give one of the two")
    return str(path)


def zero_of(section: str, name: str | None) -> Zero:
    """Read from a DeepSpeed file what it shards and where it keeps it.

    Raises:
        UserError: the file is missing or is no JSON object.
    """
    path = deepspeed_file(section, name)
    if path is None:
        return Zero()
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{section}.deepspeed {path} is not readable as JSON ({error}); correct the file") from None
    zero = values.get("zero_optimization", {}) if isinstance(values, dict) else None
    if not isinstance(zero, dict):
        raise UserError(f"{section}.deepspeed {path} has no object zero_optimization; see training/zero/zero2.json")
    return Zero(zero.get("stage", 0), _place(zero, "offload_optimizer"), _place(zero, "offload_param"))


def _place(zero: Mapping[str, Any], name: str) -> str:
    return str((zero.get(name) or {}).get("device", "none"))


def count_parameters(model: Path | str, settings: TrainSettings | TuningSettings) -> Sizes:
    """Count a model's parameters from its configuration; no weight is read and no memory is taken.

    Args:
        model: a folder with a config.json, or a model id of the Hub.
        settings: method and shape of the adapter.

    Raises:
        UserError: one of the adapter's targets names no linear layer.
    """
    from transformers import AutoConfig

    return count_in(AutoConfig.from_pretrained(model, trust_remote_code=False), settings, str(model))


def count_in(config: Any, settings: TrainSettings | TuningSettings, model: str) -> Sizes:
    """Count the parameters of a causal language model with a given configuration.

    Args:
        config: the configuration, one of transformers.
        settings: method and shape of the adapter.
        model: what messages call it.

    Raises:
        UserError: one of the adapter's targets names no linear layer.
    """
    import torch

    empty = empty_model(config)
    layers = linear_layers(empty)
    adapter = inputs = 0
    adapted: list[Any] = []
    if settings.method != "full":
        _require_targets(settings.lora_targets, layers, model)
        adapted = [layer for name, layer in layers.items() if _is_target(name, settings.lora_targets)]
        # A layer's weight is a matrix with its numbers of inputs and of outputs as sides.
        adapter = sum(settings.lora_rank * sum(layer.weight.shape) for layer in adapted)
        inputs = sum(layer.weight.shape[1 if isinstance(layer, torch.nn.Linear) else 0] for layer in adapted)
    return Sizes(
        total=sum(parameter.numel() for parameter in empty.parameters()),
        linear=sum(layer.weight.numel() for layer in layers.values()),
        adapter=adapter,
        stored=4 if config.dtype == torch.float32 else 2,
        inputs=inputs,
        adapted=len(adapted),
    )


def empty_model(config: Any) -> Any:
    """Make a model's modules without numbers: a causal language model, or else the encoder that it is."""
    import torch
    from transformers import AutoModel, AutoModelForCausalLM

    encoder = config.model_type in ENCODERS
    with torch.device("meta"):
        return (AutoModel if encoder else AutoModelForCausalLM).from_config(config, trust_remote_code=False)


ENCODERS = ("xlm-roberta", "roberta", "bert")
"""Model types that score relevance; transformers could load them as language models too."""


def linear_layers(model: Any) -> dict[str, Any]:
    """Return the linear layers of a model but its head, by name."""
    import torch
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    kinds = (torch.nn.Linear, Conv1D)  # GPT-2's linear layers have a class of their own
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, kinds) and layer is not head}


def _require_targets(targets: tuple[str, ...] | str, layers: Collection[str], model: str) -> None:
    """Check that every target names a layer: PEFT passes over one that names none where another does.

    Raises:
        UserError: one does not, or there is none.
    """
    named = ("all-linear",) if isinstance(targets, str) else targets
    lost = [target for target in named if not any(_is_target(name, (target,)) for name in layers)]
    if isinstance(targets, str):
        lost = [] if layers else ["all-linear"]
    if lost or not named:
        names = ", ".join(sorted({name.rpartition(".")[2] for name in layers}))
        raise UserError(
            f"lora_targets: {', '.join(lost) or 'an empty list'} names no linear layer of {model}; it has {names}; "
            "all-linear takes them all"
        )


def _is_target(name: str, targets: tuple[str, ...] | str) -> bool:
    """Whether a layer gets an adapter, by PEFT's rule: a target is a layer's name or the end of it."""
    return isinstance(targets, str) or any(name == target or name.endswith(f".{target}") for target in targets)


def training_need(
    sizes: Sizes, settings: TrainSettings | TuningSettings, zero: Zero, processes: int, *, bf16: bool
) -> Need:
    """Compute what one process needs for weights, gradients and the optimizer; see `training_parts`."""
    parts = training_parts(sizes, settings, zero, processes, bf16=bf16).values()
    return Need(sum(part.device for part in parts), sum(part.host for part in parts))


def training_parts(
    sizes: Sizes, settings: TrainSettings | TuningSettings, zero: Zero, processes: int, *, bf16: bool
) -> dict[str, Need]:
    """Compute what one process needs for frozen and trained weights, gradients and the optimizer's states.

    Args:
        sizes: the model's numbers of parameters.
        settings: method and optimizer.
        zero: what DeepSpeed shards.
        processes: processes over which it does.
        bf16: whether training computes in bfloat16.

    Returns:
        By part: `frozen weights`, `trained weights`, `gradients`, `optimizer`.
    """
    shards = {name: processes if zero.stage >= stage else 1 for name, stage in (("gradients", 2), ("weights", 3))}
    trained = sizes.total if settings.method == "full" else sizes.adapter
    states = STATES[settings.optimizer]
    frozen = _frozen(sizes, settings, bf16)
    if not zero.stage:  # plain training: float32 for whatever is trained
        return _parts(Need(frozen), Need(trained * 4), Need(trained * 4), Need(trained * states))
    # DeepSpeed trains weights of the computation's type, and keeps a float32 copy beside the optimizer's states.
    width = 2 if bf16 else 4
    kept_weights, own_weights = Need(frozen / shards["weights"]), Need(trained * width / shards["weights"])
    gradients, optimizer = Need(trained * width / shards["gradients"]), Need(trained * (4 + states) / processes)
    if zero.optimizer != "none":  # the gradients go where the optimizer is, shard by shard
        kept = zero.optimizer == "cpu"
        gradients = Need(0.0, trained * width / processes if kept else 0.0)
        optimizer = Need(0.0, optimizer.device if kept else 0.0)
    if zero.stage == 3 and zero.weights != "none":
        on_cpu = zero.weights == "cpu"
        kept_weights, own_weights = (Need(0.0, w.device if on_cpu else 0.0) for w in (kept_weights, own_weights))
    return _parts(kept_weights, own_weights, gradients, optimizer)


def _parts(frozen: Need, trained: Need, gradients: Need, optimizer: Need) -> dict[str, Need]:
    return {"frozen weights": frozen, "trained weights": trained, "gradients": gradients, "optimizer": optimizer}


def _frozen(sizes: Sizes, settings: TrainSettings | TuningSettings, bf16: bool) -> float:
    """Bytes of the weights under an adapter; 0 for full fine-tuning."""
    width = 2 if bf16 else 4
    if settings.method == "full":
        return 0.0
    if settings.method == "lora":
        return float(sizes.total * width)
    return sizes.linear * NF4 + (sizes.total - sizes.linear) * width


def require_memory(
    section: str,
    settings: TrainSettings | TuningSettings,
    model: Path | str,
    reference: Path | str | None = None,
    nproc: int = 1,
) -> None:
    """Refuse a training whose weights, gradients and optimizer cannot fit, before any weight is read.

    Args:
        section: the settings' section, `sft` or `train`, for the message.
        settings: method, precision, optimizer, DeepSpeed.
        model: the model that is trained, a folder or an id; for the folder of an adapter, the model that it names.
        reference: a second model that is held beside the weights for a while; None for none.
        nproc: processes that this machine will start for it; 1 also where torchrun has started some.

    Raises:
        UserError: one process needs more than its device or the CPU's memory has.
    """
    here = nproc if nproc > 1 else int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    processes = nproc if nproc > 1 else process_count()
    bf16 = precision_arguments(settings.precision)["bf16"]
    zero = zero_of(section, settings.deepspeed)
    sizes = count_parameters(_whole(model), settings)
    need = training_need(sizes, settings, zero, processes, bf16=bf16)
    if reference is not None:
        need = _with_reference(need, sizes.total + count_parameters(reference, settings).total, zero, processes, bf16)
    started = "one process" if processes == 1 else f"each of {processes} processes"
    plan = f"{section}.method={settings.method} with {sizes.total / 1e9:,.2g} B parameters needs at least"
    way_out = _way_out(section, settings, zero)
    gpu, host = _gpu_memory(), _free_memory()
    share = host / here
    if gpu is None:
        _require(plan, f"of memory for {started}", need.device + need.host, share, way_out)
    else:
        _require(plan, f"of GPU memory for {started}", need.device, gpu, way_out)
        _require(plan, f"of the CPU's memory for {started}", need.host, share, way_out)
    # The first process alone merges the adapter of an SFT, after training, into the weights as they are stored.
    if section == "sft" and settings.method != "full":
        merged = sizes.total * sizes.stored
        _require(plan, "of the CPU's memory to merge the adapter", merged, host, "take a smaller model or more memory")


def _whole(model: Path | str) -> Path | str:
    """The model that an adapter belongs to; a model that is none as it is.

    Raises:
        UserError: the adapter names none, as one whose base model is in a store alone.
    """
    adapter = Path(model) / ADAPTER_CONFIG
    if not adapter.is_file():
        return model
    base = json.loads(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path")
    if base is None:
        raise UserError(f"{model}: an adapter that names no base model; give the base model too")
    return str(base)


def _with_reference(need: Need, parameters: int, zero: Zero, processes: int, bf16: bool) -> Need:
    """The larger of the training's need and that of both models' weights, which are in memory before the first step.

    Only full fine-tuning loads a second model.
    """
    if zero.weights != "none":
        return need
    width = 2 if bf16 and zero.stage else 4
    shards = processes if zero.stage == 3 else 1
    return Need(max(need.device, parameters * width / shards), need.host)


def _way_out(section: str, settings: TrainSettings | TuningSettings, zero: Zero) -> str:
    """What a user can change, as the end of a message."""
    smaller = {"full": "lora or qlora", "lora": "qlora"}.get(settings.method)
    methods = [] if smaller is None else [f"set {section}.method to {smaller}"]
    shard = "start more processes" if zero.stage else f"set {section}.deepspeed and start several processes"
    if zero.stage in (1, 2):
        shard += f", give {section}.deepspeed a stage 3 that shards the weights too"
    return "; ".join([*methods, shard, "or take a smaller model"])


def _require(plan: str, where: str, needed: float, available: float, way_out: str) -> None:
    if needed > available:
        raise UserError(
            f"{plan} {needed / GIB:,.1f} GiB {where}, activations not counted, and there are {available / GIB:,.1f} "
            f"GiB; {way_out}"
        )


def _gpu_memory() -> int | None:
    """Bytes of this process's GPU, used and free; None without one."""
    import torch

    if not torch.cuda.is_available():
        return None
    return torch.cuda.mem_get_info(int(os.environ.get("LOCAL_RANK", "0")))[1]


def _free_memory() -> float:
    """Bytes of the computer's memory that programs can still take."""
    import psutil  # type: ignore[import-untyped]

    return float(psutil.virtual_memory().available)
