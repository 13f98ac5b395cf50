"""What is not there is told before anything is built: one line with the setting, what was found and the way out."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from real_configs import config_on

from builders.settings.kto import TrainSettings
from builders.settings.sft import SFTSettings
from builders.store.store import Store
from scorers.errors import UserError
from training.pipelines import build, evaluate_policies
from training.ready import require_training

TAGGED = "<summary>S.</summary><outline>O.</outline><answer>A.</answer>"
NO_GPU = "and PyTorch finds no GPU on this machine; set it to cpu or auto"
# One line for each setting of engines, scorers, SFT and KTO that asks for what may be missing.
CASES = [
    ("generate", ["engines.policy.device=cuda"], f"engines.policy.device is 'cuda', {NO_GPU}"),
    ("sample", ["engines.policy.device=gpu"], "engines.policy.device is 'gpu'; set it to auto, cpu or cuda"),
    ("score", ["score.device=cuda"], f"score.device is 'cuda', {NO_GPU}"),
    ("score", ["score.device=cuda:1"], f"score.device is 'cuda:1', {NO_GPU}"),
    ("score", ["score.dtype=float16"], "score.dtype float16 needs a GPU, and the device is cpu; set score.dtype to"),
    ("score", ["models.relevance=POLICY"], "lacks colbert_linear.pt and sparse_linear.pt; BGE-M3 needs both heads"),
    (
        "sample",
        ["engines.policy.context.window=4096"],
        "allow 512 tokens; set it to at most 512, or engines.policy.context.method to yarn or dynamic",
    ),
    (
        "score",
        ["score.context.window=4096", "models.general=POLICY"],
        "score.context.window is 4096, and the rope settings of model",
    ),
    (
        "sample",
        ["engines.policy.chat_template_kwargs.enable_thinking=false"],
        "chat_template_kwargs: enable_thinking is no variable of the chat template of",
    ),
    (
        "sft",
        ["sft.attention=flash_attention_2"],
        "sft.attention flash_attention_2 needs the package flash-attn and a GPU that it supports, which are not here; "
        "install it, or set sft.attention to sdpa",
    ),
    (
        "policy",
        ["train.report_to=[trackio]"],
        "train.report_to=trackio needs the package trackio, which is not installed",
    ),
    ("sft", ["sft.report_to=[trackio]"], "sft.report_to=trackio needs the package trackio, which is not installed"),
    ("policy", ["train.attention=flash_attention_2"], "train.attention flash_attention_2 needs the package flash-attn"),
    ("sft", ["sft.deepspeed=zero9"], "sft.deepspeed zero9 is neither one of zero2, zero3, zero3-offload nor a file"),
    (
        "sft",
        ["sft={method: lora, lora_targets: [q_proj, foo]}"],
        "sft.lora_targets: foo names no linear layer of",
    ),
    (
        "policy",
        ["train={method: lora, lora_targets: [c_attn], batch_size: 8, device_batch_size: 8}"],
        "train.lora_targets: c_attn names no linear layer of",
    ),
]


@pytest.mark.parametrize(("stage", "overrides", "message"), CASES)
def test_it_is_told_before_anything_is_built(
    tmp_path: Path,
    causal_lm_dir: Path,
    bge_m3_dir: Path,
    stage: str,
    overrides: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    hide("trackio", monkeypatch)
    # The first policy is to be made by SFT, so that no stage below has its model yet.
    policy = "models.policy=POLICY" if stage == "generate" else "models.policy=sft"
    options = [option.replace("POLICY", str(causal_lm_dir)) for option in (policy, *overrides)]
    config = config_on(tmp_path, *options, policy=causal_lm_dir, relevance=bge_m3_dir)
    with pytest.raises(UserError) as error:
        build(config, stage)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not list(Store(Path(config.store)).root.rglob("manifest.json"))


@pytest.mark.slow
def test_what_is_fresh_needs_no_machine(tmp_path: Path, causal_lm_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that was made where DeepSpeed is, is kept, published and read where it is not."""
    source = tmp_path / "tagged.jsonl"
    source.write_text(json.dumps({"query": "Q", "reference": TAGGED}))
    options = [f"seed.source={source}", "seed.columns={query: query, reference: reference}"]
    made = config_on(tmp_path, *options, "sft={steps: 1, batch_size: 1}", policy=causal_lm_dir)
    build(made, "sft")
    hide("deepspeed", monkeypatch)
    there = config_on(tmp_path, *options, "sft={steps: 1, batch_size: 1, deepspeed: zero2}", policy=causal_lm_dir)
    assert not build(there, "sft")[-1].built
    with pytest.raises(UserError, match=r"sft\.deepspeed zero2 needs the package deepspeed"):
        build(there, "sft", force=True)


