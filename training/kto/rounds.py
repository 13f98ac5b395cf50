"""One round of training: a policy and a weights dataset in, the next policy out.

All rounds share one learning-rate schedule and one optimizer: with S steps per round, round r trains from step (r−1)·S
to r·S of rounds·S and goes on from the state that the policy of round r−1 carries (`training.kto.state`). A round that
was killed resumes at its newest whole checkpoint and ends with the same weights, bit for bit on a CPU.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from builders.settings.base import identity
from builders.settings.kto import TrainSettings
from builders.store.files import ADAPTER_CONFIG, file_sha256
from builders.store.manifest import (
    FILE_NAME,
    TRAINING_LOG,
    TRAINING_STATE,
    content_digest,
    describe_files,
    fingerprint_of,
)
from builders.store.training_log import earlier_rows, log_rows, log_text
from scorers.errors import UserError
from scorers.gpu_memory import BatchSize
from training.kto.checkpoints import resume_point
from training.kto.data import count_rows, one_sided, values_of
from training.kto.state import read_state, require_same_run, state_digest
from training.memory import require_deepspeed, require_memory
from training.processes import process_count
from training.reporting import reporting

if TYPE_CHECKING:
    from training.kto.assembly import RoundPlan

# The round's results and the fingerprint of its inputs, beside the trained weights.
RECORD = "training.json"

log = logging.getLogger(__name__)


def train_round(
    *,
    policy: Path | str,
    output_dir: Path,
    run_dir: Path,
    dataset: pl.DataFrame | Sequence[Path],
    dataset_digest: str | None = None,
    tokens_dir: Path | None = None,
    logs_dir: Path | None = None,
    settings: TrainSettings,
    template_kwargs: Mapping[str, Any] | None = None,
    round: int = 1,
    total_rounds: int = 1,
    steps_per_round: int | None = None,
    reference_model: Path | str | None = None,
    base_model: Path | str | None = None,
    callbacks: Sequence[Any] = (),
) -> dict[str, Any]:
    """Train one pass over a weights dataset and save the policy.

    Args:
        policy: the policy at the round's start: a model (folder or id), or the adapter folder of the round before. From
            round 2 on training goes on with the optimizer's state that it carries, or else with a new optimizer.
        output_dir: where the trained policy goes (model or adapter, tokenizer, `training.json`, the log of this round
            and of those before it, the folder `training_state`), by one rename.
        run_dir: checkpoints of this round, of no use once output_dir is there.
        dataset: the rows, or their Parquet files.
        dataset_digest: what identifies the rows, such as their revision's content digest; None: their bytes are hashed.
        tokens_dir: where the rows are kept as token ids, for all processes and later trainings; None: run_dir.
        logs_dir: where TensorBoard and W&B keep their files, of `settings.report_to`; None: below run_dir.
        settings: how to train.
        template_kwargs: variables of the chat template, the same as in sampling.
        round: this round, from 1.
        total_rounds: rounds that the learning-rate schedule spans.
        steps_per_round: optimizer steps of every round; None: one pass over this dataset.
        reference_model: a model to take the reference log-probabilities from; None: as `settings.reference` says.
        base_model: the model under an adapter `policy`; None: the one that its configuration names.
        callbacks: transformers trainer callbacks.

    Returns:
        The content of `training.json`: round, first and last step, rows, whether a later round than the first began
        with a new optimizer, lambdas, means over the round's steps of loss, kl, cross_entropy and rewards, the last
        learning rate, and warnings. For a round that is already done with the same inputs, its record.

    Raises:
        UserError: the dataset, the settings, the training state or the model do not fit; a value is not finite.
    """
    # Everything up to the memory plan checks without torch, so that a mistake ends before a model is loaded.
    height = count_rows(dataset)
    steps = steps_per_round or -(-height // settings.batch_size)  # rounded up: the last batch may be shorter
    _require_round(settings, height, steps, round, total_rounds, policy, reference_model)
    run = {**identity(settings), "total_rounds": total_rounds, "steps_per_round": steps}
    first = (round - 1) * steps
    state = None if round == 1 else read_state(Path(policy))
    if state is not None:
        require_same_run(state, first, run, policy)
    # Everything that a round's checkpoints, reference log-probabilities and result depend on.
    fingerprint = fingerprint_of(
        {
            "settings": identity(settings),
            "template": dict(template_kwargs or {}),
            "policy": _model_identity(policy),
            "state": None if state is None else state_digest(Path(policy)),
            "reference": None if reference_model is None else _model_identity(reference_model),
            "place": (round, total_rounds, steps),
            "rows": dataset_digest or _rows_identity(dataset),
        }
    )
    if output_dir.exists():
        return _finished(output_dir, fingerprint)
    if round > 1 and state is None:
        log.warning(
            "%s carries no optimizer state: round %d begins with a new optimizer, at step %d of %d",
            policy, round, first, total_rounds * steps,
        )  # fmt: skip
    require_deepspeed("train", settings.deepspeed)
    require_memory("train", settings, base_model or policy, reference_model)

    from training.kto.assembly import RoundModels, RoundPlan, build_trainer, save_policy
    from training.kto.tokens import tokenized

    rows = tokenized(
        dataset,
        # As in sampling, the tokenizer of the model under an adapter.
        str(base_model or policy),
        tokens_dir or run_dir,
        digest=dataset_digest,
        template_kwargs=template_kwargs,
    )
    folder = None if state is None else Path(policy) / TRAINING_STATE
    # Read before the training, so that a damaged one is told at once.
    earlier = earlier_rows(Path(policy) / TRAINING_LOG, round, first)
    plan = RoundPlan(run_dir, first, steps, total_rounds * steps, fingerprint, run, folder, logs_dir)
    models = RoundModels(str(policy), _name(base_model), _name(reference_model))
    trainer = _trained(lambda fitting: build_trainer(models, rows, fitting, plan, callbacks), settings, plan)
    record = {
        "round": round,
        "first_step": first,
        "last_step": first + steps,
        "rows": height,
        "new_optimizer": round > 1 and state is None,
        "lambda_positive": trainer.desirable_weight,
        "lambda_negative": trainer.undesirable_weight,
        **_means(trainer.state.log_history),
        "warnings": one_sided(values_of(rows, "label")),
        "settings": settings.model_dump(mode="json", exclude={"report_to"}),
        "fingerprint": fingerprint,
    }
    rows_of_log = earlier + log_rows(trainer.state.log_history, round=round, first_step=first)
    save_policy(trainer, output_dir, {RECORD: json.dumps(record, indent=2) + "\n", TRAINING_LOG: log_text(rows_of_log)})
    return record


def _trained(build: Callable[[TrainSettings], Any], settings: TrainSettings, plan: "RoundPlan") -> Any:
    """Train from the newest checkpoint on, or from the start, and return the trainer.

    Args:
        build: builds the trainer; called once more, with smaller device batches, where a GPU's memory runs out.
        settings: how to train.
        plan: the round's place in the schedule.
    """

    def attempt(device_rows: int) -> Any:
        with reporting(settings.report_to, plan.logs):
            trainer = build(settings.model_copy(update={"device_batch_size": device_rows}))
            # The launcher sets RANK; of several processes the first one removes useless checkpoints.
            resume = resume_point(plan.run_dir, plan.fingerprint, remove=os.environ.get("RANK", "0") == "0")
            trainer.train(resume_from_checkpoint=None if resume is None else str(resume.path))
            return trainer

    return BatchSize(
        settings.device_batch_size, "train.device_batch_size", divides=settings.batch_size, alone=process_count() == 1
    ).fitting(attempt)


def _require_round(
    settings: TrainSettings,
    rows: int,
    steps: int,
    round: int,
    total_rounds: int,
    policy: Path | str,
    reference_model: Path | str | None,
) -> None:
    """Check that the round lies in the schedule and that dataset, policy and reference fit the settings."""
    if not 1 <= round <= total_rounds:
        raise UserError(f"round {round} is outside 1 to {total_rounds}, the rounds of the schedule")
    needed = -(-rows // settings.batch_size)
    if needed != steps:
        raise UserError(
            f"the dataset has {rows} rows, {needed} steps of {settings.batch_size}, but the schedule has {steps} steps "
            "a round; give every round the same number of rows"
        )
    adapter = (Path(policy) / ADAPTER_CONFIG).is_file()
    if adapter and settings.method == "full":
        raise UserError(f"{policy} is an adapter, which method=full cannot train; merge it first or use method=lora")
    # An adapter can be switched off to get the initial model back; fully trained weights cannot.
    if settings.method == "full" and settings.reference == "initial" and round > 1 and reference_model is None:
        raise UserError(
            f"reference=initial in round {round} of full fine-tuning needs the model training began with; "
            "name it, or use reference=round"
        )


def _name(model: Path | str | None) -> str | None:
    return None if model is None else str(model)


def _model_identity(model: Path | str) -> str:
    """The digest of a model folder's weights and configuration, or the name of a model on the Hub."""
    folder = Path(model)
    if not folder.is_dir():
        return str(model)
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("*.json")])
    # Record and manifest only describe the weights: the same weights made elsewhere are the same model.
    return content_digest(describe_files(folder, [file for file in files if file.name not in (RECORD, FILE_NAME)]))


