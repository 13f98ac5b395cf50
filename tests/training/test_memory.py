"""Memory plans: parameters as the real models have them, bytes by hand, and a refusal before anything is loaded."""

import json
import os
import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conversations import conversations_of

import training.memory
from builders.settings.kto import TrainSettings
from builders.settings.sft import SFTSettings
from scorers.errors import UserError
from training.kto.rounds import train_round
from training.memory import GIB, Need, Zero, count_parameters, deepspeed_file, require_memory, training_need, zero_of
from training.sft.finetune import run_sft

# Qwen2.5-72B's shape.
BIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": 152064,
    "hidden_size": 8192,
    "intermediate_size": 29568,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "dtype": "bfloat16",
}
PARAMETERS = 72_706_203_648  # what the checkpoint on the Hub counts
HIDDEN, INNER, KEYS = 8192, 29568, 1024
LINEAR = 80 * (2 * HIDDEN * HIDDEN + 2 * HIDDEN * KEYS + 3 * HIDDEN * INNER)
ADAPTER = 80 * 64 * (2 * 2 * HIDDEN + 2 * (HIDDEN + KEYS) + 3 * (HIDDEN + INNER))
DOCUMENTS: list[dict[str, str]] = [{"query": "River?", "reference": "Trade."}]


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """A folder with the configuration of a model of 72 B parameters, and nothing else."""
    folder = tmp_path / "big"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(BIG))
    return folder


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets the variables with which torchrun says how many processes there are."""

    def start(number: int) -> None:
        monkeypatch.setenv("WORLD_SIZE", str(number))
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(number))

    return start


def _peak() -> int:
    """The most memory that this process ever had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_a_big_model_is_counted_without_being_made(big: Path) -> None:
    count_parameters(big, SFTSettings())  # imports transformers
    peak = _peak()
    sizes = count_parameters(big, SFTSettings(method="qlora"))
    assert _peak() - peak < GIB / 4  # its weights alone are 135 GiB
    assert (sizes.total, sizes.linear, sizes.adapter, sizes.stored) == (PARAMETERS, LINEAR, ADAPTER, 2)


