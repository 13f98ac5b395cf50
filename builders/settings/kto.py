"""Settings of weighted KTO training (eq. 11–12).

They are a section of the configuration, and all that `training.kto.rounds.train_round` needs to know of it.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, field_validator, model_validator

from builders.settings.base import EXECUTION, LATER, PATH, PRIVATE, Positive, Section

# strict=False: YAML and manifests have lists, which a strict model would not accept as tuples.
Pair = Annotated[tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]], Field(strict=False)]
Names = Annotated[tuple[str, ...], Field(strict=False)]
Trackers = Annotated[tuple[Literal["tensorboard", "trackio", "wandb"], ...], Field(strict=False)]
TRACKERS = (
    "trackers that the training logs each step to, of tensorboard, trackio and wandb; the files of tensorboard and "
    "wandb are in the store's folder .logs; none by default, so nothing is sent anywhere"
)
"""What the setting `report_to` means; no manifest shows it, so that whoever repeats a recipe sends nothing either."""


class TrainSettings(Section):
    """One pass of weighted KTO over a weights dataset (eq. 11–12); defaults are the paper's."""

    method: Literal["full", "lora", "qlora"] = Field(
        "lora", description="full: every weight; lora: an adapter; qlora: an adapter on 4-bit NF4 weights"
    )
    learning_rate: float = Field(5e-6, gt=0, description="peak learning rate, reached after the warm-up")
    learning_rate_end: float = Field(1e-6, ge=0, description="learning rate at the last step of the last round")
    warmup_ratio: float = Field(0.1, ge=0, lt=1, description="share of all rounds' steps with a linear warm-up")
    batch_size: Positive = Field(8, description="rows per optimizer step, over all devices and accumulation steps")
    device_batch_size: Annotated[Positive, EXECUTION] = Field(1, description="rows per forward pass on one device")
    beta: float = Field(0.05, gt=0, description="strength of the pull to the reference (eq. 11)")
    mu: float = Field(0.1, ge=0, description="weight of the positives' mean token cross-entropy (eq. 12)")
    kl: Literal["mismatched", "matched", "none"] = Field(
        "mismatched", description="estimate of z_ref: from other queries' completions, the batch's own rows, or 0"
    )
    reference: Literal["initial", "round"] = Field(
        "initial", description="reference model: the one training began with, or the policy that sampled the round"
    )
    reference_logps: Annotated[Literal["forward", "sampler"], LATER] = Field(
        "forward",
        description="by forward passes of the reference; sampler: the column logprob, where a forward pass over some "
        "rows agrees; needs reference: round",
    )
    lambdas: Literal["balanced"] | Pair = Field(
        "balanced", description="loss weights of positive and negative rows; balanced: N/(2·N+) and N/(2·N−)"
    )
    lora_rank: Positive = Field(64, description="rank of the adapter")
    lora_alpha: Positive = Field(128, description="scale of the adapter, divided by its rank")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="dropout before the adapter")
    lora_targets: Names | Literal["all-linear"] = Field(
        "all-linear",
        description="names of the modules that get an adapter; all-linear: every linear layer but the head",
    )
    max_length: Positive | None = Field(
        None, description="longest prompt with completion in tokens, an error beyond; null: the model's window"
    )
    gradient_checkpointing: Annotated[bool, EXECUTION] = Field(
        False, description="recompute activations: less memory, about 20 % slower"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="bf16: mixed precision; auto: bf16 on a GPU that has it, else fp32"
    )
    save_steps: Annotated[Positive | None, EXECUTION] = Field(
        None, description="steps between checkpoints; null: one at the round's end"
    )
    seed: int = Field(
        0, ge=0, description="seed of the row order, of the adapter's start and of dropout; default random_seed"
    )
    optimizer: Literal["adamw_torch", "adamw_torch_fused", "paged_adamw_8bit", "adafactor"] = Field(
        "adamw_torch", description="optimizer, by its transformers name"
    )
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay")
    max_grad_norm: float = Field(1.0, ge=0, description="gradients are scaled down to this norm; 0: never")
    deepspeed: Annotated[str | None, EXECUTION, PATH] = Field(
        None, description="zero2, zero3, or a DeepSpeed JSON file; null: none"
    )
    attention: Literal["sdpa", "eager", "flash_attention_2"] = Field("sdpa", description="attention implementation")
    report_to: Annotated[Trackers, PRIVATE] = Field((), description=TRACKERS)

    @field_validator("lambdas", mode="wrap")
    @classmethod
    def _is_a_pair_or_balanced(cls, value: Any, check: ValidatorFunctionWrapHandler) -> Any:
        """Say both that is allowed; of two types pydantic's first error names the one."""
        try:
            return check(value)
        except ValidationError as error:
            raise ValueError("expected balanced, or two numbers of at least 0, such as [1.0, 0.5]") from error

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        """Check the settings that depend on one another."""
        if self.batch_size % self.device_batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of device_batch_size {self.device_batch_size}"
            )
        if self.reference_logps == "sampler" and self.reference == "initial":
            raise ValueError(
                "reference_logps is sampler, and the sampler of a later round is not the initial reference; set "
                "reference to round, or reference_logps to forward"
            )
        if self.learning_rate_end > self.learning_rate:
            raise ValueError(f"learning_rate_end {self.learning_rate_end} is above learning_rate {self.learning_rate}")
        return self
