"""Margin-based preference optimisation of a writing assistant (RationAlign, §3.2.2), on TRL's `SFTTrainer`.

A row is a prompt with the chosen and the rejected answer and the rewards that a reward model gave them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from builders.settings.mpo import MpoSettings
from scorers.errors import UserError
from training.chat import tokenize
from training.reporting import reporting
from training.tuning import (
    NO_VARIABLES,
    Metrics,
    Start,
    arguments_of,
    in_own_folder,
    lately,
    logs_beside,
    start_from,
    trained,
    whole_model,
)

Preference = Mapping[str, Any]  # prompt, chosen, rejected: messages; reward_chosen, reward_rejected: numbers


def run_mpo(
    *,
    base: Path | str,
    output: Path,
    preferences: Sequence[Preference],
    settings: MpoSettings,
    template_kwargs: Mapping[str, Any] = NO_VARIABLES,
    section: str = "mpo",
    logs: Path | None = None,
) -> dict[str, float]:
    """Align a model and save model and tokenizer to a folder, which appears whole or not at all.

    The result is always a whole model, as of `run_sft`.

    Args:
        base: model folder, or a model id of the Hub.
        output: folder to write; an existing one is replaced.
        preferences: rows of `prompt`, `chosen`, `rejected` (messages), `reward_chosen` and `reward_rejected`.
        settings: see `MpoSettings`.
        template_kwargs: variables of the chat template, the same as in sampling.
        section: of the settings, for messages.
        logs: folder for what trackers keep; None: one beside the output.

    Returns:
        Final metrics: `loss` (mean over the last tenth of the steps) and `train_loss`, `accuracy` (share of pairs whose
        chosen answer is the more probable one, over the last tenth), `steps`, `rows`, `truncated` (pairs with an answer
        cut at `max_length`), `skipped` (pairs without room for an answer), `seconds`.

    Raises:
        UserError: as `run_sft`, and for a reward that is not finite.
    """
    start = start_from(section, base, settings, logs or logs_beside(output), template_kwargs)
    rows, truncated = tokenized(start, preferences, section)

    def attempt(folder: Path, device_batch: int, accumulation: int) -> Metrics:
        metrics = _train(start, rows, section, settings, folder, device_batch, accumulation)
        whole_model(start, settings, folder)
        return metrics

    metrics = in_own_folder(section, settings, output, attempt)
    return metrics | {"rows": len(rows), "truncated": truncated, "skipped": len(preferences) - len(rows)}


def tokenized(start: Start, preferences: Sequence[Preference], section: str) -> tuple[list[dict[str, Any]], int]:
    """Tokenize preferences with the model's chat template, as in sampling.

    Returns:
        Rows of `chosen_ids`, `rejected_ids` (with the prompt), `prompt_length`, `margin` (r_w − r_l) and `length`, and
        the number of rows with an answer that was cut.

    Raises:
        UserError: there is none, or none whose prompt leaves room for an answer.
    """
    if not preferences:
        raise UserError(f"{section}: no preference to train on; `build --stage prefer` makes some")
    prompts = [row["prompt"] for row in preferences]
    answers = [
        tokenize(start.tokenizer, prompts, [row[name] for row in preferences], start.template_kwargs)
        for name in ("chosen", "rejected")
    ]
    rows: list[dict[str, Any]] = []
    truncated = 0
    for row, prompt, chosen, rejected in zip(preferences, answers[0][0], answers[0][1], answers[1][1], strict=True):
        if len(prompt) >= start.window:
            continue
        longest = len(prompt) + max(len(chosen), len(rejected))
        truncated += longest > start.window
        rows.append(
            {
                "chosen_ids": (prompt + chosen)[: start.window],
                "rejected_ids": (prompt + rejected)[: start.window],
                "prompt_length": len(prompt),
                "margin": float(row["reward_chosen"] - row["reward_rejected"]),
                "length": min(longest, start.window),
            }
        )
    if not rows:
        raise UserError(
            f"{section}: all {len(preferences)} prompts have {start.window} tokens or more, which leaves no room for "
            f"an answer; raise {section}.max_length or shorten the texts"
        )
    return rows, truncated


def _train(
    start: Start,
    rows: list[dict[str, Any]],
    section: str,
    settings: MpoSettings,
    folder: Path,
    device_batch: int,
    accumulation: int,
) -> Metrics:
    """Train, and save the model into a folder or its adapter below; all processes call this function."""
    from datasets import Dataset
    from trl import SFTConfig

    from training.mpo.trainer import MPOTrainer, PairCollator
    from training.sft.trainer import StepWatch
    from training.tuning_model import adapter_config, load_model, widen_adapter

    own = {"dataset_kwargs": {"skip_prepare_dataset": True}}
    arguments = arguments_of(SFTConfig, section, settings, start, folder, device_batch, accumulation, **own)
    with reporting(settings.report_to, start.logs):
        trainer: Any = MPOTrainer(
            settings,
            model=load_model(start.base, settings, start.attention, arguments),
            args=arguments,
            data_collator=PairCollator(start.tokenizer.pad_token_id or 0),
            train_dataset=Dataset.from_list(rows),
            processing_class=start.tokenizer,
            peft_config=adapter_config(settings),
            callbacks=[StepWatch(section)],
        )
        if settings.method == "qlora":
            widen_adapter(trainer.model)
        return trained(trainer, settings, folder) | {"accuracy": lately(trainer, "accuracy")}
