"""LoRA and QLoRA in SFT: what trains, in which types, and that the result is a whole model in full precision."""

from pathlib import Path
from typing import Any

import pytest
from conversations import conversations_of

from builders.settings.sft import SFTSettings
from training.sft.finetune import run_sft

DOCUMENTS: list[dict[str, str]] = [
    {"query": f"Please write report {i}.", "reference": f"<summary>River {i}.</summary>" + " Trade grew." * (i % 4)}
    for i in range(12)
]


def _settings(**values: Any) -> SFTSettings:
    start = {"steps": 3, "batch_size": 4, "learning_rate": 1e-2, "warmup_ratio": 0.0, "lora_rank": 4, "lora_alpha": 8}
    return SFTSettings.model_validate(start | values)


def _weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(folder / "model.safetensors"))


@pytest.fixture(scope="module")
def bf16_base(tmp_path_factory: pytest.TempPathFactory, causal_lm_dir: Path) -> Path:
    """The tiny model with a checkpoint in bfloat16, as models come from the Hub."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("models") / "bf16"
    AutoModelForCausalLM.from_pretrained(causal_lm_dir, dtype=torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(causal_lm_dir).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_the_result_is_the_base_plus_the_adapter(
    causal_lm_dir: Path, bf16_base: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Merged by hand: W + alpha / rank · B·A, in the type of the checkpoint; the 4-bit weights leave no trace."""
    import torch
    from safetensors.torch import load_file

    import training.tuning_model

    adapters = []
    whole_merge = training.tuning_model.merge

    def merge(base: Path | str, adapter: Path, output: Path) -> None:
        adapters.append(load_file(adapter / "adapter_model.safetensors"))
        whole_merge(base, adapter, output)

    monkeypatch.setattr(training.tuning_model, "merge", merge)
    for base, dtype in ((causal_lm_dir, torch.float32), (bf16_base, torch.bfloat16)):
        output = tmp_path / f"{method}-{dtype}"
        run_sft(base=base, output=output, conversations=conversations_of(DOCUMENTS), settings=_settings(method=method))
        before, after, adapter = _weights(base), _weights(output), adapters.pop()
        assert before.keys() == after.keys() and {value.dtype for value in after.values()} == {dtype}
        for name, weight in before.items():
            prefix = f"base_model.model.{name.removesuffix('.weight')}"
            expected = weight
            if f"{prefix}.lora_A.weight" in adapter:
                delta = 2.0 * adapter[f"{prefix}.lora_B.weight"] @ adapter[f"{prefix}.lora_A.weight"]
                assert delta.abs().max() > 0
                expected = (weight.float() + delta).to(dtype)
            # Two roundings of the checkpoint's type: of the product, and of the sum.
            error = 2 * torch.finfo(dtype).eps * max(1.0, weight.abs().max().item())
            torch.testing.assert_close(after[name], expected, rtol=0, atol=error)
    assert {path.name for path in tmp_path.iterdir()} == {f"{method}-torch.float32", f"{method}-torch.bfloat16"}


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_both_factors_of_the_adapter_move_at_the_papers_learning_rate(
    bf16_base: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """float32 under bf16: an update of 5e-6 is below the resolution of a bfloat16 of the size of lora_A's entries."""
    import torch

    from training.sft.trainer import WeightedSFTTrainer

    seen: dict[str, Any] = {}

    def train(self: Any, *args: Any, **kwargs: Any) -> Any:
        trained = {name: value for name, value in self.model.named_parameters() if value.requires_grad}
        starts = {name: value.detach().clone() for name, value in trained.items()}
        result = whole_train(self, *args, **kwargs)
        seen["dtypes"] = {value.dtype for value in trained.values()}
        seen["frozen"] = {value.dtype for value in self.model.parameters() if not value.requires_grad}
        for factor in ("lora_A", "lora_B"):
            moved = [(value != starts[name]).float().flatten() for name, value in trained.items() if factor in name]
            seen[factor] = torch.cat(moved).mean().item()
        return result

    whole_train = WeightedSFTTrainer.train
    monkeypatch.setattr(WeightedSFTTrainer, "train", train)
    options = _settings(method=method, precision="bf16", learning_rate=5e-6, steps=10)
    run_sft(base=bf16_base, output=tmp_path / "out", conversations=conversations_of(DOCUMENTS), settings=options)
    assert seen["dtypes"] == {torch.float32}
    assert seen["frozen"] == ({torch.bfloat16} if method == "lora" else {torch.bfloat16, torch.uint8})
    assert seen["lora_A"] > 0.99 and seen["lora_B"] > 0.99


def test_full_training_in_bf16_keeps_float32_weights(bf16_base: Path, tmp_path: Path) -> None:
    import torch

    base = _weights(bf16_base)
    for precision in ("bf16", "fp32"):
        options = _settings(precision=precision, learning_rate=1e-5)
        metrics = run_sft(
            base=bf16_base, output=tmp_path / precision, conversations=conversations_of(DOCUMENTS), settings=options
        )
        after = _weights(tmp_path / precision)
        assert {value.dtype for value in after.values()} == {torch.float32}
        moved = torch.cat([(value != base[name].float()).float().flatten() for name, value in after.items()])
        assert moved.mean() > 0.6  # of the embedding only the rows of the text's tokens move
        assert metrics["steps"] == 3


def test_only_the_named_modules_get_an_adapter(causal_lm_dir: Path, tmp_path: Path) -> None:
    options = _settings(method="lora", lora_targets=["q_proj"], gradient_checkpointing=True)
    run_sft(base=causal_lm_dir, output=tmp_path / "out", conversations=conversations_of(DOCUMENTS), settings=options)
    before, after = _weights(causal_lm_dir), _weights(tmp_path / "out")
    changed = {name for name in before if bool((before[name] != after[name]).any())}
    assert changed == {f"model.layers.{layer}.self_attn.q_proj.weight" for layer in (0, 1)}


def test_logits_are_scaled_as_the_model_scales_them(causal_lm_dir: Path, tmp_path: Path) -> None:
    """Gemma-2 caps its logits; the loss on a CPU must see the cap too."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma2Config, Gemma2ForCausalLM

    base = tmp_path / "gemma"
    tokenizer = AutoTokenizer.from_pretrained(causal_lm_dir)
    tokenizer.save_pretrained(base)
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=512,
        final_logit_softcapping=0.5,
        initializer_range=0.5,
        attn_implementation="eager",
    )
    model = Gemma2ForCausalLM(config)
    model.save_pretrained(base)
    document = {"query": "River?", "reference": "Trade grew."}
    options = _settings(steps=1, batch_size=1, attention="eager")
    metrics = run_sft(base=base, output=tmp_path / "out", conversations=conversations_of([document]), settings=options)
    start = tokenizer.apply_chat_template([{"role": "user", "content": "River?"}], add_generation_prompt=True,
                                          tokenize=False)  # fmt: skip
    prompt = len(tokenizer(start)["input_ids"])
    ids = torch.tensor([tokenizer(f"{start}Trade grew.<|im_end|>")["input_ids"]])
    model = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager").eval()
    with torch.no_grad():
        logits = model(ids).logits[0, prompt - 1 : -1]
    expected = torch.nn.functional.cross_entropy(logits, ids[0, prompt:]).item()
    assert metrics["loss"] == pytest.approx(expected, rel=1e-5)
