"""Sampling engines: one interface over transformers and vLLM.

Chat prompts, one seed per prompt and sampling settings go in; one completion per prompt comes out, in the order of the
prompts, with token ids, log-probability and finish reason. The random numbers of a prompt come from its own seed alone.
Importing this module loads neither torch nor vllm: `load_engine` imports the engine that is asked for.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from scorers.errors import UserError, did_you_mean

Message = dict[str, str]
"""One chat message: `{"role": ..., "content": ...}`."""

FinishReason = Literal["stop", "length"]
KINDS = ("transformers", "vllm")
POLICY = "engines.policy"
"""Path of an engine's section as messages name it, unless it is another role's."""
SEED_RANGE = 2**63
"""Seeds are taken modulo this, the range that both engines accept."""


@dataclass(frozen=True)
class SamplingSettings:
    """How to draw tokens: a penalty on what was there, the temperature, the k most probable tokens, then the nucleus.

    The log-probability of a completion is that of the model's own distribution, before all of these.

    Raises:
        UserError: for a value outside the ranges stated below.
    """

    max_new_tokens: int
    """Largest number of generated tokens, the end-of-sequence token included; at least 1."""
    temperature: float = 1.0
    """Divides the logits; 0 is greedy decoding."""
    top_p: float = 1.0
    """In (0, 1]: draw from the smallest set of most probable tokens whose probabilities sum to at least this (nucleus
    sampling, Holtzman et al., 2020)."""
    top_k: int | None = None
    """At least 1: draw from this many of the most probable tokens, equals of the last one included; None: from all."""
    presence_penalty: float = 0.0
    """In [-2, 2]: taken from the logits of tokens that the completion has already."""
    stop: tuple[str, ...] = ()
    """Texts that end a completion, which keeps the one that ended it; a server may leave it out."""
    pattern: str | None = None
    """A regular expression that a whole completion has to match, unless it is cut at `max_new_tokens`; None: anything.
    The engine transformers refuses it; of servers only vLLM's is sure to know it."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UserError(f"sampling: max_new_tokens is {self.max_new_tokens}; set it to at least 1")
        if not 0.0 <= self.temperature < float("inf"):
            raise UserError(f"sampling: temperature is {self.temperature}; set it to 0 (greedy) or a positive number")
        if not 0.0 < self.top_p <= 1.0:
            raise UserError(f"sampling: top_p is {self.top_p}; set it above 0 and to at most 1 (1 keeps every token)")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"sampling: top_k is {self.top_k}; set it to at least 1, or to null for every token")
        if not -2.0 <= self.presence_penalty <= 2.0:
            raise UserError(f"sampling: presence_penalty is {self.presence_penalty}; set it to a number from -2 to 2")
        if not all(self.stop):
            raise UserError("sampling: stop holds an empty text, which would end every completion; leave it out")
        if self.pattern is not None:
            try:
                re.compile(self.pattern)
            except re.error as error:
                raise UserError(
                    f"sampling: pattern {self.pattern!r} is no regular expression ({error}); correct it or leave it out"
                ) from None


@dataclass(frozen=True)
class Completion:
    """The completion of one prompt."""

    text: str
    """Decoded without special tokens."""
    finish_reason: FinishReason
    """"stop" when an end-of-sequence token was generated, else "length"."""
    num_tokens: int
    """Generated tokens, the end-of-sequence token included."""
    token_ids: list[int] | None = None
    """The generated ids; None where the engine does not tell them, as a server."""
    logprob: float | None = None
    """Sum of the tokens' log p under the model's full distribution at temperature 1, in nats; None where unknown."""


@dataclass(frozen=True)
class Batch:
    """Prompts that are asked together.

    Attributes:
        prompts: the chat messages of each prompt.
        seeds: one integer per prompt, taken modulo 2**63; greedy decoding ignores them.
        settings: how to draw tokens.
    """

    prompts: Sequence[Sequence[Message]]
    seeds: Sequence[int]
    settings: SamplingSettings


More = Callable[[], tuple[Any, Batch] | None]
"""Returns the next batch under a key of the caller's; None where there is none for now."""


class Windowed(Protocol):
    """What decides whether a prompt fits; every engine has it."""

    @property
    def context_window(self) -> int:
        """Largest number of prompt and generated tokens together."""

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer, one of transformers; None where a server has it."""


class Engine(Protocol):
    """The interface of every sampling engine."""

    context_window: int
    """Largest number of prompt and generated tokens together."""

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer, one of transformers."""

    def generate(
        self, prompts: Sequence[Sequence[Message]], seeds: Sequence[int], settings: SamplingSettings
    ) -> list[Completion]:
        """Generate one completion per prompt, in the order of the prompts.

        The same call on the same machine gives the same result.

        Args:
            prompts: the chat messages of each prompt.
            seeds: one integer per prompt, taken modulo 2**63; greedy decoding ignores them.
            settings: how to draw tokens.

        Raises:
            UserError: for a prompt that leaves no room in the context window, and for log-probabilities that are NaN or
                infinite; no completion is returned then.
            ValueError: where prompts and seeds differ in number.
        """

    def stream(self, more: More) -> Iterator[tuple[Any, list[Completion]]]:
        """Generate the completions of many batches, and yield each batch's under its key once all of them are there.

        An engine that fills its slots from one queue takes on batches as long as it has room, so that they are done in
        any order, and may round otherwise where other prompts run beside them. One whose results are to be equal bit
        for bit takes one batch after the other.

        Args:
            more: asked for the next batch while there is room. Once nothing is under way, None ends the stream.

        Raises:
            UserError: as `generate`.
        """

    def close(self) -> None:
        """Release the model's memory, on a GPU at least; the engine cannot be used afterwards."""


