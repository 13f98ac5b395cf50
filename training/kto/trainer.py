"""`GraceKTOTrainer`: TRL's `KTOTrainer` with row weights, class weights, the cross-entropy term and three KL modes.

What differs from TRL 1.16, and why:

- The loss is `training.kto.loss.grace_kto_loss` plus μ times the mean token cross-entropy of the positive completions,
  from one forward pass. Both means run over the whole optimizer batch (all devices and accumulation steps), so the
  split into device batches changes nothing but rounding.
- TRL pairs completions for z_ref inside a device batch, where rows of one query are siblings. Here rows are ordered
  and paired over the dataset (`training.kto.data`). TRL's own pairing is off, as it is for its loss type without KL.
- Reference log-probabilities are computed once, before the first step.
- No row is cut silently, and a log-probability that is not finite ends the run with the row's name.

This module imports torch and TRL, so import it inside functions.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch  # noqa: TID253
from datasets import Dataset, concatenate_datasets  # noqa: TID253
from peft import PeftModel, set_peft_model_state_dict  # noqa: TID253
from safetensors.torch import load_file
from torch.utils.data import DataLoader  # noqa: TID253
from transformers import AutoConfig, AutoTokenizer, Trainer  # noqa: TID253
from trl import KTOTrainer  # noqa: TID253
from trl.models.utils import disable_gradient_checkpointing  # noqa: TID253
from trl.trainer.utils import add_fused_lm_head, create_model_from_path  # noqa: TID253

from scorers.errors import UserError
from training.kto.config import GraceKTOConfig as GraceKTOConfig
from training.kto.config import WeightedCollator
from training.kto.data import mismatched_partner, order_rows
from training.kto.loss import grace_kto_loss, kl_estimate, lambdas
from training.kto.reference_cache import read_reference, write_reference
from training.kto.schedule import learning_rate_factor

if TYPE_CHECKING:
    from numpy.typing import NDArray

ADAPTER_WEIGHTS = "adapter_model.safetensors"


@dataclass
class OptimizerBatch:
    """What is normalised over one optimizer batch: its rows, its positives' tokens, and z_ref once known."""

    samples: list[dict[str, Any]]
    rows: float
    positive_tokens: float
    z_ref: torch.Tensor | None = None


