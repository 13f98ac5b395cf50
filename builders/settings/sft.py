"""Settings of supervised fine-tuning: of any conversations, and of GRACE-KTO's first policy (`train --sft`, §3.1)."""

from typing import Annotated, Literal

from pydantic import Field

from builders.settings.base import EXECUTION, LATER, PATH, PRIVATE, Positive, Section
from builders.settings.kto import TRACKERS, Names, Trackers


class TuningSettings(Section):
    """Supervised fine-tuning on conversations."""

    method: Literal["full", "lora", "qlora"] = Field(
        "full",
        description="full: every weight; lora: an adapter; qlora: an adapter on 4-bit NF4 weights; "
        "an adapter is saved merged into the base model as its checkpoint stores it, so the result is a whole model",
    )
    epochs: float = Field(1.0, gt=0, description="passes over the rows, if steps is null")
    steps: Positive | None = Field(None, description="optimizer steps; null: as many as the epochs have")
    batch_size: Positive = Field(8, description="rows per optimizer step, over all devices and accumulation steps")
    device_batch_size: Annotated[Positive | None, EXECUTION] = Field(
        None, description="rows per forward pass on one device; null: batch_size shared among the processes"
    )
    learning_rate: float = Field(1e-6, gt=0, description="peak learning rate")
    warmup_ratio: float = Field(0.1, ge=0, lt=1, description="share of the steps with a linear warm-up")
    prompt_loss_weight: float = Field(0.0, ge=0, le=1, description="weight of the prompt's tokens in the loss")
    lora_rank: Positive = Field(64, description="rank of the adapter")
    lora_alpha: Positive = Field(128, description="scale of the adapter, divided by its rank")
    lora_dropout: Annotated[float, LATER] = Field(0.0, ge=0, lt=1, description="dropout before the adapter")
    lora_targets: Names | Literal["all-linear"] = Field(
        "all-linear",
        description="names of the modules that get an adapter; all-linear: every linear layer but the head",
    )
    max_length: Positive | None = Field(None, description="longest row in tokens; null: the model's window")
    gradient_checkpointing: Annotated[bool, EXECUTION] = Field(
        False, description="recompute activations to save memory"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="bf16: mixed precision; auto: bf16 on a GPU that has it, else fp32"
    )
    optimizer: Literal["adamw_torch", "adamw_torch_fused", "paged_adamw_8bit", "adafactor"] = Field(
        "adamw_torch_fused", description="optimizer, by its transformers name"
    )
    deepspeed: Annotated[str | None, EXECUTION, PATH] = Field(
        None, description="zero2, zero3, zero3-offload (optimizer in the CPU's memory) or a DeepSpeed file; null: none"
    )
    attention: Literal["sdpa", "eager", "flash_attention_2"] = Field("sdpa", description="attention implementation")
    seed: int = Field(0, ge=0, description="seed of the row order and of the adapter's start; default random_seed")
    report_to: Annotated[Trackers, PRIVATE] = Field((), description=TRACKERS)


class SFTSettings(TuningSettings):
    """Supervised fine-tuning on the seed documents in the tagged form; defaults are the paper's."""

    untagged: Literal["refuse", "wrap", "drop"] = Field(
        "refuse",
        description="reference documents without the tags: refuse them; wrap each one, its summary and outline built "
        "from its own first sentences and headings; or drop whatever does not have the form",
    )
