"""A reward model from pairs of texts of which one is preferred (RationAlign, §3.2.1), on TRL's `RewardTrainer`.

A row is {"task": "gec", "chosen": text, "rejected": text}. One model learns all tasks, or each task has its own, in a
folder of the task's name. With `method` lora or qlora that is an adapter, which is kept as it is: its base model serves
all tasks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from builders.settings.sft import TuningSettings
from scorers.errors import UserError
from scorers.reward import ended
from training.chat import forget_how_loaded
from training.reporting import reporting
from training.tuning import (
    ADAPTER,
    Metrics,
    Start,
    arguments_of,
    in_own_folder,
    is_first,
    lately,
    logs_beside,
    start_from,
    trained,
)

Pair = Mapping[str, str]  # task, chosen, rejected


def run_reward(
    *,
    base: Path | str,
    output: Path,
    pairs: Sequence[Pair],
    settings: TuningSettings,
    per_task: bool,
    section: str = "reward",
    logs: Path | None = None,
) -> dict[str, float]:
    """Train a reward model and save it to a folder, which appears whole or not at all.

    Args:
        base: model folder, or a model id of the Hub: a language model, which gets a new head, or a sequence classifier
            with one output.
        output: folder to write; an existing one is replaced.
        pairs: rows of `task`, `chosen` and `rejected`.
        settings: see `TuningSettings`.
        per_task: whether each task has a model of its own.
        section: of the settings, for messages.
        logs: folder for what trackers keep; None: one beside the output.

    Returns:
        Final metrics, of several tasks their mean: `loss` (over the last tenth of the steps) and `train_loss` in nats,
        `accuracy` (share of pairs whose chosen text scores higher, over the last tenth), `steps`, `rows`, `truncated`
        (pairs with a text longer than the window, of which the end is kept), `seconds`.

    Raises:
        UserError: there are no pairs; memory or machine do not do; a loss is not finite.
    """
    if not pairs:
        raise UserError(f"{section}: no pair to train on; give contests, of which `build --stage contest` makes some")
    start = start_from(section, base, settings, logs or logs_beside(output), chats=False)
    if start.tokenizer.eos_token is None:
        raise UserError(f"{section}: the tokenizer of {base} has no end-of-sequence token; use another model")
    kinds: list[str | None] = list(dict.fromkeys(pair["task"] for pair in pairs)) if per_task else [None]
    truncated = 0

    def attempt(folder: Path, device_batch: int, accumulation: int) -> Metrics:
        nonlocal truncated
        found = []
        truncated = 0
        for kind in kinds:
            rows, cut = tokenized(start, [pair for pair in pairs if kind in (None, pair["task"])])
            truncated += cut
            below = folder if kind is None else folder / folder_of(kind)
            own = start if kind is None else replace(start, logs=start.logs / folder_of(kind))
            found.append(_train(own, rows, section, settings, below, device_batch, accumulation))
            _put_in_place(start, settings, below)
        if is_first():
            forget_how_loaded(start.tokenizer)
            start.tokenizer.save_pretrained(folder)
        return {name: sum(one[name] for one in found) / len(found) for name in found[0]}

    metrics = in_own_folder(section, settings, output, attempt)
    return metrics | {"rows": len(pairs), "truncated": truncated, "models": len(kinds)}


def folder_of(task: str) -> str:
    """Return the name of a task's folder.

    Raises:
        UserError: the task's name is no name of a folder.
    """
    if not task.replace("-", "").replace("_", "").isalnum():
        raise UserError(f"task {task!r}: a model's folder is named by it; use letters, digits, - and _ alone")
    return task


def tokenized(start: Start, pairs: Sequence[Pair]) -> tuple[list[dict[str, list[int]]], int]:
    """Tokenize pairs, each text with an end; of a longer one than the window the end is kept.

    Returns:
        Rows of `chosen_ids` and `rejected_ids`, and the number of pairs with a text that was cut.
    """
    ids = {
        name: start.tokenizer([ended(pair[name], start.tokenizer.eos_token) for pair in pairs])["input_ids"]
        for name in ("chosen", "rejected")
    }
    cut = sum(max(len(a), len(b)) > start.window for a, b in zip(*ids.values(), strict=True))
    both = zip(ids["chosen"], ids["rejected"], strict=True)
    return [{"chosen_ids": a[-start.window :], "rejected_ids": b[-start.window :]} for a, b in both], cut


def _train(
    start: Start,
    rows: list[dict[str, list[int]]],
    section: str,
    settings: TuningSettings,
    folder: Path,
    device_batch: int,
    accumulation: int,
) -> Metrics:
    """Train, and save the model into a folder or its adapter below; all processes call this function."""
    from datasets import Dataset
    from trl import RewardConfig

    from training.reward.trainer import PreferenceTrainer
    from training.sft.trainer import StepWatch
    from training.tuning_model import adapter_config, load_model, widen_adapter

    arguments = arguments_of(RewardConfig, section, settings, start, folder, device_batch, accumulation)
    with reporting(settings.report_to, start.logs):
        trainer: Any = PreferenceTrainer(
            model=load_model(start.base, settings, start.attention, arguments, scores=True),
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=start.tokenizer,
            peft_config=adapter_config(settings, "SEQ_CLS"),
            callbacks=[StepWatch(section)],
        )
        if settings.method == "qlora":
            widen_adapter(trainer.model)
        return trained(trainer, settings, folder) | {"accuracy": lately(trainer, "accuracy")}


def _put_in_place(start: Start, settings: TuningSettings, folder: Path) -> None:
    """Move an adapter's files to where its task's model belongs."""
    if settings.method == "full" or not is_first():
        return
    for file in (folder / ADAPTER).iterdir():
        if file.name != "README.md":
            file.rename(folder / file.name)
    for file in (folder / ADAPTER).iterdir():
        file.unlink()
    (folder / ADAPTER).rmdir()
