"""Which precision a training computes in."""

import pytest
import torch  # noqa: TID253

from scorers.errors import UserError
from training.precision import precision_arguments


def test_bf16_on_a_machine_without_an_accelerator_says_that_the_cpu_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.utils.is_torch_bf16_gpu_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert precision_arguments("bf16") == {"bf16": True, "use_cpu": True}
    assert precision_arguments("fp32") == {"bf16": False, "use_cpu": False}


def test_bf16_where_the_accelerator_lacks_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.utils.is_torch_bf16_gpu_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    with pytest.raises(UserError, match="machine's cuda cannot compute in bfloat16; set precision to fp32 or auto"):
        precision_arguments("bf16")


def test_auto_follows_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for bf16 in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda bf16=bf16: bf16)
        assert precision_arguments("auto") == {"bf16": bf16, "use_cpu": False}
