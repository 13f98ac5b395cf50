"""Supervised fine-tuning on conversations (GRACE-KTO, §3.1), on TRL's `SFTTrainer`.

A row is a prompt and its answer; answers are trained on as they are, also those that break the tagged form.

    {"prompt": [{"role": "user", "content": "Please write a report titled …"}],
     "completion": [{"role": "assistant", "content": "<summary>This report treats …</answer>"}]}
"""

import gc
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from builders.engines import Message
from builders.engines.loading import load_end_ids
from builders.settings.sft import TuningSettings
from scorers.errors import UserError
from scorers.gpu_memory import BatchSize
from scorers.model_loading import window_in
from training.attention import trainable_attention
from training.chat import forget_how_loaded, require_end, with_template
from training.chat import tokenize as tokenize_chats
from training.memory import deepspeed_file, require_memory
from training.precision import deepspeed_arguments, precision_arguments
from training.processes import process_count, share_batch
from training.ready import require_training

Conversation = Mapping[str, list[Message]]  # {"prompt": messages, "completion": messages}
NO_VARIABLES: Mapping[str, Any] = MappingProxyType({})
ADAPTER = "adapter"  # folder of a trained adapter until it is merged


def run_sft(
    *,
    base: Path | str,
    output: Path,
    conversations: Sequence[Conversation],
    settings: TuningSettings,
    template_kwargs: Mapping[str, Any] = NO_VARIABLES,
) -> dict[str, float]:
    """Fine-tune a model and save model and tokenizer to a folder, which appears whole or not at all.

    The result is always a whole model: an adapter (`method` lora or qlora) is merged into the base model as its
    checkpoint stores it, never into 4-bit weights. Under torchrun all processes call this function; the first one alone
    writes, and the others return before the folder is there.

    Args:
        base: model folder, or a model id of the Hub.
        output: folder to write; an existing one is replaced.
        conversations: rows, as messages `prompt` and `completion`.
        settings: see `TuningSettings`.
        template_kwargs: variables of the chat template, the same as in sampling; the text `chat_template` among them
            takes the place of the tokenizer's template and is saved with the model.

    Returns:
        Final metrics: `loss` (mean over the last tenth of the steps) and `train_loss` (over all) in nats per token,
        `steps`, `rows`, `truncated` (rows cut at `max_length`), `skipped` (rows without room for an
        answer), `tokens` (of all rows), `seconds`.

    Raises:
        UserError: the memory cannot hold weights and optimizer; the batch cannot be shared by the processes; there are
            no rows; the chat template rewrites a row; a prompt leaves no room for an answer; a loss is not finite.
    """
    processes = process_count()
    device_batch, _ = share_batch("sft", settings.batch_size, settings.device_batch_size, processes)
    attention = trainable_attention(base, settings.attention)
    require_memory("sft", settings, base)
    require_training("sft", settings, None)

    from transformers import AutoConfig, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=False)
    # A template that is given is saved with the model.
    tokenizer, template_kwargs = with_template(tokenizer, template_kwargs)
    config = AutoConfig.from_pretrained(base, trust_remote_code=False)
    require_end(tokenizer, load_end_ids(str(base), None, config), template_kwargs)
    window = settings.max_length or window_in(config) or sys.maxsize
    rows, truncated = tokenize(tokenizer, conversations, window, template_kwargs)
    # Beside the output, so that the final rename stays on one file system; the same for all processes.
    working = output.with_name(f".{output.name}.part")
    first = os.environ.get("RANK", "0") == "0"
    if first:
        shutil.rmtree(working, ignore_errors=True)  # what a killed run left

    def attempt(device_rows: int) -> dict[str, float]:
        shares = share_batch("sft", settings.batch_size, device_rows, processes)
        return _train(base, tokenizer, rows, settings, attention, _arguments(settings, working, *shares))

    try:
        metrics = BatchSize(
            device_batch, "sft.device_batch_size", divides=settings.batch_size, alone=processes == 1
        ).fitting(attempt)
        if first:
            _finish(base, tokenizer, settings, working, output)
    finally:
        if first:
            shutil.rmtree(working, ignore_errors=True)  # exists only after a failure
    skipped = len(conversations) - len(rows)
    counts = {
        "rows": len(rows),
        "truncated": truncated,
        "skipped": skipped,
        "tokens": sum(row["length"] for row in rows),
    }
    return metrics | counts


