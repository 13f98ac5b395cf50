"""Perplexity by vLLM: the numbers of `scorers.perplexity.Perplexity`, to float rounding, from its `prompt_logprobs`.

A window is a prompt, of which vLLM tells the log-probability of each token after those before it. It stands here and
not in `scorers`, since it loads vLLM as the engine does.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from builders.engines.kept_models import close_kept, open_llm
from builders.engines.loading import load_tokenizer_and_config, resolve_device
from builders.engines.vllm_engine import import_vllm
from scorers.context import stretch
from scorers.errors import UserError
from scorers.model_loading import check_all_weights
from scorers.perplexity import (
    CONTEXT,
    PROBE_TOKENS,
    Ids,
    Span,
    WindowedPerplexity,
    not_finite_logits,
    rope_depends_on_length,
)

SLOTS = 256  # windows that vLLM reads in turn; as many wait, so that its steps are full
# Tokens of one window in a step. Of these vLLM holds all logits, outside of its share of a GPU: 600 MB in float32 with
# a vocabulary of 152,000 words, and as much again for their logarithms.
PIECE = 1024

_open: "list[VllmPerplexity]" = []


class VllmPerplexity(WindowedPerplexity):
    """A causal language model that scores texts, run by vLLM; see `scorers.perplexity.Perplexity`.

    Args:
        model: a folder with a model and its tokenizer.
        device: cpu or cuda.
        dtype: of weights and activations: float32, bfloat16 or float16.
        window: tokens read at once, those before the text included; None: the model's own limit.
        method: how a window above the model's own is reached; see `scorers.context`.
        tokens_per_batch: tokens of one step, `SLOTS` at least.
        memory_share: of the GPU's memory, for weights, activations and KV cache together.

    Raises:
        UserError: vLLM is not installed or built for another device; the model cannot be loaded, lacks weights, has no
            known window, uses LongRoPE or computes NaN.
    """

    def __init__(
        self,
        model: Path,
        *,
        device: str,
        dtype: str,
        window: int | None = None,
        method: str = "none",
        tokens_per_batch: int = 16_384,
        memory_share: float = 0.3,
    ) -> None:
        device = resolve_device(device)
        self._name = str(model)
        tokenizer, config = load_tokenizer_and_config(self._name, None)
        require_fixed_rope(self._name, config)
        stretched = stretch(self._name, config, method, window, CONTEXT)
        super().__init__(self._name, tokenizer, stretched.window)
        check_all_weights(model)
        self._device = device
        self._numbers = itertools.count()  # of requests
        room = stretched.window + 1  # vLLM wants room for a token after the prompt, which nothing reads
        self._arguments: dict[str, Any] = {
            "model": self._name,
            "trust_remote_code": False,
            "skip_tokenizer_init": True,
            "dtype": dtype,
            # By the second entry vLLM lets a window be longer than `max_position_embeddings`.
            "hf_overrides": {**stretched.entries, "model_max_length": room},
            "max_model_len": room,
            "max_num_seqs": SLOTS,
            "max_num_batched_tokens": max(tokens_per_batch, SLOTS),
            "long_prefill_token_threshold": min(PIECE, room),
            # With it a score would depend on what was read before (vLLM issue 42019).
            "enable_prefix_caching": False,
            "gpu_memory_utilization": memory_share,
            "enforce_eager": device == "cpu",  # no CUDA graphs and no compilation
            "logprobs_mode": "raw_logprobs",
            "generation_config": "vllm",
            "seed": 0,
        }
        self._size = config.get_text_config().vocab_size
        self._llm: Any = None
        self._load()

    def _load(self) -> None:
        """Load the model and check that it computes finite numbers.

        Raises:
            UserError: it does not.
        """
        vllm = import_vllm(self._device)
        if self._device == "cpu":
            # A sampling engine's model that is kept would end with this one: they share this process.
            close_kept()
        self._llm = open_llm(vllm, self._arguments, "score")
        _open.append(self)
        probe = list(range(min(PROBE_TOKENS, self.window - len(self._prefix), self._size)))
        [(_, nll)] = self._read([probe], [Span(0, 0, 1, len(probe))])
        if not math.isfinite(nll):
            self.close()
            raise not_finite_logits(f"perplexity model {self._name!r}")

    def _read(self, encoded: Ids, todo: Sequence[Span]) -> Iterator[tuple[Span, float]]:
        """Keep vLLM's slots full of windows; see `WindowedPerplexity._read`."""
        from vllm import SamplingParams
        from vllm.inputs.engine import tokens_input
        from vllm.sampling_params import RequestOutputKind

        if self._llm is None:
            self._load()
        parameters = SamplingParams(
            max_tokens=1,  # the least
            temperature=0.0,
            prompt_logprobs=0,  # of the prompt's own tokens alone
            flat_logprobs=True,  # numbers in a list, no object per token
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        engine = self._llm.llm_engine
        waiting, running = iter(todo), dict[str, Span]()
        while True:
            for span in itertools.islice(waiting, 2 * SLOTS - len(running)):
                request = str(next(self._numbers))
                engine.add_request(request, tokens_input(self._window_ids(encoded, span)), parameters)
                running[request] = span
            if not running:
                return
            for output in engine.step():
                span = running.pop(output.request_id)
                # Of the prompt's first token there is none: the number at i is that of the token at i + 1.
                yield span, -math.fsum(output.prompt_logprobs.logprobs[self._first(span) - 1 :])

    def close(self) -> None:
        """Free the memory of this model and of all others of this class, which load anew when they are asked again.

        In one process vLLM's models share their process groups, which end with the first model that is shut down.
        """
        from vllm.distributed import cleanup_dist_env_and_memory

        closing = [scorer._llm for scorer in _open if scorer._llm is not None]
        for scorer in _open:
            scorer._llm = None
        _open.clear()
        for llm in closing:
            llm.llm_engine.engine_core.shutdown()
        if closing:
            cleanup_dist_env_and_memory()


def require_fixed_rope(model: str, config: Any) -> None:
    """Check that the angles of a model's positions do not depend on a text's length.

    Raises:
        UserError: they do: vLLM takes those of the window for every text, transformers those of each text's length.
    """
    if rope_depends_on_length(config.get_text_config()):
        raise UserError(
            f"model {model} uses LongRoPE, and score.engine vllm would read its short texts as if they were long; set "
            "score.engine to transformers or choose another model"
        )