@pytest.mark.parametrize(
    ("package", "options", "message"),
    [
        ("peft", {"method": "lora"}, r"^sft\.method=lora needs the package peft, .* pip install 'grace-data\[train\]'"),
        ("bitsandbytes", {"method": "qlora"}, r"^sft\.method=qlora needs the package bitsandbytes"),
        ("bitsandbytes", {"optimizer": "paged_adamw_8bit"}, r"^sft\.optimizer=paged_adamw_8bit needs the package bits"),
    ],
)  # fmt: skip
def test_packages(package: str, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hide(package, monkeypatch)
    with pytest.raises(UserError, match=message):
        require_training("sft", SFTSettings(**options), None)


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_a_tracker_that_is_not_installed_is_told_before_the_training(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(name, monkeypatch)
    with pytest.raises(UserError) as error:
        require_training("sft", SFTSettings.model_validate({"report_to": [name]}), None)
    way_out = {
        "tensorboard": "pip install 'grace-data[tensorboard]'",
        "trackio": "pip install trackio",
        "wandb": "pip install wandb, then wandb login",
    }[name]
    assert str(error.value) == (
        f"sft.report_to={name} needs the package {name}, which is not installed; {way_out}; or leave it out of "
        "sft.report_to"
    )
    require_training("sft", SFTSettings(), None)  # by default none is needed


def hide(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a package look as if it were not installed."""
    found = importlib.util.find_spec
    monkeypatch.setattr("builders.core.machine.find_spec", lambda name: None if name == package else found(name))
    monkeypatch.setattr("training.memory.find_spec", lambda name: None if name == package else object())


def test_deepspeed_its_package_and_what_it_does_not_go_with(monkeypatch: pytest.MonkeyPatch) -> None:
    hide("deepspeed", monkeypatch)
    with pytest.raises(UserError, match=r"^train\.deepspeed zero2 needs the package deepspeed"):
        require_training("train", TrainSettings(deepspeed="zero2"), None)
    hide("nothing", monkeypatch)
    with pytest.raises(
        UserError, match=r"^sft\.deepspeed zero3 shards the weights \(stage 3\), which sft\.method=qlora"
    ):
        require_training("sft", SFTSettings(deepspeed="zero3", method="qlora", precision="fp32"), None)
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    with pytest.raises(UserError, match=r"^train\.precision bf16 on a machine without .* set train\.precision to fp32"):
        require_training("train", TrainSettings(deepspeed="zero2", precision="bf16"), None)


def test_number_formats_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.utils.is_flash_attn_2_available", lambda: True)
    with pytest.raises(
        UserError, match=r"^train\.attention flash_attention_2 computes in bfloat16 alone, .* set preci"
    ):
        require_training("train", TrainSettings(attention="flash_attention_2", precision="fp32"), None)
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda: "cuda")
    monkeypatch.setattr("transformers.utils.is_torch_bf16_gpu_available", lambda: False)
    with pytest.raises(UserError, match=r"^sft\.precision is bf16, but this machine's cuda cannot compute in bfloat16"):
        require_training("sft", SFTSettings(precision="bf16"), None)


@pytest.mark.parametrize(
    ("overrides", "hidden", "message"),
    [
        ([], "vllm", "score.engine=vllm needs the package vllm, which is not installed; install vllm for a GPU or"),
        (["score.device=cuda"], None, "score.engine=vllm: the device is cuda, the installed vLLM is built for cpu"),
        (
            ["score.device=cuda:1"],
            None,
            "score.device is 'cuda:1', and score.engine vllm takes the first GPU that it sees; set score.device to "
            "cuda and CUDA_VISIBLE_DEVICES to the number, or score.engine to transformers",
        ),
        (
            ["models.general=LONGROPE"],
            None,
            "uses LongRoPE, and score.engine vllm would read its short texts as if they were long; set score.engine to "
            "transformers or choose another model",
        ),
    ],
)
def test_what_vllm_needs_for_perplexity_is_told_before_anything_is_built(
    tmp_path: Path,
    causal_lm_dir: Path,
    bge_m3_dir: Path,
    overrides: list[str],
    hidden: str | None,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from transformers import Phi3Config

    monkeypatch.setattr("torch.cuda.is_available", lambda: "cuda" in str(overrides))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("builders.core.machine._vllm_device", lambda: "cpu")
    monkeypatch.setattr("builders.core.machine.find_spec", lambda name: None if name == hidden else object())
    folder = tmp_path / "longrope"
    shutil.copytree(causal_lm_dir, folder)
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    Phi3Config(
        hidden_size=32, num_attention_heads=4, max_position_embeddings=512, original_max_position_embeddings=64,
        rope_parameters={"rope_type": "longrope", "rope_theta": 10_000.0, **factors},
        pad_token_id=0, bos_token_id=None, eos_token_id=2,
    ).save_pretrained(folder)  # fmt: skip
    options = [option.replace("LONGROPE", str(folder)) for option in ("score.engine=vllm", *overrides)]
    config = config_on(tmp_path, *options, policy=causal_lm_dir, relevance=bge_m3_dir)
    with pytest.raises(UserError) as error:
        build(config, "score")
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not list(Path(config.store).rglob("manifest.json"))


def test_an_evaluation_tells_it_too(tmp_path: Path, causal_lm_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for setting in ("engines.policy.device", "score.device"):
        config = config_on(tmp_path, f"{setting}=cuda", policy=causal_lm_dir)
        with pytest.raises(UserError, match=rf"^{setting} is 'cuda', {NO_GPU}"):
            evaluate_policies(config, [], tmp_path / "out")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("stage", ["sft", "policy"])
def test_a_training_that_cannot_fit_is_told_before_any_data_is_made(
    tmp_path: Path, causal_lm_dir: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    import training.memory

    monkeypatch.setattr(training.memory, "_gpu_memory", lambda: None)
    monkeypatch.setattr(training.memory, "_free_memory", lambda: 100_000)
    config = config_on(tmp_path, policy=causal_lm_dir)
    section = "sft" if stage == "sft" else "train"
    with pytest.raises(UserError, match=rf"^{section}\.method=full with .* parameters needs at least .* of memory"):
        build(config, stage)
    assert not list(Path(config.store).rglob("*.parquet"))


def test_how_many_processes_train_together(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = TrainSettings(batch_size=16, device_batch_size=8)
    require_training("train", settings, None, nproc=2)
    with pytest.raises(
        UserError, match=r"^train\.batch_size 16 is not a multiple of train\.device_batch_size 16 times 2 processes; ch"
    ):
        require_training("train", TrainSettings(batch_size=16, device_batch_size=16), None, nproc=2)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    with pytest.raises(UserError, match=r"^nproc is 4, and this machine has no GPU and 2 cores; set it to 2 at most$"):
        require_training("train", settings, None, nproc=4)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(UserError, match=r"^nproc is 4, one GPU per process, and this machine has 2; set it to 2 at mo"):
        require_training("train", settings, None, nproc=4)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"^nproc is 2, and torchrun has started 2 processes already; set nproc to 1$"):
        require_training("train", settings, None, nproc=2)
