"""What a training needs of the machine and the model, checked before anything is built; the same for every method."""

import os

from builders.core.machine import require_package
from builders.core.models import LocalModel
from builders.settings.kto import TrainSettings
from builders.settings.sft import TuningSettings
from scorers.errors import UserError
from scorers.model_loading import check_all_weights
from training.attention import require_attention, trainable_attention
from training.memory import count_parameters, deepspeed_file, require_deepspeed, require_memory, zero_of
from training.precision import deepspeed_arguments, precision_arguments
from training.processes import process_count, share_batch
from training.reporting import require_trackers

EXTRA = "install the extra that brings it: pip install 'grace-data[train]'"


def require_training(
    section: str, settings: TrainSettings | TuningSettings, model: LocalModel | None, nproc: int = 1
) -> None:
    """Check that this machine can do what a training's settings ask for, and that the model has what they name.

    Args:
        section: `sft` or `train`, for the messages.
        settings: the section.
        model: the model that is trained, or that the trained one will be made from; None while no stage has made it.
        nproc: processes that this machine will start to train it together; 1 also where torchrun has started some.

    Raises:
        UserError: there are more processes than GPUs, or they cannot share a batch; the GPU lacks bfloat16;
            FlashAttention, DeepSpeed, bitsandbytes or a tracker of `report_to` is not there; DeepSpeed's file is
            missing or does not go with the method or the precision; the model cannot be trained, lacks a weight or a
            layer of `lora_targets`, or cannot fit the memory with what its training needs.
    """
    processes = process_count()
    if nproc > 1:
        _require_room(nproc, processes)
        processes = nproc
    share_batch(section, settings.batch_size, settings.device_batch_size, processes)
    if settings.method != "full":
        require_package(f"{section}.method={settings.method}", "peft", EXTRA)
    if settings.method == "qlora":
        require_package(f"{section}.method=qlora", "bitsandbytes", EXTRA)
    if settings.optimizer.endswith("8bit"):
        require_package(f"{section}.optimizer={settings.optimizer}", "bitsandbytes", EXTRA)
    require_trackers(section, settings.report_to)
    precision = precision_arguments(settings.precision, f"{section}.precision")
    require_attention(f"{section}.attention", settings.attention, bf16=precision["bf16"])
    zero = zero_of(section, settings.deepspeed)
    require_deepspeed(section, settings.deepspeed)
    deepspeed_arguments(
        deepspeed_file(section, settings.deepspeed), precision, settings.method != "full", section, processes
    )
    if section == "sft" and settings.method == "qlora" and zero.stage == 3:
        raise UserError(
            f"sft.deepspeed {settings.deepspeed} shards the weights (stage 3), which sft.method=qlora cannot have; "
            "use sft.deepspeed=zero2, or sft.method=lora"
        )
    if model is not None:
        check_all_weights(model.path)
        trainable_attention(model.path, settings.attention)
        # An adapter that is trained further keeps its own targets.
        if settings.method != "full" and model.adapter is None:
            _require_targets(section, settings, model)
        require_memory(section, settings, model.path, nproc=nproc)


def _require_room(nproc: int, started: int) -> None:
    """Check that every process has a GPU of its own, where there is one, and else a core."""
    import torch

    if started > 1:
        raise UserError(f"nproc is {nproc}, and torchrun has started {started} processes already; set nproc to 1")
    gpus = torch.cuda.device_count()
    if gpus and nproc > gpus:
        raise UserError(f"nproc is {nproc}, one GPU per process, and this machine has {gpus}; set it to {gpus} at most")
    cores = os.cpu_count() or 1
    if not gpus and nproc > cores:
        raise UserError(f"nproc is {nproc}, and this machine has no GPU and {cores} cores; set it to {cores} at most")


def _require_targets(section: str, settings: TrainSettings | TuningSettings, model: LocalModel) -> None:
    """Check the adapter's targets against the model's layers, by its configuration alone."""
    try:
        count_parameters(model.path, settings)
    except UserError as error:
        raise UserError(f"{section}.{error}") from None