def test_a_small_model_is_counted_as_it_loads(causal_lm_dir: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(causal_lm_dir)
    parameters = model.num_parameters()  # its embedding is its head too, and counts once
    for targets in ("all-linear", ("q_proj", "mlp.up_proj")):
        sizes = count_parameters(causal_lm_dir, TrainSettings(lora_rank=4, lora_targets=targets))
        names = targets if isinstance(targets, str) else list(targets)
        adapted = get_peft_model(
            AutoModelForCausalLM.from_pretrained(causal_lm_dir),
            LoraConfig(r=4, target_modules=names, task_type="CAUSAL_LM"),
        )
        assert (sizes.total, sizes.adapter) == (parameters, adapted.get_nb_trainable_parameters()[0])
    assert sizes.stored == 4


@pytest.mark.parametrize(
    ("method", "zero", "expected"),
    [
        ("full", Zero(), Need(16 * PARAMETERS)),
        ("full", Zero(2), Need((2 + 14 / 8) * PARAMETERS)),
        ("full", Zero(3), Need(16 / 8 * PARAMETERS)),
        ("full", Zero(3, "cpu"), Need(2 / 8 * PARAMETERS, 14 / 8 * PARAMETERS)),
        ("full", Zero(3, "cpu", "cpu"), Need(0, 16 / 8 * PARAMETERS)),
        ("full", Zero(3, "nvme", "nvme"), Need(0, 0)),
        ("lora", Zero(), Need(2 * PARAMETERS + 16 * ADAPTER)),
        ("lora", Zero(2), Need(2 * PARAMETERS + (2 + 14 / 8) * ADAPTER)),
        ("lora", Zero(3), Need((2 * PARAMETERS + 16 * ADAPTER) / 8)),
        ("qlora", Zero(), Need((0.5 + 33 / 2048) * LINEAR + 2 * (PARAMETERS - LINEAR) + 16 * ADAPTER)),
    ],
)
def test_bytes_of_one_of_eight_processes(big: Path, method: Any, zero: Zero, expected: Need) -> None:
    settings = SFTSettings(method=method)
    need = training_need(count_parameters(big, settings), settings, zero, 8, bf16=True)
    # NF4's scales: 1/64 byte, and 1/4096 byte for the scales of scales.
    slack = 1e-3 if method == "qlora" else 1e-9
    assert (need.device, need.host) == pytest.approx((expected.device, expected.host), rel=slack)


def test_optimizers_whose_states_are_small_or_may_leave_need_less(big: Path) -> None:
    for optimizer in ("paged_adamw_8bit", "adafactor"):
        settings = SFTSettings.model_validate({"optimizer": optimizer})
        assert training_need(count_parameters(big, settings), settings, Zero(), 1, bf16=False) == Need(8 * PARAMETERS)


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Callable[[float | None, float], None]:
    """Sets what the computer has: bytes of one GPU, None for no GPU, and free bytes of the CPU's memory."""

    def has(gpu: float | None, host: float) -> None:
        monkeypatch.setattr(training.memory, "_gpu_memory", lambda: gpu)
        monkeypatch.setattr(training.memory, "_free_memory", lambda: host)

    return has


def test_sft_that_cannot_fit_is_refused_before_its_weights_are_missed(
    big: Path,
    tmp_path: Path,
    processes: Callable[[int], None],
    node: Callable[[float | None, float], None],
) -> None:
    def start(**settings: Any) -> None:
        run_sft(
            base=big,
            output=tmp_path / "out",
            conversations=conversations_of(DOCUMENTS),
            settings=SFTSettings.model_validate({"precision": "bf16"} | settings),
        )

    for gpu, host, kind, size in ((80e9, 2e12, "GPU memory", "74.5"), (None, 64e9, "memory", "59.6")):
        node(gpu, host)
        refused = (
            f"sft.method=full with 73 B parameters needs at least 1,083.4 GiB of {kind} for one process, activations "
            f"not counted, and there are {size} GiB; set sft.method to lora or qlora; set sft.deepspeed and start "
            "several processes; or take a smaller model"
        )
        with pytest.raises(UserError, match=f"^{re.escape(refused)}$"):
            start()
    node(80e9, 2e12)
    with pytest.raises(UserError, match=r"148\.0 GiB .* one process, .*; set sft\.method to qlora; set"):
        start(method="lora")
    processes(8)
    with pytest.raises(UserError, match=r"253\.9 GiB .* each of 8 processes.*; start more processes, give .* stage 3"):
        start(deepspeed="zero2")
    with pytest.raises(UserError, match=r"135\.4 GiB .* each of 8 processes.*; start more processes; or take"):
        start(deepspeed="zero3")
    node(80e9, 1e12)
    with pytest.raises(UserError, match=r"118\.5 GiB of the CPU's memory for each of 8 processes.* are 116\.4 GiB"):
        start(deepspeed="zero3-offload")
    node(80e9, 100e9)
    with pytest.raises(UserError, match=r"135\.4 GiB of the CPU's memory to merge the adapter"):
        start(method="qlora", deepspeed="zero2")
    assert not (tmp_path / "out").exists()


def test_the_presets_trainings_fit_eight_gpus_and_two_terabytes(
    big: Path, processes: Callable[[int], None], node: Callable[[float | None, float], None]
) -> None:
    from training.pipelines import load_config

    processes(8)
    node(80e9, 2e12)
    config = load_config("paper-72b")
    for name in ("sft", "train"):
        settings = getattr(config, name)
        require_memory(name, settings, big)
        assert settings.batch_size % (8 * settings.device_batch_size) == 0


def test_memory_is_that_of_this_computer() -> None:
    from training.memory import _free_memory, _gpu_memory

    assert GIB / 16 < _free_memory() < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert (_gpu_memory() is None) is not torch_has_gpu()


def torch_has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def test_kto_that_cannot_fit_is_refused_too(
    big: Path, tmp_path: Path, node: Callable[[float | None, float], None]
) -> None:
    node(80e9, 2e12)
    rows = [
        {
            "prompt": [{"role": "user", "content": f"River {n}?"}],
            "completion": [{"role": "assistant", "content": "Trade."}],
            "label": bool(n % 2),
            "weight": 1.0,
        }
        for n in range(8)
    ]
    with pytest.raises(UserError, match=r"^train\.method=lora with 73 B parameters needs at least 148\.0 GiB"):
        train_round(
            policy=big,
            output_dir=tmp_path / "policy",
            run_dir=tmp_path / "run",
            dataset=pl.DataFrame(rows),
            settings=TrainSettings(precision="bf16"),
        )


def test_an_adapter_counts_with_the_model_it_names(
    big: Path, tmp_path: Path, node: Callable[[float | None, float], None]
) -> None:
    node(80e9, 2e12)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(big)}))
    with pytest.raises(UserError, match=r"train\.method=lora with 73 B parameters needs"):
        require_memory("train", TrainSettings(), adapter)
    # Of a base model in a store alone it names none.
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": None}))
    with pytest.raises(UserError, match="adapter: an adapter that names no base model; give the base model too"):
        require_memory("train", TrainSettings(), adapter)


