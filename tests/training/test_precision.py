"""Which precision a training computes in."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch  # noqa: TID253

from scorers.errors import UserError
from training.precision import deepspeed_arguments, precision_arguments

BF16 = {"bf16": True, "use_cpu": False}


def test_bf16_on_a_machine_without_an_accelerator_says_that_the_cpu_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.utils.is_torch_bf16_gpu_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert precision_arguments("bf16") == {"bf16": True, "use_cpu": True}
    # Without it the processes that torchrun starts would each train alone.
    assert precision_arguments("fp32") == {"bf16": False, "use_cpu": True}
    assert precision_arguments("auto") == {"bf16": False, "use_cpu": True}


def test_bf16_where_the_accelerator_lacks_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.utils.is_torch_bf16_gpu_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    with pytest.raises(UserError, match="machine's cuda cannot compute in bfloat16; set precision to fp32 or auto"):
        precision_arguments("bf16")


def test_auto_follows_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    for bf16 in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda bf16=bf16: bf16)
        assert precision_arguments("auto") == {"bf16": bf16, "use_cpu": False}


def zero(folder: Path, **changes: Any) -> tuple[Path, dict[str, Any]]:
    config = {"zero_optimization": {"stage": 2}, "bf16": {"enabled": "auto"}} | changes
    path = folder / "zero.json"
    path.write_text(json.dumps(config))
    return path, config


def test_an_adapter_under_deepspeed_stays_float32(tmp_path: Path) -> None:
    """The engine's bf16 would turn its parameters into bfloat16; its autocast does not."""
    path, config = zero(tmp_path)
    autocast = config | {"torch_autocast": {"enabled": True, "dtype": "bfloat16"}}
    assert deepspeed_arguments(path, BF16, adapter=True) == {"deepspeed": autocast, "bf16": False, "use_cpu": False}
    assert deepspeed_arguments(path, BF16, adapter=False) == {"deepspeed": config, **BF16}
    fp32 = {"bf16": False, "use_cpu": False}
    assert deepspeed_arguments(path, fp32, adapter=True) == {"deepspeed": config, **fp32}
    assert deepspeed_arguments(None, BF16, adapter=True) == {"deepspeed": None, **BF16}


@pytest.mark.parametrize("changes", [{"bf16": {"enabled": True}}, {"zero_optimization": {"stage": 3}}])
def test_what_a_deepspeed_file_says_itself_stands(changes: Any, tmp_path: Path) -> None:
    path, config = zero(tmp_path, **changes)
    assert deepspeed_arguments(path, BF16, adapter=True) == {"deepspeed": config, **BF16}


def test_deepspeed_in_several_processes_needs_accelerators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ended in DeepSpeed's assertion about batch sizes."""
    path, config = zero(tmp_path)
    cpu = {"bf16": False, "use_cpu": True}
    for processes, options in (("1", cpu), ("2", cpu | {"use_cpu": False})):
        monkeypatch.setenv("WORLD_SIZE", processes)
        assert deepspeed_arguments(path, options, adapter=True)["deepspeed"] == config
    with pytest.raises(
        UserError, match=r"train\.deepspeed in several processes needs an accelerator in each, and this"
    ):
        deepspeed_arguments(path, cpu, adapter=True, section="train")


def test_deepspeed_is_not_left_out_on_a_cpu(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not go with deepspeed; set precision to fp32 or deepspeed to null"):
        deepspeed_arguments(zero(tmp_path)[0], {"bf16": True, "use_cpu": True}, adapter=True)
