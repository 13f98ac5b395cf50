"""Settings of the engines, by kind: how the model of one role (policy, teacher, judge, …) is run."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from builders.settings.base import EXECUTION, DType, Positive, Section


class LocalEngineSettings(Section):
    """Settings that all engines share which hold a model in this process."""

    device: Annotated[str, EXECUTION] = Field("auto", description="auto, cpu or cuda")
    dtype: DType = Field("auto", description="weights in memory; auto: bfloat16 on a GPU, float32 on a CPU")
    batch_size: Annotated[Positive, EXECUTION] = Field(64, description="rows decoded at once")
    context_window: int | None = Field(None, ge=2, description="a smaller window than the model's; null: the model's")
    yarn_factor: float | None = Field(None, gt=1, description="stretch the window by YaRN; null: as configured")


class TransformersEngineSettings(LocalEngineSettings):
    """A model run by transformers, on a CPU or one GPU."""

    kind: Literal["transformers"] = "transformers"


class VllmEngineSettings(LocalEngineSettings):
    """A model run by vLLM."""

    kind: Literal["vllm"] = "vllm"
    tensor_parallel: Annotated[Positive, EXECUTION] = Field(1, description="GPUs one model is spread over")


def _kind(value: Any) -> str | None:
    """Return the kind that a section names, `transformers` where it names none; None for a value that is no section.

    The value is a mapping when a configuration is read, and a section when one is made in Python.
    """
    return str(value.get("kind", "transformers")) if isinstance(value, dict) else getattr(value, "kind", None)


EngineSettings = Annotated[
    Annotated[TransformersEngineSettings, Tag("transformers")] | Annotated[VllmEngineSettings, Tag("vllm")],
    Discriminator(_kind),
]
