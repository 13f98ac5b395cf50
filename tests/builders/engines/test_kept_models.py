"""Which models of vLLM are kept, taken again and closed; the package itself is a stand-in here."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builders.engines import kept_models
from builders.engines.kept_models import close_kept, keep, load_kept
from scorers.errors import UserError

Said = list[tuple[str, Any]]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[Said]:
    """What happened to models, in order."""
    found: Said = []
    monkeypatch.setattr(kept_models, "shut_down", lambda model: found.append(("closed", model.llm.number)))
    yield found
    close_kept()


@pytest.fixture
def package(said: Said) -> Any:
    """A vLLM whose models only say what is done to them."""

    class LLM:
        def __init__(self, **arguments: Any) -> None:
            self.number = sum(what == "loaded" for what, _ in said)
            said.append(("loaded", arguments.get("max_lora_rank", 0)))

        def sleep(self, level: int) -> None:
            said.append(("asleep", level))

        def wake_up(self) -> None:
            said.append(("awake", self.number))

    return SimpleNamespace(LLM=LLM)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.safetensors").write_text("weights")
    return tmp_path


def test_a_kept_model_is_taken_again_with_any_adapter_it_has_room_for(package: Any, said: Said, folder: Path) -> None:
    first = load_kept(package, {"model": str(folder)}, 16, "engines.policy")
    keep(first)
    assert load_kept(package, {"model": str(folder)}, 16, "engines.policy") is first
    keep(first)
    assert load_kept(package, {"model": str(folder)}, 0, "engines.policy") is first
    assert said == [("loaded", 16)]


def test_a_model_in_use_is_nobody_elses(package: Any, said: Said, folder: Path) -> None:
    first = load_kept(package, {"model": str(folder)}, 0, "engines.policy")
    keep(first)
    load_kept(package, {"model": str(folder)}, 0, "engines.policy")
    assert load_kept(package, {"model": str(folder)}, 0, "engines.policy") is not first
    assert said == [("loaded", 0), ("loaded", 0)]


@pytest.mark.parametrize(("had", "needs"), [(0, 8), (8, 16)])
def test_without_room_for_the_adapter_it_is_loaded_anew(
    package: Any, said: Said, folder: Path, had: int, needs: int
) -> None:
    keep(load_kept(package, {"model": str(folder)}, had, "engines.policy"))
    load_kept(package, {"model": str(folder)}, needs, "engines.policy")
    assert said == [("loaded", had), ("closed", 0), ("loaded", needs)]


def test_other_options_are_another_model(package: Any, said: Said, folder: Path) -> None:
    keep(load_kept(package, {"model": str(folder), "dtype": "float32"}, 0, "engines.policy"))
    load_kept(package, {"model": str(folder), "dtype": "bfloat16"}, 0, "engines.policy")
    assert said == [("loaded", 0), ("closed", 0), ("loaded", 0)]


def test_other_files_at_the_same_place_are_another_model(package: Any, said: Said, folder: Path) -> None:
    keep(load_kept(package, {"model": str(folder)}, 0, "engines.policy"))
    (folder / "model.safetensors").write_text("further weights")
    load_kept(package, {"model": str(folder)}, 0, "engines.policy")
    assert said == [("loaded", 0), ("closed", 0), ("loaded", 0)]


def test_on_a_gpu_it_sleeps_between_two_engines(package: Any, said: Said, folder: Path) -> None:
    arguments = {"model": str(folder), "enable_sleep_mode": True}
    keep(load_kept(package, arguments, 8, "engines.policy"))
    load_kept(package, arguments, 8, "engines.policy")
    assert said == [("loaded", 8), ("asleep", 1), ("awake", 0)]


def test_one_model_is_kept_at_most(package: Any, said: Said, folder: Path) -> None:
    models = [load_kept(package, {"model": str(folder), "seed": seed}, 0, "engines.policy") for seed in (0, 1)]
    for model in models:
        keep(model)
    close_kept()
    close_kept()
    assert said == [("loaded", 0), ("loaded", 0), ("closed", 0), ("closed", 1)]


def test_a_model_that_cannot_sleep_is_closed_and_the_reason_told(
    package: Any, said: Said, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = load_kept(package, {"model": str(folder), "enable_sleep_mode": True}, 0, "engines.policy")

    def dead(level: int) -> None:
        raise RuntimeError("the engine died")

    model.llm.sleep = dead
    keep(model)
    assert said == [("loaded", 0), ("closed", 0)]
    (line,) = caplog.messages
    assert line == "engine vllm: the model cannot sleep (the engine died); it is closed and will be loaded again"
    load_kept(package, {"model": str(folder), "enable_sleep_mode": True}, 0, "engines.policy")
    assert said[-1] == ("loaded", 0)


def test_threads_can_be_set_beside_vllm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    before = torch.set_num_threads

    def llm(**arguments: Any) -> None:
        monkeypatch.setattr(torch, "set_num_threads", print)  # as vLLM's worker on a CPU does, in its way

    load_kept(SimpleNamespace(LLM=llm), {"model": str(folder)}, 0, "engines.policy")
    assert torch.set_num_threads is before


def test_a_model_that_vllm_cannot_load_is_one_line(folder: Path) -> None:
    def full(**arguments: Any) -> Any:
        raise ValueError("To serve at least one request, 2.0 GiB KV cache is needed,\nmore than 1.0 GiB")

    with pytest.raises(UserError) as told:
        load_kept(SimpleNamespace(LLM=full), {"model": str(folder)}, 0, "engines.teacher")
    said = str(told.value)
    assert said.startswith(f"engines.teacher: vLLM cannot load {folder} (To serve at least one request, 2.0 GiB KV")
    assert "(engines.teacher.context), raise engines.teacher.memory_share" in said and "\n" not in said