def ended_by(text: str, stop: Sequence[str]) -> str | None:
    """Return a text up to the end of the first stop text in it; None where it holds none.

    >>> ended_by("one</a> two</a>", ("</b>", "</a>"))
    'one</a>'
    """
    ends = [at + len(found) for found in stop if (at := text.find(found)) >= 0]
    return text[: min(ends)] if ends else None


def require_seeds(prompts: Sequence[Sequence[Message]], seeds: Sequence[int]) -> None:
    """Check that every prompt has a seed.

    Raises:
        ValueError: their numbers differ.
    """
    if len(prompts) != len(seeds):
        raise ValueError(f"{len(prompts)} prompts and {len(seeds)} seeds; one seed per prompt is needed")


def all_at_once(engine: Engine, batch: Batch) -> list[Completion]:
    """The `generate` of an engine whose `stream` does the work."""
    batches = iter([(None, batch)])
    [(_, completions)] = engine.stream(lambda: next(batches, None))
    return completions


def one_by_one(engine: Engine, more: More) -> Iterator[tuple[Any, list[Completion]]]:
    """The `stream` of an engine that takes one batch after the other, so that no batch's bits depend on others."""
    while (found := more()) is not None:
        key, batch = found
        yield key, engine.generate(batch.prompts, batch.seeds, batch.settings)


def load_engine(
    kind: str,
    model: str,
    *,
    revision: str | None = None,
    adapter: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    batch_size: int = 64,
    context_window: int | None = None,
    context_method: str = "none",
    chat_template: str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    tensor_parallel: int = 1,
    pipeline_parallel: int = 1,
    memory_share: float = 0.9,
    sleep: bool = False,
    adapter_rank: int | None = None,
    setting: str = POLICY,
) -> Engine:
    """Load an engine.

    Args:
        kind: one of `KINDS`.
        model: a folder, or a repository on the Hub.
        revision: branch, tag or commit on the Hub; None for the default branch.
        adapter: folder of a PEFT LoRA adapter; None for none.
        device: "auto", "cpu" or "cuda".
        dtype: "auto" (the checkpoint's), "float32", "bfloat16" or "float16".
        batch_size: largest number of rows decoded at the same time.
        context_window: tokens of prompt and completion together; None for the model's own window.
        context_method: how a window above the model's own is reached; see `scorers.context`.
        chat_template: text of a chat template in place of the tokenizer's; None for the tokenizer's.
        chat_template_kwargs: variables of the chat template, such as `enable_thinking`; None for none.
        tensor_parallel: GPUs over which the engine vllm spreads each layer.
        pipeline_parallel: GPUs to which it deals out the layers; tensor_parallel for each.
        memory_share: of each GPU's memory that it takes, for weights and KV cache, in (0, 1].
        sleep: whether the engine vllm keeps the model when it is closed, for the next engine of the same model.
        adapter_rank: rank of the adapters that this model will be loaded with while it is kept; None for none.
        setting: path of its section, for messages.

    Raises:
        UserError: for an unknown kind, an option out of range, or a model that cannot be loaded.
    """
    check_options(kind, device, dtype, batch_size)
    shared: dict[str, Any] = {
        "revision": revision, "adapter": adapter, "device": device, "dtype": dtype, "batch_size": batch_size,
        "context_window": context_window, "context_method": context_method, "chat_template": chat_template,
        "chat_template_kwargs": chat_template_kwargs, "setting": setting,
    }  # fmt: skip
    spread: dict[str, Any] = {"tensor_parallel": tensor_parallel, "pipeline_parallel": pipeline_parallel}
    if kind == "vllm":
        from builders.engines.vllm_engine import VllmEngine

        return VllmEngine(model, **shared, **spread, memory_share=memory_share, sleep=sleep, adapter_rank=adapter_rank)
    for name, gpus in spread.items():
        if gpus != 1:
            raise UserError(
                f"engine transformers: {name} is {gpus}, this engine runs on one device; set it to 1 or use the engine "
                "vllm"
            )
    from builders.engines.transformers_engine import TransformersEngine

    return TransformersEngine(model, **shared)


def check_options(kind: str, device: str, dtype: str, batch_size: int) -> None:
    """Check the options that all engines share.

    Raises:
        UserError: for a value outside what the engines take; the message suggests the closest one.
    """
    check_choice("engine", kind, KINDS)
    check_choice("engine device", device, ("auto", "cpu", "cuda"))
    check_choice("engine dtype", dtype, ("auto", "float32", "bfloat16", "float16"))
    if batch_size < 1:
        raise UserError(f"engine: batch_size is {batch_size}; set it to at least 1")


def check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    """Check that `value` is among `allowed`.

    Raises:
        UserError: naming the option, what is allowed and the closest match.
    """
    if value not in allowed:
        raise UserError(f"{name} {value!r} is unknown{did_you_mean(value, allowed)}; allowed are {', '.join(allowed)}")


def end_token_ids(tokenizer: Any, generation_eos: int | Sequence[int] | None) -> list[int]:
    """Return every id that ends a completion, ascending.

    Args:
        tokenizer: its end-of-sequence id is one of them.
        generation_eos: the ids of the model's generation settings. They are needed too: many chat models end a turn
            with another token than their tokenizer's end of sequence.
    """
    ids = (
        set() if generation_eos is None else {generation_eos} if isinstance(generation_eos, int) else {*generation_eos}
    )
    if tokenizer.eos_token_id is not None:
        ids.add(int(tokenizer.eos_token_id))
    return sorted(ids)


def not_finite(row: int) -> UserError:
    """Return the error of a row whose log-probabilities are NaN or infinite."""
    return UserError(
        f"row {row}: the model gave NaN or infinite logits; check the checkpoint and adapter (a diverged training "
        "run?), or load it with dtype float32"
    )