def _rows_identity(dataset: pl.DataFrame | Sequence[Path]) -> list[str]:
    """The SHA-256 of every file, or of the frame in Arrow's IPC format."""
    if isinstance(dataset, pl.DataFrame):
        return [hashlib.sha256(dataset.write_ipc(None).getvalue()).hexdigest()]
    return [file_sha256(path) for path in dataset]


def _finished(output_dir: Path, fingerprint: str) -> dict[str, Any]:
    """The record of a round that is already done with the same inputs.

    Raises:
        UserError: the folder holds something else.
    """
    record = output_dir / RECORD
    if record.is_file():
        stored: dict[str, Any] = json.loads(record.read_text("utf-8"))
        if stored.get("fingerprint") == fingerprint:
            return stored
    raise UserError(f"{output_dir} exists and is not this round's result; remove it or give another folder")


def _means(history: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Average what each step of the round logged.

    Args:
        history: log entries of the round, also of those steps that a checkpoint resumed after.

    Returns:
        Means by name, absent for what no step logged; learning_rate is that of the last step.
    """
    steps = [entry for entry in history if "loss" in entry]
    names = ("loss", "kl", "cross_entropy", "grad_norm", "rewards/chosen", "rewards/rejected")
    means = {}
    for name in names:
        values = [float(entry[name]) for entry in steps if name in entry]
        if values:
            means[name] = sum(values) / len(values)
    if steps:
        means["learning_rate"] = float(steps[-1]["learning_rate"])
    return means
