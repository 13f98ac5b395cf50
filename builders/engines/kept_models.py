"""Models of vLLM that outlive the engine that asked for them, so that a base model is read from disk once.

In the semi-online loop the policies of all rounds are adapters of one base model, and between two of them others need
the GPU's memory: the scorers, the training. An engine that sleeps hands its model over here when it is closed, and the
next engine of the same base takes it back, with whatever adapter. On a GPU the model sleeps meanwhile: its weights lie
in the host's memory and its KV cache is gone. On a CPU, where nobody else needs the memory, it stays as it is.
"""

import gc
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scorers.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VllmModel:
    """A model that vLLM holds.

    Attributes:
        llm: vLLM's `LLM`.
        key: what it was loaded with; models with equal keys are the same but for the room of adapters.
        rank: adapters up to this rank have room; 0: none has.
    """

    llm: Any
    key: tuple[Any, ...]
    rank: int


_kept: VllmModel | None = None  # one at most: a process runs one model of vLLM at a time


def load_kept(vllm: Any, arguments: Mapping[str, Any], rank: int, setting: str) -> VllmModel:
    """Take the model that is kept where it is the one that is wanted and has room for the adapter, or load it.

    Another model that is kept is closed first.

    Args:
        vllm: the package.
        arguments: of `vllm.LLM`, LoRA's aside.
        rank: the rank for which adapters need room, one of vLLM's; 0 for no adapter.
        setting: path of the engine's section, for messages.

    Raises:
        UserError: as `open_llm`.
    """
    global _kept
    found, _kept = _kept, None
    key = (dict(arguments), _files(str(arguments["model"])))
    _free_gpu_memory()
    if found is not None and found.key == key and found.rank >= rank:
        if _sleeps(found):
            found.llm.wake_up()
        return found
    if found is not None:
        shut_down(found)
    room = {"enable_lora": True, "max_lora_rank": rank, "max_loras": 1} if rank else {}
    return VllmModel(open_llm(vllm, {**arguments, **room}, setting), key, rank)


def open_llm(vllm: Any, arguments: Mapping[str, Any], setting: str) -> Any:
    """Load a model by vLLM.

    Args:
        vllm: the package.
        arguments: of `vllm.LLM`.
        setting: path of the section that asks for it, for messages.

    Raises:
        UserError: vLLM cannot load the model: it does not know it, or weights and one window do not fit the memory.
    """
    import torch

    set_num_threads = torch.set_num_threads
    try:
        return vllm.LLM(**arguments)
    except (ValueError, RuntimeError) as error:  # PyTorch's error of a full GPU is a RuntimeError
        # Its validation begins with how many faults there are and ends with what was given; the fault itself is a line.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        said = next((line for line in lines if "error" in line.lower()), lines[0])
        raise UserError(
            f"{setting}: vLLM cannot load {arguments['model']} ({said}); if memory is short, lower the window "
            f"({setting}.context), raise {setting}.memory_share, or spread the model over more GPUs; on a CPU the "
            "environment variable VLLM_CPU_KVCACHE_SPACE has the GiB for keys and values"
        ) from error
    finally:
        # On a CPU vLLM makes this function do nothing, for everybody and for good; bits depend on it in training.
        torch.set_num_threads = set_num_threads


def keep(model: VllmModel) -> None:
    """Keep a model for the next engine that wants it; on a GPU it sleeps until then."""
    global _kept
    close_kept()
    if _sleeps(model):
        try:
            model.llm.sleep(level=1)  # 1: the weights to the host's memory
        except Exception as error:  # such as an engine that died, whose own error is on its way
            log.warning("engine vllm: the model cannot sleep (%s); it is closed and will be loaded again", error)
            shut_down(model)
            return
    _kept = model


def close_kept() -> None:
    """Close the model that is kept, if there is one, and free its memory."""
    global _kept
    found, _kept = _kept, None
    if found is not None:
        shut_down(found)


def shut_down(model: VllmModel) -> None:
    """Shut vLLM down and free its memory and process group, so that another model can be loaded."""
    from vllm.distributed import cleanup_dist_env_and_memory

    model.llm.llm_engine.engine_core.shutdown()
    cleanup_dist_env_and_memory()


def _sleeps(model: VllmModel) -> bool:
    """Whether a model was loaded so that it can sleep, which takes a GPU."""
    return bool(model.key[0].get("enable_sleep_mode"))


def _files(model: str) -> tuple[Any, ...]:
    """Return names, sizes and times of a folder's files: another model may come to lie at the same place."""
    files = ((path.name, path.stat()) for path in sorted(Path(model).glob("*")))
    return tuple((name, found.st_size, found.st_mtime_ns) for name, found in files)


def _free_gpu_memory() -> None:
    """Give back what PyTorch still holds of models that are gone: vLLM needs the GPU's memory for itself."""
    import torch

    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()
