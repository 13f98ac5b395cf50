"""Build the trainer of one round from the settings, and save the trained policy as a folder.

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
from peft import PeftConfig  # noqa: TID253
from tqdm import tqdm
from transformers import PrinterCallback, TrainerCallback  # noqa: TID253
from transformers.utils import logging  # noqa: TID253

from builders.core.console import progress_bar
from builders.settings.kto import TrainSettings
from builders.store.files import ADAPTER_CONFIG, link
from builders.store.manifest import TRAINING_STATE
from scorers.errors import UserError
from training.adapters import new_adapter, nf4
from training.attention import trainable_attention
from training.chat import forget_how_loaded
from training.kto.checkpoints import PREFIX, mark_complete, prune
from training.kto.partitioned import gathered_states, load_partitioned
from training.kto.state import load_optimizer, load_random, states_of, write_random, write_state
from training.kto.trainer import GraceKTOConfig, GraceKTOTrainer
from training.memory import deepspeed_file
from training.precision import deepspeed_arguments, precision_arguments
from training.processes import process_count, share_batch
from training.reporting import report_arguments

# Files of `save_model` that a policy's folder goes without: a pickle of the arguments, and PEFT's empty card.
LEFT_OUT = ("training_args.bin", "README.md")


@dataclass(frozen=True)
class RoundPlan:
    """The place of one round in its run.

    Attributes:
        run_dir: folder of the round's checkpoints.
        first_step: optimizer steps done before this round.
        steps: optimizer steps of this round.
        schedule_steps: optimizer steps of all rounds, over which the learning-rate schedule runs.
        fingerprint: hash of everything that decides this round's result.
        run: the settings that must not change from round to round.
        state: the training state to go on from; None for a new optimizer.
        logs_dir: folder for what trackers keep; None: one below `run_dir`.
    """

    run_dir: Path
    first_step: int
    steps: int
    schedule_steps: int
    fingerprint: str
    run: Mapping[str, Any]
    state: Path | None = None
    logs_dir: Path | None = None

    @property
    def logs(self) -> Path:
        """The folder for what trackers keep."""
        return self.logs_dir or self.run_dir / "logs"


@dataclass(frozen=True)
class RoundModels:
    """The models of a round, as folders or ids.

    Attributes:
        policy: a whole model, or the folder of a LoRA adapter.
        base: the model under the adapter; None: the one that the adapter's configuration names.
        reference: a model to compute the reference log-probabilities with; None: as the settings say.
    """

    policy: str
    base: str | None = None
    reference: str | None = None


class RoundTrainer(GraceKTOTrainer):
    """A trainer whose checkpoints are marked as whole once every process has written its part.

    The last one holds the state that the next round goes on from.
    """

    plan: RoundPlan

    @property
    def last_checkpoint(self) -> Path:
        """The folder of the checkpoint that the round ends with."""
        return self.plan.run_dir / f"{PREFIX}{self.plan.steps}"

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        ended = self.state.global_step == self.plan.steps
        # No step goes on from the last checkpoint, so it needs none of these pickles; DeepSpeed cannot do without.
        if not ended or self.is_deepspeed_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
        if ended:
            self._save_state(Path(output_dir, TRAINING_STATE))

    def _save_state(self, folder: Path) -> None:
        """Write what the policy will carry."""
        together = gathered_states if self.is_deepspeed_enabled else states_of
        states = together(self.model, self.optimizer)
        if states is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        write_random(folder, self.args.process_index)
        if self.args.should_save:
            write_state(folder, self.plan.first_step + self.plan.steps, self.plan.run, states)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        # The marker must come last: under DeepSpeed every process writes a part of the checkpoint.
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            folder = self.plan.run_dir / f"{PREFIX}{self.state.global_step}"
            mark_complete(folder, self.plan.fingerprint)
            prune(self.plan.run_dir)


class GoOn(TrainerCallback):  # type: ignore[misc]
    """Begin a round with the optimizer's and the random state in which the round before ended."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **kwargs: Any
    ) -> None:
        """Load both, unless training resumes from a checkpoint of this round, which has its own."""
        if state.global_step == 0:
            load = load_partitioned if args.deepspeed is not None else load_optimizer
            load(self.folder, model, optimizer)
            load_random(self.folder, args.process_index)


