"""TRL's `SFTTrainer` with a loss weight per token, so that prompt tokens can count a little.

This module imports torch and TRL, so import it inside functions.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch  # noqa: TID253
from torch.nn.utils.rnn import pad_sequence  # noqa: TID253
from tqdm import tqdm
from transformers import TrainerCallback  # noqa: TID253
from transformers.trainer_pt_utils import LengthGroupedSampler  # noqa: TID253
from trl import SFTTrainer  # noqa: TID253

from builders.core.console import progress_bar
from scorers.errors import UserError
from training.head import label_logps


@dataclass(frozen=True)
class WeightedCollator:
    """Pads rows on the right and adds the weight of each token in the loss.

    Attributes:
        pad_token_id: id that fills up short rows.
        prompt_loss_weight: weight of prompt tokens, in [0, 1]; 0 leaves them out of the loss.
    """

    pad_token_id: int
    prompt_loss_weight: float

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate rows of `input_ids` and `prompt_length`.

        Returns:
            input_ids, attention_mask, labels (-100 where the weight is 0) and loss_weights, each (B, T). Completion
            tokens have weight 1, prompt tokens `prompt_loss_weight`, padding 0.
        """
        ids = [torch.tensor(row["input_ids"]) for row in rows]
        weights = [torch.ones(len(row)) for row in ids]
        for row, weight in zip(rows, weights, strict=True):
            weight[: row["prompt_length"]] = self.prompt_loss_weight
        input_ids = pad_sequence(ids, batch_first=True, padding_value=self.pad_token_id)
        loss_weights = pad_sequence(weights, batch_first=True)
        mask = pad_sequence([torch.ones(len(row), dtype=torch.long) for row in ids], batch_first=True)
        labels = input_ids.masked_fill(loss_weights == 0, -100)
        return {"input_ids": input_ids, "attention_mask": mask, "labels": labels, "loss_weights": loss_weights}


class StepWatch(TrainerCallback):  # type: ignore[misc]
    """Shows a progress bar and stops the run at a loss that is not finite.

    The bar is on stderr; there is none where stderr is not a terminal.

    Args:
        section: of the training's settings, for messages and the bar.
    """

    def __init__(self, section: str = "sft") -> None:
        self.section = section
        self.bar: tqdm[Any] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar."""
        if state.is_world_process_zero:
            self.bar = progress_bar(self.section, "step", state.max_steps)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Check the loss of the step and advance the bar.

        Raises:
            UserError: the loss is NaN or infinite.
        """
        # The summary at the end of training is logged too; it has no "loss".
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        if not math.isfinite(float(loss)):
            raise UserError(
                f"the loss of {self.section} is {loss} at step {state.global_step}; it must be finite: lower "
                f"{self.section}.learning_rate"
            )
        if self.bar is not None:
            self.bar.set_postfix(loss=f"{float(loss):.4f}", refresh=False)
            self.bar.update()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()


class WeightedSFTTrainer(SFTTrainer):  # type: ignore[misc]
    """TRL's trainer with the loss Σ weight · cross-entropy / Σ weight, over the tokens of one optimizer step.

    Both sums run over all device batches and processes. With a prompt loss weight of 0 this is TRL's own loss. TRL's
    entropy and accuracy metrics are not computed.

    The number of processes changes nothing but rounding: an optimizer step has the rows that it has in one process.
    """

    def _send_telemetry(self) -> None:
        """Send nothing; TRL would report the trainer, the model's architecture and the hardware."""

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthGroupedSampler:
        """Draw rows of like length together, in groups of whole optimizer batches.

        transformers would group the rows of one process's share, and so order them by the number of processes.
        """
        # Every process draws the order from torch's generator, which dropout moves on differently in each.
        self.accelerator.rng_types = ["torch"]
        rows = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return LengthGroupedSampler(rows, lengths=list(self.train_dataset["length"]))

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> torch.Tensor:
        """The sum of the weights of the tokens that one optimizer step predicts.

        transformers hands it to `compute_loss`. The first token of a row is not predicted.
        """
        self._leave_out_repeats(batch_samples)
        total = torch.stack([batch["loss_weights"][:, 1:].sum() for batch in batch_samples]).sum().to(device)
        return self.accelerator.gather(total).sum() if self.args.average_tokens_across_devices else total

    def _leave_out_repeats(self, batch_samples: list[dict[str, Any]]) -> None:
        """Give weight 0 to the rows that accelerate repeats, so that every process has a full last batch of an epoch.

        In that batch, counted over the processes, the first `remainder` rows are the epoch's last.
        """
        state = self.accelerator.gradient_state
        if state.end_of_dataloader and state.remainder > 0:
            weights = batch_samples[-1]["loss_weights"]  # (B, T)
            before = self.accelerator.process_index * self.args.train_batch_size
            weights[max(0, state.remainder - before) :] = 0

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        """The weighted loss of one device batch, scaled so that the device batches of one step add up.

        Args:
            model: the model, as transformers wraps it.
            inputs: one device batch from the collator.
            return_outputs: whether to return the model's outputs too.
            num_items_in_batch: Σ weight over the optimizer step; None in evaluation: over this batch.

        Returns:
            A scalar tensor in nats per token, with `return_outputs` together with the outputs.
        """
        weights = inputs.pop("loss_weights")[:, 1:]  # (B, T-1)
        outputs = None
        if return_outputs:
            outputs = model(**inputs, use_cache=False, fused_lm_head=True)
            logps = outputs.log_probs  # (B, T-1)
        else:
            logps = label_logps(model, **inputs, mixed=bool(self.args.bf16))
        summed = -(logps * weights).sum()
        total = weights.sum() if num_items_in_batch is None else num_items_in_batch
        loss = summed / total.clamp(min=1e-9)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            # Gradients are averaged over processes, but the loss is the processes' sum.
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss
