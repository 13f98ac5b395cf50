"""The sampling engine that runs a causal LM by transformers, on a CPU or one GPU."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from builders.engines import (
    POLICY,
    SEED_RANGE,
    Completion,
    Message,
    More,
    SamplingSettings,
    end_token_ids,
    ended_by,
    one_by_one,
)
from builders.engines.loading import load_model, load_tokenizer_and_config, merge_adapter, resolve_device
from builders.engines.prompts import check_template_kwargs, encode_prompts
from scorers.context import stretch
from scorers.errors import UserError
from scorers.gpu_memory import BatchSize
from scorers.model_loading import check_attention_only


class TransformersEngine:
    """A causal LM, its tokenizer and its context window; see `load_engine` for the arguments."""

    def __init__(
        self,
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
        setting: str = POLICY,
    ) -> None:
        from builders.engines.forward import use_grouped_attention

        self._tokenizer, config = load_tokenizer_and_config(model, revision, chat_template)
        check_attention_only(config, model, "the engine transformers", "use the engine vllm or another model")
        self._template_kwargs = check_template_kwargs(self._tokenizer, chat_template_kwargs or {}, setting)
        self._setting = setting
        # Before the weights are loaded: the model computes its rotary frequencies when it is made.
        self.context_window, entries = stretch(model, config, context_method, context_window, f"{setting}.context")
        config.update(entries)
        self._model: Any = load_model(model, revision, config, resolve_device(device), dtype)
        if adapter is not None:
            # Merged, the adapter costs nothing per token.
            self._model = merge_adapter(self._model, adapter)
        use_grouped_attention(self._model)
        self._end_ids = end_token_ids(self._tokenizer, self._model.generation_config.eos_token_id)
        self._rows = BatchSize(batch_size, f"{setting}.batch_size")

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self._tokenizer

    def generate(
        self, prompts: Sequence[Sequence[Message]], seeds: Sequence[int], settings: SamplingSettings
    ) -> list[Completion]:
        """Generate one completion per prompt, in the order of the prompts; see `Engine.generate`."""
        from builders.engines.decoding import decode

        if settings.pattern is not None:
            raise UserError(
                "engine transformers: a pattern is given, and this engine cannot hold completions to one; use the "
                "engine vllm, or give none"
            )
        encoded = encode_prompts(
            self._tokenizer, prompts, seeds, settings.max_new_tokens, self.context_window, self._template_kwargs,
            self._setting,
        )  # fmt: skip
        # A text is at most as many tokens long as it has bytes, and its first one may begin before it.
        tail = max((len(text.encode()) for text in settings.stop), default=0) + 1

        def ends(ids: list[int]) -> bool:
            return ended_by(self._text(ids[-tail:]), settings.stop) is not None

        drawn = [int(seed) % SEED_RANGE for seed in seeds]
        rows = self._rows.fitting(
            lambda size: decode(
                self._model, encoded, drawn, settings, self._end_ids, size, ends if settings.stop else None
            )
        )
        return [
            Completion(self._whole(row.token_ids, settings), row.finish_reason, len(row.token_ids), row.token_ids,
                       row.logprob)
            for row in rows
        ]  # fmt: skip

    def _whole(self, token_ids: list[int], settings: SamplingSettings) -> str:
        """Return the text of a completion, which a stop text ends."""
        text = self._text(token_ids)
        return ended_by(text, settings.stop) or text

    def stream(self, more: More) -> Iterator[tuple[Any, list[Completion]]]:
        """Generate one batch after the other; see `Engine.stream`."""
        return one_by_one(self, more)

    def _text(self, token_ids: list[int]) -> str:
        """Return the text of generated ids, without special tokens."""
        text: str = self._tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def close(self) -> None:
        """Drop the model and return its memory on a GPU."""
        import torch

        self._model = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
