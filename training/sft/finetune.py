"""Supervised fine-tuning on conversations (GRACE-KTO, §3.1), on TRL's `SFTTrainer`.

A row is a prompt and its answer; answers are trained on as they are, also those that break the tagged form.

    {"prompt": [{"role": "user", "content": "Please write a report titled …"}],
     "completion": [{"role": "assistant", "content": "<summary>This report treats …</answer>"}]}
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from builders.engines import Message
from builders.settings.sft import TuningSettings
from scorers.errors import UserError
from training.chat import tokenize as tokenize_chats
from training.reporting import reporting
from training.tuning import (
    NO_VARIABLES,
    Metrics,
    Start,
    arguments_of,
    in_own_folder,
    logs_beside,
    start_from,
    trained,
    whole_model,
)

Conversation = Mapping[str, list[Message]]  # {"prompt": messages, "completion": messages}


def run_sft(
    *,
    base: Path | str,
    output: Path,
    conversations: Sequence[Conversation],
    settings: TuningSettings,
    template_kwargs: Mapping[str, Any] = NO_VARIABLES,
    section: str = "sft",
    logs: Path | None = None,
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
        section: of the settings, for messages.
        logs: folder for what trackers keep; None: one beside the output.

    Returns:
        Final metrics: `loss` (mean over the last tenth of the steps) and `train_loss` (over all) in nats per token,
        `steps`, `rows`, `truncated` (rows cut at `max_length`), `skipped` (rows without room for an
        answer), `tokens` (of all rows), `seconds`.

    Raises:
        UserError: the memory cannot hold weights and optimizer; the batch cannot be shared by the processes; there are
            no rows; the chat template rewrites a row; a prompt leaves no room for an answer; a loss is not finite.
    """
    start = start_from(section, base, settings, logs or logs_beside(output), template_kwargs)
    rows, truncated = tokenize(start.tokenizer, conversations, start.window, start.template_kwargs, section)

    def attempt(folder: Path, device_batch: int, accumulation: int) -> Metrics:
        metrics = _train(start, rows, section, settings, folder, device_batch, accumulation)
        whole_model(start, settings, folder)
        return metrics

    metrics = in_own_folder(section, settings, output, attempt)
    counts = {
        "rows": len(rows),
        "truncated": truncated,
        "skipped": len(conversations) - len(rows),
        "tokens": sum(row["length"] for row in rows),
    }
    return metrics | counts


def tokenize(
    tokenizer: Any,
    conversations: Sequence[Conversation],
    window: int,
    template_kwargs: Mapping[str, Any] = NO_VARIABLES,
    section: str = "sft",
) -> tuple[list[dict[str, Any]], int]:
    """Tokenize conversations with the model's chat template, as `training.chat` does for KTO too.

    Args:
        tokenizer: a tokenizer with a chat template.
        conversations: messages `prompt` and `completion`.
        window: longest row in tokens; longer answers are cut, and rows whose prompt alone fills it are left out.
        template_kwargs: variables of the chat template; the same as in sampling.
        section: of the settings, for messages.

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
            f"an answer; raise {section}.max_length or shorten the queries"
        )
    return rows, truncated


def _train(
    start: Start,
    rows: list[dict[str, Any]],
    section: str,
    settings: TuningSettings,
    folder: Path,
    device_batch: int,
    accumulation: int,
) -> Metrics:
    """Train, and save the model into a folder or its adapter below; all processes call this function.

    On return nothing holds the model any more, so that its memory can serve the merge of an adapter.
    """
    from datasets import Dataset
    from trl import SFTConfig

    from training.sft.trainer import StepWatch, WeightedCollator, WeightedSFTTrainer
    from training.tuning_model import adapter_config, load_model, widen_adapter

    own = {"dataset_kwargs": {"skip_prepare_dataset": True}}
    arguments = arguments_of(SFTConfig, section, settings, start, folder, device_batch, accumulation, **own)
    with reporting(settings.report_to, start.logs):
        trainer = WeightedSFTTrainer(
            model=load_model(start.base, settings, start.attention, arguments),
            args=arguments,
            # Padding has no weight, so any id will do where the tokenizer has none for it.
            data_collator=WeightedCollator(start.tokenizer.pad_token_id or 0, settings.prompt_loss_weight),
            train_dataset=Dataset.from_list(rows),
            processing_class=start.tokenizer,
            peft_config=adapter_config(settings),
            callbacks=[StepWatch(section)],
        )
        if settings.method == "qlora":
            widen_adapter(trainer.model)
        return trained(trainer, settings, folder)
