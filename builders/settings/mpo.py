"""Settings of margin-based preference optimisation (RationAlign, eq. 1c and 2)."""

from typing import Literal, Self

from pydantic import Field, model_validator

from builders.settings.sft import TuningSettings


class MpoSettings(TuningSettings):
    """Training `mpo`: margin-based preference optimisation (eq. 1c and 2)."""

    weight: float = Field(0.8, ge=0, description="λ, weight of the margin loss; 0: supervised on the chosen ones")
    beta: float = Field(0.01, gt=0, description="β")
    gamma: float = Field(1.0, ge=0, description="γ, weight of the reward margin; 0: none")
    ce: Literal["mean", "sum", "none"] = Field(
        "mean",
        description="cross-entropy of the chosen: mean over their tokens, as in the code the method was built on; sum: "
        "of each, as eq. 2 has it; none",
    )

    @model_validator(mode="after")
    def _has_a_loss(self) -> Self:
        if self.ce == "none" and not self.weight:
            raise ValueError("weight 0 and ce none leave no loss; set one of them otherwise")
        return self
