"""What every fine-tuning to a whole model or an adapter shares: SFT, the reward model, preference optimisation.

A method brings its rows, its trainer and the class of its arguments; the folder that it fills appears whole or not at
all. Under torchrun all processes call these functions; the first one alone writes.
"""

import gc
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from builders.core.stage import Trained
from builders.engines.loading import load_end_ids
from builders.settings.sft import TuningSettings
from builders.store.files import write_text
from builders.store.manifest import TRAINING_LOG
from builders.store.training_log import log_rows, log_text
from scorers.gpu_memory import BatchSize
from scorers.model_loading import window_in
from training.attention import trainable_attention
from training.chat import forget_how_loaded, require_end, with_template
from training.memory import deepspeed_file, require_memory
from training.precision import deepspeed_arguments, precision_arguments
from training.processes import process_count, share_batch
from training.ready import require_training
from training.reporting import report_arguments

NO_VARIABLES: Mapping[str, Any] = MappingProxyType({})
ADAPTER = "adapter"  # folder of a trained adapter until it is merged

Metrics = dict[str, float]
Attempt = Callable[[Path, int, int], Metrics]
"""Trains into a folder with so many rows per forward pass, and so many passes per step."""


@dataclass(frozen=True)
class Start:
    """What a training starts from.

    Attributes:
        base: model folder, or a model id of the Hub.
        tokenizer: the model's, with the chat template that counts.
        template_kwargs: variables of the template.
        window: longest row in tokens.
        attention: transformers' name of the attention.
        logs: folder for what trackers keep.
    """

    base: Path | str
    tokenizer: Any
    template_kwargs: Mapping[str, Any]
    window: int
    attention: str
    logs: Path


def start_from(
    section: str,
    base: Path | str,
    settings: TuningSettings,
    logs: Path,
    template_kwargs: Mapping[str, Any] = NO_VARIABLES,
    *,
    chats: bool = True,
) -> Start:
    """Check memory and machine, and load the tokenizer.

    Args:
        section: of the settings, for messages.
        base: model folder, or a model id of the Hub.
        settings: the section.
        logs: folder for what trackers keep, outside the model's.
        template_kwargs: variables of the chat template; the text `chat_template` among them takes the place of the
            tokenizer's template.
        chats: whether rows are conversations, which need a chat template that ends an answer.

    Raises:
        UserError: the memory cannot hold weights and optimizer; as `require_training` and `require_end`.
    """
    share_batch(section, settings.batch_size, settings.device_batch_size, process_count())
    attention = trainable_attention(base, settings.attention)
    require_memory(section, settings, base)
    require_training(section, settings, None)

    from transformers import AutoConfig, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=False)
    config = AutoConfig.from_pretrained(base, trust_remote_code=False)
    if chats:
        tokenizer, template_kwargs = with_template(tokenizer, template_kwargs)
        require_end(tokenizer, load_end_ids(str(base), None, config), template_kwargs)
    window = settings.max_length or window_in(config) or sys.maxsize
    return Start(base, tokenizer, template_kwargs, window, attention, logs)


def logs_beside(output: Path) -> Path:
    """Return the folder for what trackers keep of a training for which none is named: beside the model's folder."""
    return output.with_name(f"{output.name}-logs")


def in_own_folder(section: str, settings: TuningSettings, output: Path, attempt: Attempt) -> Metrics:
    """Train in a working folder beside the output, with fewer rows at once where a GPU's memory runs out.

    Args:
        section: of the settings, for messages.
        settings: the section.
        output: folder to write; an existing one is replaced.
        attempt: trains into the working folder, and makes all files of the output there.
    """
    processes = process_count()
    device_batch, _ = share_batch(section, settings.batch_size, settings.device_batch_size, processes)
    # Beside the output, so that the final rename stays on one file system; the same for all processes.
    working = output.with_name(f".{output.name}.part")
    first = is_first()
    if first:
        shutil.rmtree(working, ignore_errors=True)  # what a killed run left
    try:
        metrics = BatchSize(
            device_batch, f"{section}.device_batch_size", divides=settings.batch_size, alone=processes == 1
        ).fitting(lambda rows: attempt(working, *share_batch(section, settings.batch_size, rows, processes)))
        if first:
            # A pickle of the arguments, with local paths in it.
            for file in working.rglob("training_args.bin"):
                file.unlink()
            if output.exists():
                shutil.rmtree(output)
            os.replace(working, output)
    finally:
        if first:
            shutil.rmtree(working, ignore_errors=True)  # exists only after a failure
    return metrics


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return os.environ.get("RANK", "0") == "0"


