"""From settings to a trainer for one round, and from a trained model to its folder.

This module imports torch and TRL, so import it inside functions.
"""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets  # noqa: TID253
import torch  # noqa: TID253
from peft import LoraConfig, PeftConfig  # noqa: TID253
from tqdm import tqdm
from transformers import BitsAndBytesConfig, PrinterCallback, TrainerCallback  # noqa: TID253
from transformers.utils import logging  # noqa: TID253

from builders.core.console import progress_bar
from builders.settings.kto import TrainSettings
from builders.store.files import ADAPTER_CONFIG
from scorers.errors import UserError
from training.kto.checkpoints import mark_complete, prune
from training.kto.trainer import GraceKTOConfig, GraceKTOTrainer

LEFT_OUT = ("training_args.bin", "README.md")  # a pickle of the arguments, and PEFT's empty card


@dataclass(frozen=True)
class RoundPlan:
    """Where a round stands in its run: folder of checkpoints, optimizer steps before and after, of all rounds."""

    run_dir: Path
    first_step: int
    last_step: int
    schedule_steps: int
    fingerprint: str
    run: Mapping[str, Any]


@dataclass(frozen=True)
class RoundModels:
    """The models of a round, as folders or ids.

    policy: model, or adapter folder; base: the model under the adapter, None: the one its configuration names;
    reference: where reference log-probabilities come from, None: as the settings say.
    """

    policy: str
    base: str | None = None
    reference: str | None = None


class RoundTrainer(GraceKTOTrainer):
    """A trainer whose checkpoints are marked whole once every process has written its part."""

    plan: RoundPlan

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            folder = self.plan.run_dir / f"checkpoint-{self.state.global_step}"
            mark_complete(folder, self.plan.fingerprint, self.plan.run)
            prune(self.plan.run_dir, self.plan.first_step)


class StepBar(TrainerCallback):  # type: ignore[misc]
    """One progress bar over the round's steps on stderr; nothing where stderr is no terminal."""

    def __init__(self, plan: RoundPlan) -> None:
        self.plan = plan
        self.bar: tqdm[Any] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar at the step training starts from."""
        if state.is_world_process_zero:
            done, steps = state.global_step - self.plan.first_step, self.plan.last_step - self.plan.first_step
            self.bar = progress_bar("train", "step", steps, done=done)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """One step further."""
        if self.bar is not None and "loss" in logs:
            self.bar.set_postfix(loss=f"{logs['loss']:.4f}", refresh=False)
            self.bar.update()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()


def build_trainer(
    models: RoundModels,
    rows: datasets.Dataset,
    settings: TrainSettings,
    plan: RoundPlan,
    callbacks: Sequence[TrainerCallback],
) -> RoundTrainer:
    """The trainer of one round, its reference log-probabilities computed, ready for `train()`.

    Args:
        models: policy, and where given its base model and the reference.
        rows: a dataset of `load_weights_dataset`.
        settings: how to train.
        plan: the round's place in its run.
        callbacks: further callbacks.
    """
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
        logging.disable_progress_bar()
    bf16 = _bf16(settings)
    adapter = models.policy if (Path(models.policy) / ADAPTER_CONFIG).is_file() else None
    arguments = _arguments(settings, plan, bf16)
    arguments.initial_adapter = adapter
    arguments.reference_model = models.reference
    peft_config = None if settings.method == "full" else _lora(settings, adapter)
    base = models.policy
    if adapter is not None and peft_config is not None:
        base = models.base or peft_config.base_model_name_or_path
    trainer = RoundTrainer(
        base,
        arguments,
        rows,
        peft_config=peft_config,
        quantization_config=_nf4(bf16) if settings.method == "qlora" else None,
        callbacks=[StepBar(plan), *callbacks],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.plan = plan
    return trainer


def _arguments(settings: TrainSettings, plan: RoundPlan, bf16: bool) -> GraceKTOConfig:
    world = int(os.environ.get("WORLD_SIZE", "1"))
    per_pass = settings.device_batch_size * world
    if settings.batch_size % per_pass:
        raise UserError(
            f"batch_size {settings.batch_size} is not a multiple of device_batch_size {settings.device_batch_size} "
            f"times {world} processes; change one of them"
        )
    positive, negative = (None, None) if settings.lambdas == "balanced" else settings.lambdas
    dtype = "bfloat16" if bf16 and settings.method != "full" else "float32"
    return GraceKTOConfig(
        output_dir=str(plan.run_dir),
        max_steps=plan.last_step,
        schedule_steps=plan.schedule_steps,
        learning_rate=settings.learning_rate,
        learning_rate_end=settings.learning_rate_end,
        warmup_steps=settings.warmup_ratio,
        per_device_train_batch_size=settings.device_batch_size,
        gradient_accumulation_steps=settings.batch_size // per_pass,
        beta=settings.beta,
        mu=settings.mu,
        kl=settings.kl,
        reference=settings.reference,
        reference_cache=str(plan.run_dir / "reference.npz"),
        reference_key=plan.fingerprint,
        lambda_positive=positive,
        lambda_negative=negative,
        max_length=settings.max_length,
        gradient_checkpointing=settings.gradient_checkpointing,
        disable_dropout=settings.lora_dropout == 0,
        bf16=bf16,
        optim=settings.optimizer,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        deepspeed=str(Path(__file__).with_name("zero2.json")) if settings.deepspeed == "zero2" else settings.deepspeed,
        ddp_find_unused_parameters=False,
        seed=settings.seed,
        model_init_kwargs={"dtype": dtype, "attn_implementation": settings.attention},
        save_strategy="steps",
        save_steps=settings.save_steps or plan.schedule_steps,
        logging_steps=1,
        disable_tqdm=True,
        report_to="none",
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def _bf16(settings: TrainSettings) -> bool:
    if settings.precision == "auto":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return settings.precision == "bf16"


def _nf4(bf16: bool) -> BitsAndBytesConfig:
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if bf16 else torch.float32,
    )


def _lora(settings: TrainSettings, adapter: str | None) -> PeftConfig:
    if adapter is not None:
        config = PeftConfig.from_pretrained(adapter)
        if config.r != settings.lora_rank:
            raise UserError(
                f"the adapter {adapter} has rank {config.r}, the settings say lora_rank {settings.lora_rank}; "
                f"set lora_rank to {config.r}"
            )
        config.inference_mode = False
        return config
    targets = settings.lora_targets
    return LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="CAUSAL_LM",
    )


def save_policy(trainer: GraceKTOTrainer, output_dir: Path, files: Mapping[str, str]) -> None:
    """Save the trained model or adapter with its tokenizer and these text files, by one rename.

    Raises:
        UserError: a trained weight is not finite; nothing is written then.
    """
    trainer.require_finite_weights()
    part = output_dir.with_name(f".{output_dir.name}.part")
    if trainer.args.should_save:
        shutil.rmtree(part, ignore_errors=True)
        output_dir.parent.mkdir(parents=True, exist_ok=True)
    trainer.accelerator.wait_for_everyone()
    trainer.save_model(str(part))
    trainer.accelerator.wait_for_everyone()
    if trainer.args.should_save:
        for name in LEFT_OUT:
            (part / name).unlink(missing_ok=True)
        for name, text in files.items():
            (part / name).write_text(text, encoding="utf-8")
        os.replace(part, output_dir)
    trainer.accelerator.wait_for_everyone()
