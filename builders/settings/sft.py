"""Settings of supervised fine-tuning (`train --sft`, §3.1), the stage before the first round."""

from typing import Annotated, Literal

from pydantic import Field

from builders.settings.base import EXECUTION, Positive, Section


class SFTSettings(Section):
    """Supervised fine-tuning on the seed documents in the tagged form; defaults are the paper's."""

    epochs: float = Field(1.0, gt=0, description="passes over the documents, if steps is null")
    steps: Positive | None = Field(None, description="optimizer steps; null: as many as the epochs have")
    batch_size: Positive = Field(8, description="rows per optimizer step")
    device_batch_size: Annotated[Positive | None, EXECUTION] = Field(
        None, description="rows per forward pass; null: batch_size"
    )
    learning_rate: float = Field(1e-6, gt=0, description="peak learning rate")
    warmup_ratio: float = Field(0.1, ge=0, lt=1, description="share of the steps with a linear warm-up")
    prompt_loss_weight: float = Field(0.0, ge=0, le=1, description="weight of the prompt's tokens in the loss")
    max_length: Positive | None = Field(None, description="longest row in tokens; null: the model's window")
    gradient_checkpointing: Annotated[bool, EXECUTION] = Field(
        False, description="recompute activations to save memory"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="bf16: mixed precision; auto: where possible"
    )
    seed: int = Field(0, ge=0, description="seed of the row order; default random_seed")