def arguments_of(
    kind: Any,
    section: str,
    settings: TuningSettings,
    start: Start,
    folder: Path,
    device_batch: int,
    accumulation: int,
    **own: Any,
) -> Any:
    """Return a trainer's arguments.

    Args:
        kind: the class, such as TRL's SFTConfig.
        section: of the settings, for messages.
        settings: the section.
        start: where trackers write.
        folder: to write into.
        device_batch: rows per forward pass.
        accumulation: passes per optimizer step.
        own: what the class has besides.
    """
    import torch

    return kind(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
        max_steps=settings.steps or -1,
        per_device_train_batch_size=device_batch,
        gradient_accumulation_steps=accumulation,
        learning_rate=settings.learning_rate,
        # Below 1 transformers reads the number as a share of the steps.
        warmup_steps=settings.warmup_ratio,
        lr_scheduler_type="cosine",
        optim=settings.optimizer,
        # Rows are tokenized and cut already; TRL must neither cut nor prepare them again.
        max_length=None,
        gradient_checkpointing=settings.gradient_checkpointing,
        **deepspeed_arguments(
            deepspeed_file(section, settings.deepspeed),
            precision_arguments(settings.precision),
            settings.method != "full",
        ),
        ddp_find_unused_parameters=False,
        seed=settings.seed,
        data_seed=settings.seed,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_steps=1,
        # Otherwise transformers logs a mean in place of a NaN, and `StepWatch` would never see it.
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        save_strategy="no",
        **report_arguments(settings.report_to, start.logs),
        **own,
    )


def trained(trainer: Any, settings: TuningSettings, folder: Path) -> Metrics:
    """Train, and save the model into a folder, or its adapter into one below it; all processes call this function.

    Beside it stands the log of the training.

    Returns:
        `loss` (mean over the last tenth of the steps), `train_loss` (over all), `steps` and `seconds`.
    """
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)  # prints to stdout, which belongs to `--json`
    result = trainer.train()
    # All processes take part, since with ZeRO-3 each has a part of the weights; the first one writes.
    trainer.save_model(str(folder if settings.method == "full" else folder / ADAPTER))
    if is_first():
        write_text(folder / TRAINING_LOG, log_text(log_rows(trainer.state.log_history)))
    return {
        "loss": lately(trainer, "loss"),
        "train_loss": float(result.training_loss),
        "steps": trainer.state.global_step,
        "seconds": float(result.metrics["train_runtime"]),
    }


def lately(trainer: Any, name: str) -> float:
    """Return the mean of what a trainer has logged under a name, over the last tenth of the steps."""
    found = [entry[name] for entry in trainer.state.log_history if name in entry]
    tail = found[-max(1, len(found) // 10) :]
    return float(sum(tail) / len(tail))


def reported(metrics: Mapping[str, float]) -> Trained:
    """Return what a manifest keeps of a training's metrics.

    Seconds differ from run to run, and a manifest must not. Rows that were cut or left out are counts, of which those
    of 0 are not told.
    """
    counted = {"truncated": "rows cut at the window", "skipped": "rows without room for an answer"}
    counts = {words: int(metrics[name]) for name, words in counted.items() if metrics.get(name)}
    results = {name: value for name, value in metrics.items() if name not in ("seconds", *counted)}
    return Trained(rows=int(metrics["rows"]), results=results, counts=counts)


def whole_model(start: Start, settings: TuningSettings, folder: Path) -> None:
    """Merge a trained adapter into the base model where there is one, and save the tokenizer beside the model."""
    if not is_first():
        return
    if settings.method != "full":
        from training.tuning_model import merge

        gc.collect()  # the trainer, which has references to itself, and with it the trained model
        merge(start.base, folder / ADAPTER, folder)
        shutil.rmtree(folder / ADAPTER)
    forget_how_loaded(start.tokenizer)
    start.tokenizer.save_pretrained(folder)