class GraceKTOTrainer(KTOTrainer):  # type: ignore[misc]
    """Trains on a dataset of `training.kto.data.load_weights_dataset`.

    Args:
        model: folder or id of the policy (with an adapter: of its base model).
        args: the settings.
        train_dataset: columns prompt, completion, label, weight, query_id, response_id.
        **kwargs: `peft_config`, `quantization_config`, `callbacks`, `processing_class` as in TRL.

    Raises:
        UserError: a row is longer than the window; a log-probability is not finite; all rows are of one query
            although kl=mismatched.
    """

    loss_is_scaled_for_ga = True  # the loss is divided by the rows of the whole optimizer batch

    def __init__(self, model: str, args: GraceKTOConfig, train_dataset: Dataset, **kwargs: Any) -> None:
        tokenizer = kwargs.pop("processing_class", None) or AutoTokenizer.from_pretrained(model)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        self._window = args.max_length or _window(model)
        self._quantization_config = kwargs.get("quantization_config")
        self._response_ids: list[str] = []
        self._batch: OptimizerBatch | None = None
        # Rows are checked against the window, so the collator's cut can only reach borrowed completions.
        collator = WeightedCollator(
            tokenizer.pad_token_id, max_length=self._window, pad_to_multiple_of=args.pad_to_multiple_of
        )
        args.max_length = None
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            processing_class=tokenizer,
            data_collator=collator,
            **kwargs,
        )

    def _send_telemetry(self) -> None:
        """Nothing is sent."""

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns: list[str] | None
        super()._set_signature_columns_if_needed()
        self._signature_columns = list(dict.fromkeys([*(self._signature_columns or []), "weight", "row"]))

    # ---- the dataset -------------------------------------------------------------------------------------------

    def _prepare_dataset(self, dataset: Dataset, processing_class: Any, args: GraceKTOConfig, name: str) -> Dataset:
        batch_size = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        dataset = dataset.select(order_rows(dataset["query_id"][:], batch_size, args.seed))
        self._response_ids = dataset["response_id"][:]
        labels = np.asarray(dataset["label"][:], dtype=bool)
        positive, negative = lambdas(int(labels.sum()), int((~labels).sum()))
        self.desirable_weight = positive if args.lambda_positive is None else args.lambda_positive
        self.undesirable_weight = negative if args.lambda_negative is None else args.lambda_negative
        query_ids = dataset["query_id"][:]
        dataset = super()._prepare_dataset(dataset, processing_class, args, name)
        self._require_window(dataset)
        columns = [dataset, Dataset.from_dict({"row": np.arange(len(dataset))})]
        if args.kl == "mismatched":
            borrowed = dataset.select_columns(["completion_ids"]).select(mismatched_partner(query_ids, batch_size))
            columns.append(borrowed.rename_column("completion_ids", "KL_completion_ids"))
        return concatenate_datasets(columns, axis=1)

    def _require_window(self, dataset: Dataset) -> None:
        if self._window is None:
            return
        lengths = [len(p) + len(c) for p, c in zip(dataset["prompt_ids"], dataset["completion_ids"], strict=True)]
        over = [i for i, length in enumerate(lengths) if length > self._window]
        if over:
            raise UserError(
                f"{self._response_ids[over[0]]} has {lengths[over[0]]} tokens with its prompt, the limit is "
                f"{self._window} ({len(over)} rows are longer); sample shorter responses or use a longer window"
            )

    # ---- the reference -----------------------------------------------------------------------------------------

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        if self.args.initial_adapter is not None:
            self._load_adapter(self.args.initial_adapter)
        cache = None if self.args.reference_cache is None else Path(self.args.reference_cache)
        columns = read_reference(cache, self.args.reference_key, self._response_ids)
        if columns is None:
            columns = self._compute_reference(dataset, batch_size)
            for column, values in columns.items():
                self._require_finite(torch.from_numpy(values), range(len(values)), f"reference {column}")
            if self.accelerator.is_main_process:
                write_reference(cache, self.args.reference_key, self._response_ids, columns)
        return concatenate_datasets([dataset, Dataset.from_dict(columns)], axis=1)

    def _compute_reference(self, dataset: Dataset, batch_size: int) -> "dict[str, NDArray[np.float32]]":
        """Log-probabilities under the reference: ref_logps and, with kl=mismatched, ref_KL_logps, (N,) float32."""
        loader = self.accelerator.prepare(
            DataLoader(dataset, batch_size=batch_size, collate_fn=self.data_collator, shuffle=False)
        )
        parts: dict[str, list[torch.Tensor]] = {"": [], "KL_": []} if self.args.kl == "mismatched" else {"": []}
        with self._reference() as model, torch.no_grad(), self.accelerator.autocast():
            for batch in loader:
                for prefix, collected in parts.items():
                    logps = _token_logps(model, batch, prefix).sum(-1)
                    collected.append(self.accelerator.gather_for_metrics(logps).float().cpu())
        return {f"ref_{prefix}logps": torch.cat(collected).numpy() for prefix, collected in parts.items()}

    @contextlib.contextmanager
    def _reference(self) -> Iterator[Any]:
        """The reference model in evaluation mode; one loaded for this is freed afterwards."""
        with contextlib.ExitStack() as stack:
            if self.args.reference_model is not None:
                model = self._load_reference(self.args.reference_model)
            elif self.is_deepspeed_enabled:
                from trl.models import prepare_deepspeed

                model = prepare_deepspeed(self.model, self.accelerator)
            else:
                model = self.model
            if self.args.reference_model is None:
                stack.enter_context(disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs))
                if isinstance(self.model, PeftModel) and self.args.reference == "initial":
                    stack.enter_context(self.model.disable_adapter())
            _evaluation_mode(model)
            yield model

    def _load_reference(self, path: str) -> Any:
        options = dict(self.args.model_init_kwargs or {})
        if self._quantization_config is not None:
            options["quantization_config"] = self._quantization_config
        model = create_model_from_path(path, **options)
        add_fused_lm_head(model)
        return self.accelerator.prepare_model(model, evaluation_mode=True)

    # ---- the loss ----------------------------------------------------------------------------------------------

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """Fetch the device batches of one optimizer step and count what its loss is divided by."""
        samples, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        rows = sum(len(s["label"]) for s in samples)
        tokens = sum(int(s["completion_mask"][s["label"], 1:].sum()) for s in samples)
        totals = torch.tensor([rows, tokens], dtype=torch.float64, device=device)
        rows, tokens = self.accelerator.reduce(totals, reduction="sum").tolist()
        self._batch = OptimizerBatch(samples, rows, tokens)
        return samples, items

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> torch.Tensor:
        if self._batch is None:
            raise RuntimeError("the loss is normalised over an optimizer batch, so it exists in training only")
        token_logps = _token_logps(model, inputs)  # (B, T-1), 0 outside the completion
        policy = token_logps.sum(-1)  # (B,)
        self._require_finite(policy, inputs["row"], "policy log-probability")
        log_ratios = policy.detach() - inputs["ref_logps"]
        z_ref = self._z_ref(model, self._batch, log_ratios)
        losses = grace_kto_loss(
            policy,
            inputs["ref_logps"],
            inputs["weight"],
            inputs["label"],
            z_ref,
            beta=self.beta,
            lambda_positive=self.desirable_weight,
            lambda_negative=self.undesirable_weight,
        )
        loss = losses.sum() / self._batch.rows
        cross_entropy = -token_logps[inputs["label"]].sum() / max(self._batch.positive_tokens, 1)
        if self.args.mu:
            loss = loss + self.args.mu * cross_entropy
        # Logged values are averaged over the device batches of a step, of which each holds a part of this sum.
        parts = len(self._batch.samples)
        self._record(inputs["label"], policy.detach(), log_ratios, z_ref, cross_entropy.detach() * parts)
        processes: int = self.accelerator.num_processes
        return loss * processes  # gradients are averaged over processes, the sum is wanted

    def _z_ref(self, model: Any, batch: OptimizerBatch, log_ratios: torch.Tensor) -> torch.Tensor:
        if self.args.kl == "none":
            zero: torch.Tensor = log_ratios.new_zeros(())
            return zero
        if self.args.kl == "matched":
            ratios: torch.Tensor = self.accelerator.gather(log_ratios)
            return kl_estimate(ratios, torch.zeros_like(ratios))
        if batch.z_ref is None:  # once for the whole optimizer batch, at its first device batch
            policy, reference = [], []
            for sample in batch.samples:
                with torch.no_grad():
                    policy.append(_token_logps(model, self._prepare_inputs(sample), "KL_").sum(-1))
                self._require_finite(policy[-1], sample["row"], "policy log-probability of the borrowed completion")
                reference.append(sample["ref_KL_logps"].to(policy[-1].device))
            pair = torch.stack([torch.cat(policy), torch.cat(reference)], dim=-1)  # (rows, 2)
            policy_logps, reference_logps = self.accelerator.gather(pair).unbind(-1)
            batch.z_ref = kl_estimate(policy_logps, reference_logps)
        return batch.z_ref

    def _require_finite(self, values: torch.Tensor, rows: Any, what: str) -> None:
        finite = torch.isfinite(values)
        if not bool(finite.all()):
            at = int((~finite).nonzero()[0])
            raise UserError(
                f"{what} of {self._response_ids[int(rows[at])]} is {values[at].item()} at step "
                f"{self.state.global_step}; nothing was written for this step: lower learning_rate or check the model"
            )

    def _record(
        self,
        labels: torch.Tensor,
        policy: torch.Tensor,
        log_ratios: torch.Tensor,
        z_ref: torch.Tensor,
        cross_entropy: torch.Tensor,
    ) -> None:
        """Keep what the next log line averages, over all devices."""
        rewards = self.beta * log_ratios
        sums = []
        for chosen in (labels, ~labels):
            sums += [chosen.sum(), rewards[chosen].sum(), policy[chosen].sum()]
        sums.append(cross_entropy)
        totals = self.accelerator.reduce(torch.stack([value.double() for value in sums]), reduction="sum").tolist()
        metrics = self._metrics["train"]
        metrics["kl"].append(float(z_ref))
        metrics["cross_entropy"].append(totals[6])
        for name, (count, reward, logps) in (("chosen", totals[:3]), ("rejected", totals[3:6])):
            if count:
                metrics[f"rewards/{name}"].append(reward / count)
                metrics[f"logps/{name}"].append(logps / count)

    # ---- schedule and checkpoints ------------------------------------------------------------------------------

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Linear warm-up, then a cosine to `learning_rate_end`, over `schedule_steps`."""
        self.lr_scheduler: torch.optim.lr_scheduler.LRScheduler | None
        if self.lr_scheduler is None:
            steps = self.args.schedule_steps or num_training_steps
            warmup = self.args.get_warmup_steps(steps)
            floor = self.args.learning_rate_end / self.args.learning_rate
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.optimizer, lambda step: learning_rate_factor(step, warmup, steps, floor)
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def require_finite_weights(self) -> None:
        """Raise a UserError that names the first trained weight with a NaN or an infinity."""
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and not bool(torch.isfinite(parameter).all()):
                raise UserError(
                    f"weight {name} is not finite after step {self.state.global_step}; nothing was written: "
                    "lower learning_rate"
                )

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.require_finite_weights()
        Trainer._save_checkpoint(self, model, trial)  # past TRL's, which writes a model card into the run's folder

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # PEFT's load_adapter would turn the bf16 adapter of a 4-bit model into fp32.
        if isinstance(self.model, PeftModel):
            self._load_adapter(resume_from_checkpoint)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        # Tied weights are stored once; that the second name is missing is as it should be.
        if set(load_result.missing_keys) - set(getattr(self.model, "all_tied_weights_keys", {})):
            super()._issue_warnings_after_load(load_result)

    def _load_adapter(self, folder: str) -> None:
        path = Path(folder) / ADAPTER_WEIGHTS
        if not path.is_file():
            raise UserError(f"{folder} has no {ADAPTER_WEIGHTS}; give a folder that LoRA training wrote")
        loaded = set_peft_model_state_dict(self.model, load_file(path))
        if loaded.unexpected_keys:
            raise UserError(f"{path} does not fit this model: unexpected {loaded.unexpected_keys[0]}")


def _token_logps(model: Any, batch: dict[str, Any], prefix: str = "") -> torch.Tensor:
    """(B, T-1) log-probability of each completion token, 0 elsewhere, in nats."""
    labels = batch[f"{prefix}input_ids"].masked_fill(batch[f"{prefix}completion_mask"] == 0, -100)
    outputs = model(
        input_ids=batch[f"{prefix}input_ids"],
        attention_mask=batch[f"{prefix}attention_mask"],
        labels=labels,
        use_cache=False,
        fused_lm_head=True,
    )
    logps: torch.Tensor = outputs.log_probs
    return logps


def _evaluation_mode(model: torch.nn.Module) -> None:
    """Switch dropout off; 4-bit layers stay in training mode.

    On CPUs with AVX512-BF16, bitsandbytes repacks a 4-bit layer at its first forward in evaluation mode: that loses
    precision for good, and fails for layers narrower than its block of 64.
    """
    model.eval()
    if getattr(model, "is_loaded_in_4bit", False):
        from bitsandbytes.nn import Linear4bit

        for module in model.modules():
            if isinstance(module, Linear4bit):
                module.training = True


def _window(model: str) -> int | None:
    """The longest sequence the model's configuration allows, None where it names none."""
    config = AutoConfig.from_pretrained(model, trust_remote_code=False).get_text_config()
    window: int | None = getattr(config, "max_position_embeddings", None)
    return window
