"""`GraceKTOTrainer`: TRL's `KTOTrainer` with row weights, class weights, the cross-entropy term and three KL modes.

What differs from TRL 1.16, and why:

- The loss is `training.kto.loss.grace_kto_loss` plus μ times the mean token cross-entropy of the positive completions
  (eq. 12), from one forward pass. Both means run over the whole optimizer batch (all devices and accumulation steps),
  so the split into device batches changes nothing but rounding; in evaluation they run over the whole dataset.
- TRL pairs completions for z_ref inside a device batch, where rows of one query are siblings. Here rows are ordered
  and paired over the dataset (`training.kto.order`). TRL's own pairing is off, as it is for its loss type without KL.
- Reference log-probabilities are computed once per dataset, before the first step (`training.kto.reference`).
- No row is cut silently, and a log-probability that is not finite ends the run with the row's name.

This module imports torch and TRL, so import it inside functions.
"""

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa
import torch  # noqa: TID253
from datasets import Dataset  # noqa: TID253
from peft import PeftModel  # noqa: TID253
from transformers import ProcessorMixin, Trainer  # noqa: TID253

from scorers.class_weights import class_weights
from scorers.errors import UserError
from training.kto.batch import OptimizerBatch, device_sums, logged_means, optimizer_batch
from training.kto.config import GraceKTOConfig as GraceKTOConfig
from training.kto.config import WeightedCollator
from training.kto.data import complete_rows, dataset_of, lengths_of, values_of
from training.kto.evaluation import evaluation_means, row_values
from training.kto.forward import evaluating, evaluation_mode, token_logps
from training.kto.inputs import require_arguments, tokenizer_of, unpaired, window_of
from training.kto.loss import grace_kto_loss, kl_estimate
from training.kto.order import mismatched_partner, order_rows
from training.kto.reference import ReferenceTrainer
from training.kto.schedule import learning_rate_factor

if TYPE_CHECKING:
    from numpy.typing import NDArray

# What the trainer reads of a tokenized dataset. Other columns are dropped: their names could clash with the trainer's.
TOKEN_COLUMNS = ["prompt_ids", "completion_ids", "label", "weight", "query_id", "response_id", "logprob"]