def tokenize(
    tokenizer: Any,
    conversations: Sequence[Conversation],
    window: int,
    template_kwargs: Mapping[str, Any] = NO_VARIABLES,
) -> tuple[list[dict[str, Any]], int]:
    """Tokenize conversations with the model's chat template, as `training.chat` does for KTO too.

    Args:
        tokenizer: a tokenizer with a chat template.
        conversations: messages `prompt` and `completion`.
        window: longest row in tokens; longer answers are cut, and rows whose prompt alone fills it are left out.
        template_kwargs: variables of the chat template; the same as in sampling.

    Returns:
        Rows of `input_ids`, `prompt_length` and `length` (in tokens), and the number of rows that were cut.

    Raises:
        UserError: there is no conversation, the chat template rewrites one, or every prompt fills the window.
    """
    if not conversations:
        raise UserError("SFT has no rows; give at least one conversation")
    prompt_ids, answer_ids = tokenize_chats(
        tokenizer,
        [conversation["prompt"] for conversation in conversations],
        [conversation["completion"] for conversation in conversations],
        template_kwargs,
    )
    rows: list[dict[str, Any]] = []
    truncated = 0
    for prompt, reply in zip(prompt_ids, answer_ids, strict=True):
        if len(prompt) >= window:
            continue  # nothing of the answer would be left
        truncated += len(prompt) + len(reply) > window
        ids = (prompt + reply)[:window]
        rows.append({"input_ids": ids, "prompt_length": len(prompt), "length": len(ids)})
    if not rows:
        raise UserError(
            f"SFT has no rows: all {len(conversations)} prompts have {window} tokens or more, which leaves no room for "
            "an answer; raise sft.max_length or shorten the queries"
        )
    return rows, truncated


def _train(
    base: Path | str,
    tokenizer: Any,
    rows: list[dict[str, Any]],
    settings: TuningSettings,
    attention: str,
    arguments: Any,
) -> dict[str, float]:
    """Train, and save the model to the arguments' folder or its adapter below; all processes call this function.

    On return nothing holds the model any more, so that its memory can serve the merge of an adapter.
    """
    from training.sft.model import load_model

    model = load_model(base, settings, attention, arguments)
    trainer = _trainer(model, tokenizer, rows, settings, arguments)
    del model
    result = trainer.train()
    # All processes take part, since with ZeRO-3 each has a part of the weights; the first one writes.
    folder = Path(arguments.output_dir)
    trainer.save_model(str(folder if settings.method == "full" else folder / ADAPTER))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    tail = losses[-max(1, len(losses) // 10) :]
    return {
        "loss": sum(tail) / len(tail),
        "train_loss": float(result.training_loss),
        "steps": trainer.state.global_step,
        "seconds": float(result.metrics["train_runtime"]),
    }


def _trainer(model: Any, tokenizer: Any, rows: list[dict[str, Any]], settings: TuningSettings, arguments: Any) -> Any:
    from datasets import Dataset
    from transformers import PrinterCallback

    from training.sft.model import adapter_config, widen_adapter
    from training.sft.trainer import StepWatch, WeightedCollator, WeightedSFTTrainer

    trainer = WeightedSFTTrainer(
        model=model,
        args=arguments,
        # Padding has no weight, so any id will do where the tokenizer has none for it.
        data_collator=WeightedCollator(tokenizer.pad_token_id or 0, settings.prompt_loss_weight),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=adapter_config(settings),
        callbacks=[StepWatch()],
    )
    if settings.method == "qlora":
        widen_adapter(trainer.model)
    trainer.remove_callback(PrinterCallback)  # prints to stdout, which belongs to `--json`
    return trainer


def _arguments(settings: TuningSettings, working: Path, device_batch: int, accumulation: int) -> Any:
    import torch
    from trl import SFTConfig

    return SFTConfig(
        output_dir=str(working),
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
            deepspeed_file("sft", settings.deepspeed),
            precision_arguments(settings.precision),
            settings.method != "full",
        ),
        ddp_find_unused_parameters=False,
        seed=settings.seed,
        data_seed=settings.seed,
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_steps=1,
        # Otherwise transformers logs a mean in place of a NaN, and `StepWatch` would never see it.
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        save_strategy="no",
        report_to="none",
    )


def _finish(base: Path | str, tokenizer: Any, settings: TuningSettings, working: Path, output: Path) -> None:
    """Make a whole model of what was saved, and rename its folder."""
    if settings.method != "full":
        from training.sft.model import merge

        gc.collect()  # the trainer, which has references to itself, and with it the trained model
        merge(base, working / ADAPTER, working)
        shutil.rmtree(working / ADAPTER)
    forget_how_loaded(tokenizer)
    tokenizer.save_pretrained(working)
    # A pickle of the arguments, with local paths in it.
    (working / "training_args.bin").unlink(missing_ok=True)
    if output.exists():
        shutil.rmtree(output)
    os.replace(working, output)
