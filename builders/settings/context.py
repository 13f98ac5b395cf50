"""Settings of a model's context window, for the engines and for perplexity alike."""

from typing import Literal, Self

from pydantic import Field, model_validator

from builders.settings.base import Section


class ContextSettings(Section):
    """Tokens the model takes at once, and how a window above its own is reached (§3.6)."""

    method: Literal["none", "dynamic", "yarn", "extrapolation"] = Field(
        "none",
        description="above the model's own window: yarn or dynamic (NTK) rotary positions, or extrapolation, its own "
        "positions run on; within it the model stays as it is",
    )
    window: int | None = Field(
        None, ge=2, description="prompt and answer, or a text, in tokens, such as 32768; null: the model's own"
    )

    @model_validator(mode="after")
    def _says_how_far(self) -> Self:
        if self.method != "none" and self.window is None:
            raise ValueError(f"method {self.method} needs a window, the tokens to reach, such as 32768")
        return self
