"""Arguments and collator of `GraceKTOTrainer`.

This module imports torch and TRL, so import it inside functions.
"""

from dataclasses import dataclass, field
from typing import Any

import torch  # noqa: TID253
from datasets import Dataset, concatenate_datasets  # noqa: TID253
from trl import KTOConfig  # noqa: TID253
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference  # noqa: TID253

from scorers.errors import UserError


@dataclass
class GraceKTOConfig(KTOConfig):  # type: ignore[misc]
    """TRL's `KTOConfig` with the settings of GRACE-KTO.

    These settings of TRL have no effect: `loss_type` (see `kl`), `desirable_weight` and `undesirable_weight` (see
    `lambda_positive` and `lambda_negative`), `lr_scheduler_type` (always a linear warm-up, then a cosine to
    `learning_rate_end`).

    Raises:
        UserError: kl is none of the three; the schedule would end above its peak; kl=matched with one row per
            optimizer batch.
    """

    beta: float = field(default=0.05, metadata={"help": "β of eq. 11."})
    mu: float = field(default=0.1, metadata={"help": "Weight of the positives' mean token cross-entropy (eq. 12)."})
    kl: str = field(default="mismatched", metadata={"help": "z_ref: 'mismatched', 'matched' or 'none'."})
    lambda_positive: float | None = field(default=None, metadata={"help": "λ+; None: N/(2·N+)."})
    lambda_negative: float | None = field(default=None, metadata={"help": "λ−; None: N/(2·N−)."})
    reference: str = field(default="initial", metadata={"help": "With an adapter: 'initial' (off) or 'round' (as is)."})
    reference_model: str | None = field(default=None, metadata={"help": "Reference model; None: the policy itself."})
    reference_cache: str | None = field(default=None, metadata={"help": "NPZ file of reference log-probabilities."})
    reference_key: str = field(default="", metadata={"help": "What the cache must have been computed for."})
    sampler_reference: bool = field(default=False, metadata={"help": "Take `logprob` as reference where it agrees."})
    initial_adapter: str | None = field(default=None, metadata={"help": "Adapter folder to start from."})
    learning_rate_end: float = field(default=1e-6, metadata={"help": "Learning rate at the end of the schedule."})
    schedule_steps: int | None = field(default=None, metadata={"help": "Steps of the schedule; None: max_steps."})
    schedule_start: int = field(default=0, metadata={"help": "Steps of the schedule that lie before this training."})
    max_length: int | None = field(default=None, metadata={"help": "Longest row in tokens; None: the model's window."})
    bf16: bool | None = field(default=None, metadata={"help": "Mixed precision; None: where a GPU has bfloat16."})
    gradient_checkpointing: bool = field(default=False, metadata={"help": "Recompute activations."})

    def __post_init__(self) -> None:
        if self.train_sampling_strategy != "sequential":
            raise UserError(
                f"train_sampling_strategy is {self.train_sampling_strategy!r}; the trainer orders the rows itself, so "
                "that no optimizer batch holds two rows of one query: leave it at sequential"
            )
        if self.kl not in ("mismatched", "matched", "none"):
            raise UserError(f"kl is {self.kl!r}; allowed are mismatched, matched, none")
        # The one loss of TRL that draws no KL pairs of its own and allows a device batch of one row.
        self.loss_type = "apo_zero_unpaired"
        # Makes TRL call `_precompute_ref_logps` and keep no reference model in memory.
        self.precompute_ref_log_probs = True
        if self.bf16 is None and not self.fp16:
            self.bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        super().__post_init__()
        if self.learning_rate_end > self.learning_rate:
            raise UserError(
                f"learning_rate_end {self.learning_rate_end} is above learning_rate {self.learning_rate}; "
                "set it to the learning rate (constant) or below"
            )
        # After TRL's own checks, which find out the number of processes.
        self.require_matched_rows(self.per_device_train_batch_size * self.gradient_accumulation_steps)

    def require_matched_rows(self, rows: int) -> None:
        """Check that kl=matched has more than one row, over all processes, to estimate z_ref from.

        Args:
            rows: rows that each process contributes: in training those of an optimizer batch, in evaluation those of a
                device batch.

        Raises:
            UserError: kl is matched and there is a single row.
        """
        if self.kl == "matched" and rows * self.world_size < 2:
            raise UserError(
                "kl=matched with 1 row per batch would compare a row with itself; "
                "use batches of at least 2 rows, or kl=mismatched or kl=none"
            )


@dataclass
class WeightedCollator(DataCollatorForUnpairedPreference):  # type: ignore[misc]
    """TRL's collator, which looks the rows' tokens up, and also hands on each row's weight and number.

    Attributes:
        tokens: the tokenized rows of all datasets of one trainer, one after the other; None before the first.
    """

    tokens: Dataset | None = None

    def add(self, tokens: Dataset) -> int:
        """Append a tokenized dataset, without copying it, and return the number of its first row."""
        first = 0 if self.tokens is None else len(self.tokens)
        self.tokens = tokens if self.tokens is None else concatenate_datasets([self.tokens, tokens])
        return first

    def tokens_of(self, rows: Any) -> Dataset:
        """Return the tokenized rows of some numbers, (N,), in their order."""
        if self.tokens is None:
            raise RuntimeError("no dataset was added")
        return self.tokens.select(rows)

    def name_of(self, row: int) -> str:
        """Return the response_id of a row, as messages call it."""
        if self.tokens is None:
            raise RuntimeError("no dataset was added")
        return str(self.tokens[row]["response_id"])

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Look up and pad a list of rows to tensors.

        Args:
            examples: row, position, weight and label, and where they are there partner, ref_logps and ref_KL_logps.

        Returns:
            TRL's tensors of shape (B, T), label (B,), and besides them weight (B,) float32, row and position, (B,)
            int64 each.
        """
        if self.tokens is None:
            raise RuntimeError("no dataset was added")
        numbers = [example["row"] for example in examples]
        found = self.tokens[numbers]
        columns = {name: found[name] for name in ("prompt_ids", "completion_ids")}
        if "partner" in examples[0]:
            columns["KL_completion_ids"] = self.tokens[[e["partner"] for e in examples]]["completion_ids"]
        rows = [
            {**example, **{name: values[i] for name, values in columns.items()}} for i, example in enumerate(examples)
        ]
        batch: dict[str, Any] = super().torch_call(rows)
        batch["weight"] = torch.tensor([example["weight"] for example in examples], dtype=torch.float32)
        batch["row"] = torch.tensor(numbers)
        batch["position"] = torch.tensor([example["position"] for example in examples])
        return batch