class GraceKTOTrainer(ReferenceTrainer):
    """Weighted KTO with the arguments of TRL's `KTOTrainer`.

        args = GraceKTOConfig(output_dir="policy", max_steps=100, eval_strategy="steps", eval_steps=20)
        trainer = GraceKTOTrainer(model=model, args=args, train_dataset=rows, eval_dataset=held_out)
        trainer.train()

    Args:
        model: the policy, as a model object (also a `PeftModel`), a folder or an id; with `peft_config` its base model.
        args: the settings.
        train_dataset: columns prompt, completion (strings or lists of messages) and label; optionally weight, query_id
            and response_id, whose defaults `training.kto.data.complete_rows` describes. Preference pairs (chosen,
            rejected) are split into two rows each, as in TRL.
        eval_dataset: one such dataset, or a dictionary of them. The class weights are those of the training rows.
        ref_model: the reference; None: chosen as `ReferenceTrainer` describes.
        processing_class: the tokenizer; None: the one beside the model.
        **kwargs: `compute_metrics`, `callbacks`, `optimizers`, `quantization_config`, `peft_config` as in TRL.

    Raises:
        UserError: a dataset lacks something (`complete_rows`); a row is longer than the window, which is
            `args.max_length` or else the limit in the model's configuration; a log-probability is not finite; all rows
            belong to one query although kl=mismatched; the arguments do not fit each other.
    """

    loss_is_scaled_for_ga = True  # transformers must not divide by the accumulation steps: the loss already is

    def __init__(
        self,
        model: Any,
        args: GraceKTOConfig,
        train_dataset: Dataset,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        *,
        ref_model: Any = None,
        processing_class: Any = None,
        **kwargs: Any,
    ) -> None:
        model = str(model) if isinstance(model, Path) else model
        require_arguments(model, args, train_dataset)
        processing_class = processing_class or tokenizer_of(model, args)
        tokenizer = processing_class.tokenizer if isinstance(processing_class, ProcessorMixin) else processing_class
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        self._window = args.max_length or window_of(model, args)
        self._quantization_config = kwargs.get("quantization_config")
        self._batch: OptimizerBatch | None = None
        self._evaluated: list[torch.Tensor] = []  # `row_values` of the running evaluation, (B, 6) each
        # A row beyond the window is an error (`_require_window`), so the collator can only cut borrowed completions.
        self._collator = WeightedCollator(
            tokenizer.pad_token_id, max_length=self._window, pad_to_multiple_of=args.pad_to_multiple_of
        )
        super().__init__(
            model=model,
            ref_model=ref_model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            data_collator=self._collator,
            **kwargs,
        )

    def _send_telemetry(self) -> None:
        """Send nothing; TRL would report the trainer, the model's architecture and the hardware."""

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns: list[str] | None
        super()._set_signature_columns_if_needed()
        # transformers drops the columns that are not in the list.
        self._signature_columns = list(
            dict.fromkeys([*(self._signature_columns or []), "row", "position", "weight", "partner"])
        )

    # ---- the datasets ------------------------------------------------------------------------------------------

    def _prepare_dataset(self, dataset: Dataset, processing_class: Any, args: GraceKTOConfig, name: str) -> Dataset:
        """Tokenize, check, order and pair the rows; TRL calls this for each dataset, training rows first.

        Returns:
            Numbers alone, in training order: `row` of the collator's tokens, `position` in this order, label, weight
            and, with kl=mismatched, the `partner` whose completion the row borrows. Tokens stay where they are, on disk
            where they were read from.
        """
        if "row" in dataset.column_names and "prompt" not in dataset.column_names:
            return dataset  # one of the trainer's own, given to `evaluate`
        tokens = self._tokens_of(dataset, processing_class, args, name)
        self._require_window(tokens)
        labels, weights = values_of(tokens, "label").to_numpy(), values_of(tokens, "weight").to_numpy()
        # The first call is for the training rows; the name does not tell, an evaluation set may be called train too.
        if self._collator.tokens is None:
            self._set_class_weights(labels, args)
            batch_size = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        else:
            args.require_matched_rows(args.per_device_eval_batch_size)
            batch_size = args.per_device_eval_batch_size * args.world_size
        # The order holds in training, since TRL draws KTO's batches in sequence by default (`train_sampling_strategy`).
        queries = values_of(tokens, "query_id").cast(pl.Categorical)  # a number for each row instead of a text
        order = order_rows(queries, batch_size, args.seed)
        first = self._collator.add(tokens)
        columns = {
            "row": first + order,
            "position": np.arange(len(order), dtype=np.int32),
            "label": labels[order],
            "weight": weights[order],
        }
        if args.kl == "mismatched":
            columns["partner"] = columns["row"][mismatched_partner(queries.gather(order), batch_size)]
        return dataset_of(columns)

    def _tokens_of(self, dataset: Dataset, processing_class: Any, args: GraceKTOConfig, name: str) -> Dataset:
        """Return a dataset's token ids: those of `training.kto.tokens`, or what TRL makes of messages or strings."""
        if not {"prompt_ids", "completion_ids"} <= set(dataset.column_names or ()):
            dataset = complete_rows(unpaired(dataset, name), name)
            uncut = copy.copy(args)
            uncut.max_length = None  # with a limit TRL would drop rows whose prompt fills it, without a message
            # Not called train: TRL would then give advice on class weights that are not used here.
            dataset = super()._prepare_dataset(dataset, processing_class, uncut, f"weighted {name}")
            dataset = dataset.add_column("logprob", pa.nulls(len(dataset), pa.float64()))
        return dataset.select_columns(TOKEN_COLUMNS)

    def _set_class_weights(self, labels: "NDArray[np.bool_]", args: GraceKTOConfig) -> None:
        """Balance the labels of the training rows (eq. 11), except where the arguments set λ+ or λ−."""
        count = int(labels.sum())
        positive, negative = class_weights(count, len(labels) - count)
        self.desirable_weight = positive if args.lambda_positive is None else args.lambda_positive
        self.undesirable_weight = negative if args.lambda_negative is None else args.lambda_negative

    def _require_window(self, tokens: Dataset) -> None:
        """Check that prompt and completion of every row fit the model's window.

        Raises:
            UserError: a row is too long; the message names the first one.
        """
        if self._window is None:
            return
        lengths = lengths_of(tokens, "prompt_ids") + lengths_of(tokens, "completion_ids")
        over = np.flatnonzero(lengths > self._window)
        if len(over):
            first = int(over[0])
            raise UserError(
                f"{tokens[first]['response_id']} has {lengths[first]} tokens with its prompt, the limit is "
                f"{self._window} ({len(over)} rows are longer); sample shorter responses or use a longer window"
            )

    # ---- the loss ----------------------------------------------------------------------------------------------

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """Fetch the device batches of one optimizer step and count the rows and tokens that its loss is divided by."""
        samples, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._batch = optimizer_batch(samples, self.accelerator)
        return samples, items

    def _prepare_input(self, data: Any) -> Any:
        """Move a batch to the device. Under DeepSpeed transformers would also cast its floats to the engine's bf16.

        A reference log-probability of −1000 nats would be off by as much as 2 nats then.
        """
        if isinstance(data, torch.Tensor):
            return data.to(self.args.device)
        return super()._prepare_input(data)

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        loss = self._training_loss(model, inputs) if self.model.training else self._evaluation_loss(model, inputs)
        if not return_outputs:
            return loss
        with torch.no_grad():  # for `compute_metrics`: the fused head has no logits
            outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
        return loss, outputs

    def _training_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """This device batch's share of the optimizer batch's loss; the shares of all device batches add up to the loss.

        Args:
            model: the policy, as transformers wraps it.
            inputs: one device batch from the collator.

        Returns:
            A scalar tensor with gradient.
        """
        if self._batch is None:
            raise RuntimeError("the training loss is normalised over an optimizer batch, which `train` draws")
        batch, labels, counted = self._batch, inputs["label"], inputs["counted"]
        logps = token_logps(model, inputs, mixed=bool(self.args.bf16))  # (B, T-1)
        policy, log_ratios = self._log_ratios(logps, inputs)
        if batch.z_ref is None:  # once per optimizer batch, from all its device batches
            batch.z_ref = self._z_ref(model, batch.samples, policy, inputs)
        loss = self._row_losses(policy, inputs, batch.z_ref)[counted].sum() / batch.rows
        # logps is 0 outside completions, so the sum runs over completion tokens only.
        cross_entropy = -logps[labels & counted].sum() / max(batch.positive_tokens, 1)
        if self.args.mu:
            loss = loss + self.args.mu * cross_entropy
        if batch.add(device_sums(labels, counted, self.beta * log_ratios, policy, cross_entropy)):
            self._record(batch, batch.z_ref)
        processes: int = self.accelerator.num_processes
        return loss * processes  # gradients are averaged over processes, but the loss is their sum

    def _log_ratios(self, logps: torch.Tensor, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (B,) log π_θ of each completion, and (B,) log π_θ − log π_ref without gradient, both in nats."""
        policy = logps.sum(-1)  # (B, T-1) to (B,)
        self._require_finite(policy, inputs["row"], "policy log-probability")
        return policy, policy.detach() - inputs["ref_logps"]

    def _row_losses(self, policy: torch.Tensor, inputs: dict[str, Any], z_ref: torch.Tensor) -> torch.Tensor:
        """The weighted KTO loss of each row, (B,); see `grace_kto_loss`."""
        return grace_kto_loss(
            policy,
            inputs["ref_logps"],
            inputs["weight"],
            inputs["label"],
            z_ref,
            beta=self.beta,
            lambda_positive=self.desirable_weight,
            lambda_negative=self.undesirable_weight,
        )

    def _z_ref(
        self, model: Any, samples: list[dict[str, Any]], policy: torch.Tensor, inputs: dict[str, Any]
    ) -> torch.Tensor:
        """Estimate z_ref from some device batches of each process.

        Args:
            model: the policy.
            samples: the device batches: in training those of the optimizer batch, in evaluation the one at hand.
            policy: (B,) log π_θ of each completion of the device batch at hand, in nats.
            inputs: the device batch at hand.

        Returns:
            A scalar tensor ≥ 0 in nats, without gradient; 0 for kl=none.
        """
        if self.args.kl == "none":
            return policy.new_zeros(())
        if self.args.kl == "matched" and len(samples) == 1:  # all that is needed is at hand
            pairs = torch.stack([policy.detach(), inputs["ref_logps"]], dim=-1)
        else:
            pairs = self._pairs(model, samples)
        # Gathered as one tensor, so that both halves of a pair come from the same row.
        if self.model.training:
            counted = torch.cat([sample["counted"] for sample in samples]).to(pairs.device)
            pairs = self.accelerator.gather(pairs)[self.accelerator.gather(counted)]
        else:  # without the copies that fill up the last batch of several processes
            pairs = self.accelerator.gather_for_metrics(pairs)
        policy_logps, reference_logps = pairs.unbind(-1)
        return kl_estimate(policy_logps, reference_logps)

    def _pairs(self, model: Any, samples: list[dict[str, Any]]) -> torch.Tensor:
        """Run the policy without gradient and dropout over the completions that z_ref is estimated from.

        Args:
            model: the policy.
            samples: device batches; for kl=mismatched their borrowed completions are read, else their own.

        Returns:
            (rows, 2): log π_θ and log π_ref of each completion, in nats.
        """
        prefix, whose = ("KL_", "borrowed") if self.args.kl == "mismatched" else ("", "row's own")
        pairs = []
        with torch.no_grad(), evaluating(self.model):
            for sample in samples:  # one forward pass per device batch
                batch = self._prepare_inputs(sample)
                policy = token_logps(model, batch, prefix, mixed=bool(self.args.bf16)).sum(-1)
                self._require_finite(policy, batch["row"], f"policy log-probability of the {whose} completion")
                pairs.append(torch.stack([policy, batch[f"ref_{prefix}logps"]], dim=-1))
        return torch.cat(pairs)

    def _record(self, batch: OptimizerBatch, z_ref: torch.Tensor) -> None:
        """Keep the values that the next log line averages: those of a whole optimizer batch, over all processes."""
        means = logged_means(self.accelerator.reduce(batch.sums, reduction="sum").tolist())
        for name, value in {"kl": float(z_ref), **means}.items():
            self._metrics["train"][name].append(value)

    # ---- evaluation --------------------------------------------------------------------------------------------

    def _evaluation_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """The mean loss of the device batch; each row's numbers are kept for the means over the whole dataset."""
        evaluation_mode(self.model)  # again: transformers has put the 4-bit layers into evaluation mode too
        logps = token_logps(model, inputs, mixed=bool(self.args.bf16))  # (B, T-1)
        policy, log_ratios = self._log_ratios(logps, inputs)
        z_ref = self._z_ref(model, [inputs], policy, inputs)
        losses = self._row_losses(policy, inputs, z_ref)
        tokens = inputs["completion_mask"][:, 1:].sum(-1)
        values = row_values(losses, z_ref, inputs["label"], tokens, self.beta * log_ratios, policy)
        self._evaluated.append(self.accelerator.gather_for_metrics(values).cpu())
        return losses.new_tensor(evaluation_means(values, self.args.mu)["loss"])

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> Any:
        """Run transformers' loop over an evaluation set; loss and metrics are `evaluation_means` over all its rows.

        Returns:
            transformers' output, with `{prefix}_loss` and the other means replaced or added.
        """
        self._evaluated = []
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        means = evaluation_means(torch.cat(self._evaluated), self.args.mu)
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in means.items()})
        self._evaluated = []
        return output

    # ---- schedule and checkpoints ------------------------------------------------------------------------------

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Make the schedule: linear warm-up, then a cosine to `learning_rate_end`, over `schedule_steps` steps."""
        self.lr_scheduler: torch.optim.lr_scheduler.LRScheduler | None
        if self.lr_scheduler is None:
            steps, start = self.args.schedule_steps or num_training_steps, self.args.schedule_start
            warmup = self.args.get_warmup_steps(steps)
            # LambdaLR multiplies the peak by a factor, so the end is a share of the peak.
            floor = self.args.learning_rate_end / self.args.learning_rate
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.optimizer, lambda step: learning_rate_factor(start + step, warmup, steps, floor)
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def require_finite_weights(self) -> None:
        """Check every trained weight for NaN and infinity.

        Raises:
            UserError: a weight is not finite; the message names the first one.
        """
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and not bool(torch.isfinite(parameter).all()):
                raise UserError(
                    f"weight {name} is not finite after step {self.state.global_step}; nothing was written: "
                    "lower learning_rate"
                )

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.require_finite_weights()
        # transformers' own method: TRL's would also write a model card into the run's folder.
        Trainer._save_checkpoint(self, model, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # Into the parameters that the optimizer holds, each in its own precision; PEFT's load_adapter makes new ones.
        if isinstance(self.model, PeftModel):
            self._load_adapter(resume_from_checkpoint)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        # Tied weights are stored under one name, so the other name is always missing: no reason for a warning.
        if set(load_result.missing_keys) - set(getattr(self.model, "all_tied_weights_keys", {})):
            super()._issue_warnings_after_load(load_result)