def test_the_reference_counts_beside_the_policy(
    big: Path, causal_lm_dir: Path, node: Callable[[float | None, float], None]
) -> None:
    node(80e9, 2e12)
    settings = TrainSettings(method="full", precision="fp32")
    require_memory("train", settings, causal_lm_dir, causal_lm_dir)
    with pytest.raises(UserError, match=r"needs at least 270\.9 GiB"):  # float32
        require_memory("train", settings, causal_lm_dir, big)


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_a_tiny_model_fits_wherever_its_weights_do(
    causal_lm_dir: Path, method: Any, node: Callable[[float | None, float], None]
) -> None:
    def check() -> None:
        require_memory("sft", SFTSettings(method=method), causal_lm_dir)
        require_memory("train", TrainSettings(method=method), causal_lm_dir, causal_lm_dir)

    node(None, 1e9)
    check()
    node(None, 1e3)
    with pytest.raises(UserError, match="needs at least"):
        check()


def test_targets_that_name_no_layer(causal_lm_dir: Path) -> None:
    for targets, lost in ((["foo"], "foo"), (["q_proj", "foo", "proj"], "foo, proj"), ([], "an empty list")):
        settings = SFTSettings.model_validate({"method": "lora", "lora_targets": targets})
        with pytest.raises(
            UserError, match=rf"lora_targets: {lost} names no linear layer of .*; it has down_proj, gate_proj"
        ):
            require_memory("sft", settings, causal_lm_dir)


def test_deepspeed_files_by_name_and_by_path(tmp_path: Path) -> None:
    assert zero_of("sft", None) == Zero()
    assert (zero_of("sft", "zero2"), zero_of("sft", "zero3")) == (Zero(2), Zero(3))
    assert zero_of("sft", "zero3-offload") == Zero(3, "cpu")
    own = tmp_path / "own.json"
    own.write_text('{"zero_optimization": {"stage": 1, "offload_optimizer": {"device": "nvme"}}}')
    assert zero_of("sft", str(own)) == Zero(1, "nvme") and deepspeed_file("sft", str(own)) == str(own)
    with pytest.raises(UserError, match=r"sft\.deepspeed zero4 is neither one of zero2, zero3, zero3-offload nor a"):
        deepspeed_file("sft", "zero4")
    own.write_text("{")
    with pytest.raises(UserError, match=r"own\.json is not readable as JSON"):
        zero_of("sft", str(own))
    own.write_text("[]")
    with pytest.raises(UserError, match=r"own\.json has no object zero_optimization"):
        zero_of("sft", str(own))
