"""Supervised fine-tuning on the seed documents in the tagged form (GRACE-KTO, §3.1), on TRL's `SFTTrainer`.

A row is a conversation: the query, after the system prompt if there is one, and the reference document as the answer.
References are trained on as they are, also those that break the tagged form.

    {"prompt": [{"role": "user", "content": "Please write a report titled …"}],
     "completion": [{"role": "assistant", "content": "<summary>This report treats …</answer>"}]}
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from builders.core.prompting import answer, chat
from builders.engines import Message
from builders.settings.sft import SFTSettings
from scorers.errors import UserError

Conversation = Mapping[str, list[Message]]  # {"prompt": messages, "completion": messages}


def run_sft(
    *,
    base: Path | str,
    output: Path,
    documents: Sequence[Mapping[str, str | None]],
    extra_conversations: Sequence[Conversation] = (),
    settings: SFTSettings,
    system_prompt: str | None = None,
) -> dict[str, float]:
    """Fine-tune all parameters of a model and save model and tokenizer to a folder, which appears whole or not at all.

    Args:
        base: model folder, or a model id of the Hub.
        output: folder to write; an existing one is replaced.
        documents: rows with `query` and `reference`; rows whose reference is None are left out.
        extra_conversations: further rows, as messages `prompt` and `completion`.
        settings: see `SFTSettings`.
        system_prompt: text of the system message before each query of `documents`; None for none.

    Returns:
        Final metrics: `loss` (mean over the last tenth of the steps) and `train_loss` (over all) in nats per token,
        `steps`, `rows`, `truncated` (rows cut at `max_length`), `tokens` (of all rows), `seconds`.

    Raises:
        UserError: there are no rows; a prompt leaves no room for an answer; a loss is not finite.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=False)
    # float32 weights, since all of them are trained: bfloat16 would round away updates as small as the learning rate.
    model = AutoModelForCausalLM.from_pretrained(base, trust_remote_code=False, dtype="float32")
    window = settings.max_length or model.config.max_position_embeddings
    conversations = [*_conversations(documents, system_prompt), *extra_conversations]
    rows, truncated = tokenize(tokenizer, conversations, window)
    # Beside the output, so that the final rename stays on one file system.
    working = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    trainer = _trainer(model, tokenizer, rows, settings, working)
    try:
        result = trainer.train()
        _save(trainer, tokenizer, working, output)
    finally:
        shutil.rmtree(working, ignore_errors=True)  # exists only after a failure
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    tail = losses[-max(1, len(losses) // 10) :]
    return {
        "loss": sum(tail) / len(tail),
        "train_loss": float(result.training_loss),
        "steps": trainer.state.global_step,
        "rows": len(rows),
        "truncated": truncated,
        "tokens": sum(len(row["input_ids"]) for row in rows),
        "seconds": float(result.metrics["train_runtime"]),
    }


def _conversations(documents: Sequence[Mapping[str, str | None]], system_prompt: str | None) -> list[Conversation]:
    """The seed documents that have a reference, as conversations."""
    rows: list[Conversation] = []
    for document in documents:
        query, reference = document["query"], document["reference"]
        if query is not None and reference is not None:
            rows.append({"prompt": chat(query, system=system_prompt), "completion": answer(reference)})
    return rows


def tokenize(tokenizer: Any, conversations: Sequence[Conversation], window: int) -> tuple[list[dict[str, Any]], int]:
    """Tokenize conversations with the model's chat template.

    Args:
        tokenizer: a tokenizer with a chat template.
        conversations: messages `prompt` and `completion`.
        window: longest row in tokens; longer answers are cut.

    Returns:
        Rows of `input_ids`, `prompt_length` and `length` (in tokens), and the number of rows that were cut.

    Raises:
        UserError: there is no conversation, the chat template rewrites the prompt, or a prompt fills the window.
    """
    if not conversations:
        raise UserError("SFT has no rows: no document has a reference; map a column to `seed.columns.reference`")
    prompts, answers = [], []
    for conversation in conversations:
        messages = [*conversation["prompt"], *conversation["completion"]]
        prompt = tokenizer.apply_chat_template(conversation["prompt"], add_generation_prompt=True, tokenize=False)
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        # Some templates render a turn differently once another one follows, so prompt and answer cannot be told apart.
        if not text.startswith(prompt):
            raise UserError(f"the chat template of {tokenizer.name_or_path} rewrites the prompt once it is answered")
        prompts.append(prompt)
        answers.append(text[len(prompt) :])
    # Prompt and answer are tokenized apart, so that no token spans the boundary, as in generation. The special tokens
    # are already in the template's text.
    prompt_ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    answer_ids = tokenizer(answers, add_special_tokens=False)["input_ids"]
    rows, truncated = [], 0
    for number, (prompt, reply) in enumerate(zip(prompt_ids, answer_ids, strict=True)):
        if len(prompt) >= window:
            raise UserError(
                f"SFT row {number} has a prompt of {len(prompt)} tokens, the limit is {window} with the answer; "
                "raise sft.max_length or shorten the query"
            )
        truncated += len(prompt) + len(reply) > window
        ids = (prompt + reply)[:window]
        rows.append({"input_ids": ids, "prompt_length": len(prompt), "length": len(ids)})
    return rows, truncated


def _trainer(model: Any, tokenizer: Any, rows: list[dict[str, Any]], settings: SFTSettings, working: Path) -> Any:
    from datasets import Dataset
    from transformers import PrinterCallback

    from training.sft.trainer import StepWatch, WeightedCollator, WeightedSFTTrainer

    trainer = WeightedSFTTrainer(
        model=model,
        args=_arguments(settings, working),
        data_collator=WeightedCollator(tokenizer.pad_token_id, settings.prompt_loss_weight),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[StepWatch()],
    )
    trainer.remove_callback(PrinterCallback)  # prints to stdout, which belongs to `--json`
    return trainer


def _arguments(settings: SFTSettings, working: Path) -> Any:
    import torch
    from trl import SFTConfig

    # Mixed precision: the weights stay float32.
    gpu_bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    device_batch = settings.device_batch_size or settings.batch_size
    if settings.batch_size % device_batch:
        raise UserError(
            f"sft.batch_size {settings.batch_size} is not a multiple of sft.device_batch_size {device_batch}"
        )
    return SFTConfig(
        output_dir=str(working),
        num_train_epochs=settings.epochs,
        max_steps=settings.steps or -1,
        per_device_train_batch_size=device_batch,
        gradient_accumulation_steps=settings.batch_size // device_batch,
        learning_rate=settings.learning_rate,
        # Below 1 transformers reads the number as a share of the steps.
        warmup_steps=settings.warmup_ratio,
        lr_scheduler_type="cosine",
        # Rows are tokenized and cut already; TRL must neither cut nor prepare them again.
        max_length=None,
        gradient_checkpointing=settings.gradient_checkpointing,
        bf16=settings.precision == "bf16" or (settings.precision == "auto" and gpu_bf16),
        seed=settings.seed,
        data_seed=settings.seed,
        # Rows of like length share a batch: less padding.
        train_sampling_strategy="group_by_length",
        length_column_name="length",
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


def _save(trainer: Any, tokenizer: Any, working: Path, output: Path) -> None:
    trainer.save_model(str(working))
    tokenizer.save_pretrained(working)
    # A pickle of the arguments, with local paths in it.
    (working / "training_args.bin").unlink(missing_ok=True)
    if output.exists():
        shutil.rmtree(output)
    os.replace(working, output)
