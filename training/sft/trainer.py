"""TRL's `SFTTrainer` with a weight for each token: prompt tokens may count a little in the loss.

This module imports torch and TRL, so import it inside functions.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch  # noqa: TID253
from torch.nn.utils.rnn import pad_sequence  # noqa: TID253
from tqdm import tqdm
from transformers import TrainerCallback  # noqa: TID253
from trl import SFTTrainer  # noqa: TID253

from builders.core.console import progress_bar
from scorers.errors import UserError

DIRECT_LOGITS = 2**24  # batch positions x vocabulary up to which the logits are held at once (64 MiB in fp32)


@dataclass(frozen=True)
class WeightedCollator:
    """Pads rows of `input_ids` and `prompt_length` on the right; adds `labels` (-100: no loss) and `loss_weights`."""

    pad_token_id: int
    prompt_loss_weight: float

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Tensors of shape (B, T); completion tokens have weight 1, prompt tokens `prompt_loss_weight`, padding 0."""
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
    """A progress bar on stderr, none where stderr is no terminal; stops the run at a loss that is not finite."""

    def __init__(self) -> None:
        self.bar: tqdm[Any] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar."""
        if state.is_world_process_zero:
            self.bar = progress_bar("sft", "step", state.max_steps)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """One step further."""
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        if not math.isfinite(float(loss)):
            raise UserError(
                f"SFT's loss is {loss} at step {state.global_step}; it must be finite: lower sft.learning_rate"
            )
        if self.bar is not None:
            self.bar.set_postfix(loss=f"{float(loss):.4f}", refresh=False)
            self.bar.update()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()


class WeightedSFTTrainer(SFTTrainer):  # type: ignore[misc]
    """Loss: Σ weight · cross-entropy / Σ weight over the tokens of one optimizer step, over all processes.

    With a prompt loss weight of 0 this is TRL's own loss. TRL's entropy and accuracy metrics are not computed.
    """

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> torch.Tensor:
        """Sum of the weights of the tokens predicted in one optimizer step (the first of a row is not)."""
        total = torch.stack([batch["loss_weights"][:, 1:].sum() for batch in batch_samples]).sum().to(device)
        return self.accelerator.gather(total).sum() if self.args.average_tokens_across_devices else total

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        """The weighted loss of one device batch, scaled so that device batches of one step add up."""
        weights = inputs.pop("loss_weights")[:, 1:]  # (B, T-1)
        small = weights.numel() * model.config.vocab_size <= DIRECT_LOGITS if model is self.model else False
        if small and weights.device.type == "cpu" and not return_outputs:
            summed, outputs = _direct_loss(model, inputs, weights), None
        else:
            outputs = model(**inputs, use_cache=False, fused_lm_head=True)
            summed = -(outputs.log_probs * weights).sum()
        total = weights.sum() if num_items_in_batch is None else num_items_in_batch
        loss = summed / total.clamp(min=1e-9)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss


def _direct_loss(model: Any, inputs: dict[str, Any], weights: torch.Tensor) -> torch.Tensor:
    """Σ weight · cross-entropy from logits at the positions that count. Off the GPU, TRL's tiled head scores every
    position and twice over, which doubles the time of a small model's step."""
    hidden = model.base_model(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
    ).last_hidden_state[:, :-1]
    wanted = weights > 0
    logits = model.get_output_embeddings()(hidden[wanted])
    losses = torch.nn.functional.cross_entropy(logits, inputs["labels"][:, 1:][wanted], reduction="none")
    return (losses * weights[wanted]).sum()
