"""TRL's `SFTTrainer` with the loss of margin-based preference optimisation (RationAlign, eq. 1c and 2).

This module imports torch and TRL, so import it inside functions.
"""

from dataclasses import dataclass
from typing import Any

import torch  # noqa: TID253
from torch.nn.utils.rnn import pad_sequence  # noqa: TID253

from builders.settings.mpo import MpoSettings
from training.head import label_logps
from training.mpo.loss import mpo_loss
from training.sft.trainer import WeightedSFTTrainer


@dataclass(frozen=True)
class PairCollator:
    """Pads pairs on the right, all chosen rows first, then all rejected ones.

    Attributes:
        pad_token_id: id that fills up short rows.
    """

    pad_token_id: int

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate rows of `chosen_ids`, `rejected_ids`, `prompt_length` and `margin`.

        Returns:
            input_ids, attention_mask and labels (-100 in the prompt and the padding), each (2B, T); margin (B,), and
            counted (B,), 1 for each pair.
        """
        ids = [torch.tensor(row[name]) for name in ("chosen_ids", "rejected_ids") for row in rows]
        labels = [row.clone() for row in ids]
        for row, label in zip([*rows, *rows], labels, strict=True):
            label[: row["prompt_length"]] = -100
        return {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.pad_token_id),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
            "labels": pad_sequence(labels, batch_first=True, padding_value=-100),
            "margin": torch.tensor([row["margin"] for row in rows]),
            "counted": torch.ones(len(rows)),
        }


class MPOTrainer(WeightedSFTTrainer):
    """The loss of eq. 2 over the pairs of one optimizer step, over all device batches and processes.

    Args:
        settings: weights of the loss.
        **kwargs: of TRL's trainer.
    """

    def __init__(self, settings: MpoSettings, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.settings = settings

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> torch.Tensor:
        """Pairs of one optimizer step, and tokens of their chosen completions; (2,).

        transformers hands it to `compute_loss`.
        """
        self._leave_out_repeats(batch_samples)
        parts = [torch.stack([batch["counted"].sum(), _tokens(batch).sum()]) for batch in batch_samples]
        total = torch.stack(parts).sum(0).to(device)
        if not self.args.average_tokens_across_devices:
            return total
        gathered: torch.Tensor = self.accelerator.gather(total.unsqueeze(0)).sum(0)
        return gathered

    def _leave_out_repeats(self, batch_samples: list[dict[str, Any]]) -> None:
        """Leave out the pairs that accelerate repeats, see `WeightedSFTTrainer`."""
        state = self.accelerator.gradient_state
        if state.end_of_dataloader and state.remainder > 0:
            before = self.accelerator.process_index * self.args.train_batch_size
            batch_samples[-1]["counted"][max(0, state.remainder - before) :] = 0

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        """What the pairs of one device batch add to the loss of the optimizer step.

        Args:
            model: the model, as transformers wraps it.
            inputs: one device batch from the collator.
            return_outputs: not supported; evaluation has no loss here.
            num_items_in_batch: pairs and tokens of the optimizer step, (2,); None: of this batch.

        Returns:
            A scalar tensor.
        """
        if return_outputs:
            raise NotImplementedError("MPOTrainer has no evaluation loss; compare models by `grace evaluate`")
        counted = inputs["counted"] > 0
        names = ("input_ids", "attention_mask", "labels")
        logps = label_logps(model, **{name: inputs[name] for name in names}, mixed=bool(self.args.bf16))
        winners, losers = logps.sum(-1).chunk(2)  # (B,) each
        tokens = _tokens(inputs)
        whole = None if num_items_in_batch is None else (num_items_in_batch[0], num_items_in_batch[1])
        own = self.settings
        loss = mpo_loss(
            winners[counted],
            losers[counted],
            inputs["margin"][counted],
            tokens[counted],
            beta=own.beta,
            gamma=own.gamma,
            weight=own.weight,
            kind=own.ce,
            whole=whole,
        )
        margins = (winners - losers)[counted].detach()
        if len(margins):
            self._metrics["train"]["accuracy"].append(float((margins > 0).float().mean()))
            self._metrics["train"]["logp_margin"].append(float(margins.mean()))
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            # Gradients are averaged over processes, but the loss is the processes' sum.
            loss = loss * self.accelerator.num_processes
        return loss


def _tokens(batch: dict[str, Any]) -> torch.Tensor:
    """Tokens of each chosen completion, 0 where the pair does not count; (B,)."""
    found: torch.Tensor = (batch["labels"][: len(batch["counted"]), 1:] != -100).sum(-1) * batch["counted"]
    return found
