"""Settings of the engines, by kind: how the model of one role (policy, teacher, judge, …) is run."""

import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from builders.settings.base import EXECUTION, FORMER, LATER, PATH, PRIVATE, DType, Positive, Section, moved
from builders.settings.context import ContextSettings


def _scalars(values: dict[str, Any]) -> dict[str, Any]:
    """Check that every value is a text, a number, a truth value or null.

    Raises:
        ValueError: naming the first variable with another value.
    """
    for name, value in values.items():
        finite = math.isfinite(value) if isinstance(value, float) else isinstance(value, str | int | None)
        if not finite:
            raise ValueError(f"{name} is {value!r}; give a text, a number, true, false or null")
    return values


def _template_text(value: str | None) -> str | None:
    """Read the file of a chat template; a text with a tag of Jinja is a template itself, as a manifest has it.

    Raises:
        ValueError: there is no such file, or it is no text.
    """
    if value is None or "{%" in value or "{{" in value:
        return value
    path = Path(value)
    if not path.is_file():
        raise ValueError(f"there is no file {path.absolute()}; give a Jinja file")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error}); give a Jinja file") from None
    if "{%" not in text and "{{" not in text:
        raise ValueError(f"{path} holds no tag of Jinja ({{% or {{{{); give a chat template")
    # transformers saves a template with a model and reads it again without the line break that ends the file.
    return text.removesuffix("\n")


class LocalEngineSettings(Section):
    """Settings that all engines share which hold a model in this process."""

    device: Annotated[str, EXECUTION] = Field("auto", description="auto, cpu or cuda")
    dtype: DType = Field("auto", description="weights in memory; auto: bfloat16 on a GPU, float32 on a CPU")
    batch_size: Annotated[Positive, EXECUTION] = Field(64, description="rows decoded at once")
    context: Annotated[ContextSettings, LATER] = ContextSettings()
    context_window: Annotated[None, FORMER, moved("context: {window: N}")] = None
    yarn_factor: Annotated[None, FORMER, moved("context: {method: yarn, window: N}, N the tokens to reach")] = None
    chat_template: Annotated[str | None, PATH, AfterValidator(_template_text)] = Field(
        None,
        description="Jinja file in place of the tokenizer's chat template, in training too; its text counts, not its "
        "name; null: the tokenizer's",
    )
    chat_template_kwargs: Annotated[dict[str, Any], AfterValidator(_scalars)] = Field(
        {}, description="variables of the chat template, such as {enable_thinking: false}; the same in training"
    )

    def __hash__(self) -> int:
        """Hash the values as JSON: a mapping has no hash of its own, and loaded engines are kept by their settings."""
        return hash(self.model_dump_json())


class TransformersEngineSettings(LocalEngineSettings):
    """A model run by transformers, on a CPU or one GPU."""

    kind: Literal["transformers"] = "transformers"


class VllmEngineSettings(LocalEngineSettings):
    """A model run by vLLM."""

    kind: Literal["vllm"] = "vllm"
    batch_size: Annotated[Positive, EXECUTION] = Field(256, description="rows decoded at once")
    tensor_parallel: Annotated[Positive, EXECUTION] = Field(1, description="GPUs each layer is spread over")
    pipeline_parallel: Annotated[Positive, EXECUTION] = Field(1, description="GPUs the layers are dealt out to")
    memory_share: Annotated[float, EXECUTION] = Field(
        0.9, gt=0, le=1, description="of each GPU's memory, for weights and KV cache together"
    )
    sleep: Annotated[bool, EXECUTION] = Field(
        False,
        description="read the base model once for all rounds: between stages it sleeps in the host's memory, which "
        "needs the room (on a CPU it stays as it is), and takes each round's adapter; workers end before a training, "
        "and read it in every round",
    )


class OpenAIEngineSettings(Section):
    """A model that a server runs, by the interface of OpenAI's chat completions; the role's model is its name there.

    The key comes from the environment and is written nowhere.
    """

    kind: Literal["openai"] = "openai"
    base_url: Annotated[str | None, PRIVATE] = Field(
        None, description="address, such as http://localhost:8000/v1; null: OPENAI_BASE_URL, else OpenAI's"
    )
    serve: Annotated[str | None, PRIVATE] = Field(
        None,
        description="command that starts the server on this machine for as long as the run lasts, such as vllm serve "
        "Qwen/Qwen2.5-7B-Instruct --port {port}; {python} is this Python; null: it runs already",
    )
    key_variable: Annotated[str, PRIVATE, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] = Field(
        "OPENAI_API_KEY", description="name of the environment variable with the key; a local server needs none"
    )
    concurrency: Annotated[Positive, EXECUTION] = Field(64, description="requests under way at once")
    timeout: Annotated[float, EXECUTION] = Field(600.0, gt=0, description="seconds until a request is given up")
    retries: Annotated[int, EXECUTION] = Field(5, ge=0, le=100, description="further tries of a request that failed")
    logprobs: bool = Field(False, description="ask for log-probabilities; not every server gives them")
    context_window: int | None = Field(None, ge=2, description="the model's window; null: what the server says")
    chat_template: None = Field(None, description="the server has its own")
    chat_template_kwargs: Annotated[dict[str, Any], AfterValidator(_scalars)] = Field(
        {}, description="variables of the chat template, for servers that take them, as vLLM's does"
    )

    @model_validator(mode="after")
    def _one_server(self) -> Self:
        if self.serve is not None and self.base_url is not None:
            raise ValueError("serve starts a server of its own, and base_url names another; set one of them to null")
        if self.serve is not None and "{port}" not in self.serve:
            raise ValueError("serve has no {port}: name it where the command takes the port to listen on")
        return self

    def __hash__(self) -> int:
        """Hash the values as JSON, as `LocalEngineSettings` does."""
        return hash(self.model_dump_json())


def _kind(value: Any) -> str | None:
    """Return the kind that a section names, `transformers` where it names none; None for a value that is no section.

    The value is a mapping when a configuration is read, and a section when one is made in Python.
    """
    return str(value.get("kind", "transformers")) if isinstance(value, dict) else getattr(value, "kind", None)


EngineSettings = Annotated[
    Annotated[TransformersEngineSettings, Tag("transformers")]
    | Annotated[VllmEngineSettings, Tag("vllm")]
    | Annotated[OpenAIEngineSettings, Tag("openai")],
    Discriminator(_kind),
]