class StepBar(TrainerCallback):  # type: ignore[misc]
    """One progress bar over the round's optimizer steps, on stderr; no bar where stderr is not a terminal."""

    def __init__(self, plan: RoundPlan) -> None:
        self.plan = plan
        self.bar: tqdm[Any] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar at the step that training starts from."""
        if state.is_world_process_zero:
            self.bar = progress_bar("train", "step", self.plan.steps, done=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Advance the bar by one step and show that step's loss."""
        # Every step logs once (`logging_steps=1`); the summary at the end of training has no "loss".
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
    """Build the trainer of one round, with its reference log-probabilities computed, ready for `train()`.

    Args:
        models: the policy, and optionally its base model and the reference.
        rows: a dataset from `training.kto.tokens`.
        settings: how to train.
        plan: the round's place in its run.
        callbacks: further transformers callbacks.

    Raises:
        UserError: the batch sizes, the adapter, the rows or the models do not fit together.
    """
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
        logging.disable_progress_bar()
    precision = precision_arguments(settings.precision)
    adapter = models.policy if (Path(models.policy) / ADAPTER_CONFIG).is_file() else None
    peft_config = None if settings.method == "full" else _lora(settings, adapter)
    # With an adapter the trainer is given the base model and a new adapter of the same shape; `initial_adapter` fills
    # in its weights before the reference is computed.
    base = models.policy
    if adapter is not None and peft_config is not None:
        base = models.base or peft_config.base_model_name_or_path
        # A published adapter names its base by id, a copy of which is loaded here; PEFT would warn of the other name.
        peft_config.base_model_name_or_path = base
    arguments = _arguments(settings, plan, precision, trainable_attention(base, settings.attention))
    arguments.initial_adapter = adapter
    arguments.reference_model = models.reference
    trainer = RoundTrainer(
        base,
        arguments,
        rows,
        peft_config=peft_config,
        quantization_config=nf4(torch.bfloat16 if precision["bf16"] else torch.float32)
        if settings.method == "qlora"
        else None,
        callbacks=[StepBar(plan), *([] if plan.state is None else [GoOn(plan.state)]), *callbacks],
    )
    # It prints the logs to stdout, whose last line belongs to --json.
    trainer.remove_callback(PrinterCallback)
    trainer.plan = plan
    return trainer


def _arguments(
    settings: TrainSettings, plan: RoundPlan, precision: Mapping[str, bool], attention: str
) -> GraceKTOConfig:
    _, accumulation = share_batch("train", settings.batch_size, settings.device_batch_size, process_count())
    positive, negative = (None, None) if settings.lambdas == "balanced" else settings.lambdas
    # float32 where every weight is trained: bfloat16 would round away updates as small as the learning rate.
    dtype = "bfloat16" if precision["bf16"] and settings.method != "full" else "float32"
    return GraceKTOConfig(
        output_dir=str(plan.run_dir),
        max_steps=plan.steps,
        schedule_steps=plan.schedule_steps,
        schedule_start=plan.first_step,
        learning_rate=settings.learning_rate,
        learning_rate_end=settings.learning_rate_end,
        # Below 1 transformers reads the number as a share of the steps.
        warmup_steps=settings.warmup_ratio,
        per_device_train_batch_size=settings.device_batch_size,
        gradient_accumulation_steps=accumulation,
        beta=settings.beta,
        mu=settings.mu,
        kl=settings.kl,
        reference=settings.reference,
        reference_cache=str(plan.run_dir / "reference.npz"),
        reference_key=plan.fingerprint,
        sampler_reference=settings.reference_logps == "sampler",
        lambda_positive=positive,
        lambda_negative=negative,
        max_length=settings.max_length,
        gradient_checkpointing=settings.gradient_checkpointing,
        # TRL switches off the adapter's dropout too, so only where none is asked for; the model's own is always off.
        disable_dropout=settings.lora_dropout == 0,
        **deepspeed_arguments(deepspeed_file("train", settings.deepspeed), precision, settings.method != "full"),
        optim=settings.optimizer,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        ddp_find_unused_parameters=False,
        seed=settings.seed,
        model_init_kwargs={"dtype": dtype, "attn_implementation": attention},
        save_strategy="steps",
        # The last step is always saved; a period as long as the schedule adds no other checkpoint.
        save_steps=settings.save_steps or plan.schedule_steps,
        logging_steps=1,
        disable_tqdm=True,
        **report_arguments(settings.report_to, plan.logs),
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def _lora(settings: TrainSettings, adapter: str | None) -> PeftConfig:
    if adapter is not None:
        config = PeftConfig.from_pretrained(adapter)
        if config.r != settings.lora_rank:
            raise UserError(
                f"the adapter {adapter} has rank {config.r}, the settings say lora_rank {settings.lora_rank}; "
                f"set lora_rank to {config.r}"
            )
        # An adapter is saved for inference, in which mode PEFT freezes its weights.
        config.inference_mode = False
        return config
    return new_adapter(settings.lora_rank, settings.lora_alpha, settings.lora_targets, settings.lora_dropout)


def save_policy(trainer: RoundTrainer, output_dir: Path, files: Mapping[str, str]) -> None:
    """Save the trained model or adapter, its tokenizer, its training state and some text files, by one rename.

    Args:
        trainer: the trainer after `train()`; all processes call this function.
        output_dir: the folder to make; it must not exist.
        files: text by file name, written beside the weights.

    Raises:
        UserError: a trained weight is not finite; nothing is written then.
    """
    trainer.require_finite_weights()
    part = output_dir.with_name(f".{output_dir.name}.part")
    if trainer.args.should_save:
        shutil.rmtree(part, ignore_errors=True)
        output_dir.parent.mkdir(parents=True, exist_ok=True)
    # No process may write before the remains of an earlier attempt are gone.
    trainer.accelerator.wait_for_everyone()
    forget_how_loaded(trainer.processing_class)
    trainer.save_model(str(part))
    # Nor may the folder be renamed before every process has written.
    trainer.accelerator.wait_for_everyone()
    if trainer.args.should_save:
        for name in LEFT_OUT:
            (part / name).unlink(missing_ok=True)
        for name, text in files.items():
            (part / name).write_text(text, encoding="utf-8")
        if (state := trainer.last_checkpoint / TRAINING_STATE).is_dir():
            shutil.copytree(state, part / TRAINING_STATE, copy_function=lambda a, b: link(Path(a), Path(b)))
        os.replace(part, output_dir)
    trainer.accelerator.wait_for_everyone()
