"""Supervised fine-tuning: token weights, the loss against an independent computation, messages of a user's mistakes."""

from pathlib import Path
from typing import Any

import pytest
from conversations import conversations_of
from hypothesis import given
from hypothesis import strategies as st

from builders.settings.sft import SFTSettings
from builders.store.manifest import TRAINING_LOG
from builders.store.training_log import read_log
from scorers.errors import UserError
from training.sft.finetune import run_sft, tokenize

DOCUMENTS: list[dict[str, str]] = [
    {"query": f"Please write report {i}.", "reference": f"<summary>River {i}.</summary>" + " Trade grew." * (i % 4)}
    for i in range(12)
]


def _settings(**values: Any) -> SFTSettings:
    return SFTSettings(**{"steps": 2, "batch_size": 4, "learning_rate": 1e-3, "warmup_ratio": 0.0} | values)


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def test_rows_are_prompt_and_completion(causal_lm_dir: Path) -> None:
    tokenizer = _tokenizer(causal_lm_dir)
    conversation = {
        "prompt": [{"role": "user", "content": "River?"}],
        "completion": [{"role": "assistant", "content": "Trade."}],
    }
    rows, truncated = tokenize(tokenizer, [conversation], 512)
    ids, length = rows[0]["input_ids"], rows[0]["prompt_length"]
    assert tokenizer.decode(ids[:length]) == "<|im_start|>user\nRiver?<|im_end|><|im_start|>assistant\n"
    assert tokenizer.decode(ids[length:]) == "Trade.<|im_end|>" and truncated == 0
    assert tokenize(tokenizer, [conversation], length + 1)[1] == 1


@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 6)), min_size=1, max_size=4), st.sampled_from([0.0, 0.1, 1.0])
)
def test_collator_weights(shapes: list[tuple[int, int]], weight: float) -> None:
    """Completion 1, prompt `weight`, padding 0; labels are ids exactly where the weight is not 0."""
    from training.sft.trainer import WeightedCollator

    rows = [{"input_ids": list(range(1, p + c + 1)), "prompt_length": p} for p, c in shapes]
    batch = WeightedCollator(0, weight)(rows)
    width = max(p + c for p, c in shapes)
    assert batch["input_ids"].shape == (len(rows), width)
    for i, (p, c) in enumerate(shapes):
        expected = [weight] * p + [1.0] * c + [0.0] * (width - p - c)
        assert batch["loss_weights"][i].tolist() == pytest.approx(expected)
        assert batch["attention_mask"][i].sum() == p + c
    counted = batch["loss_weights"] > 0
    assert bool((batch["labels"][counted] == batch["input_ids"][counted]).all())
    assert bool((batch["labels"][~counted] == -100).all())


@pytest.mark.parametrize("weight", [0.0, 0.25])
@pytest.mark.parametrize("device_batch", [12, 4])
def test_loss_equals_a_plain_computation(
    causal_lm_dir: Path, tmp_path: Path, weight: float, device_batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Σ w·nll / Σ w over the 12 rows, one by one, also when the step is cut into device batches."""
    import torch
    from transformers import AutoModelForCausalLM

    sft = _settings(steps=1, batch_size=12, device_batch_size=device_batch, prompt_loss_weight=weight)
    metrics = run_sft(
        base=causal_lm_dir, output=tmp_path / "out", conversations=conversations_of(DOCUMENTS), settings=sft
    )
    tokenizer, model = _tokenizer(causal_lm_dir), AutoModelForCausalLM.from_pretrained(causal_lm_dir)
    total = norm = 0.0
    for document in DOCUMENTS:
        prompt = [{"role": "user", "content": document["query"]}]
        start = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
        prompt_length = len(tokenizer(start)["input_ids"])
        ids = torch.tensor([tokenizer(f"{start}{document['reference']}<|im_end|>")["input_ids"]])
        with torch.no_grad():
            log_probs = model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
        weights = torch.tensor([weight if i < prompt_length else 1.0 for i in range(1, ids.shape[1])])
        total, norm = total - (log_probs * weights).sum().item(), norm + weights.sum().item()
    assert metrics["loss"] == pytest.approx(total / norm, rel=1e-5)


def test_direct_and_tiled_losses_agree(causal_lm_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import training.head

    sft = _settings(steps=3, prompt_loss_weight=0.1)
    direct = run_sft(base=causal_lm_dir, output=tmp_path / "a", conversations=conversations_of(DOCUMENTS), settings=sft)
    monkeypatch.setattr(training.head, "DIRECT_LOGITS", 0)
    tiled = run_sft(base=causal_lm_dir, output=tmp_path / "b", conversations=conversations_of(DOCUMENTS), settings=sft)
    assert direct["train_loss"] == pytest.approx(tiled["train_loss"], rel=1e-5)


def test_output_is_a_trained_model_and_reproducible(causal_lm_dir: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        run_sft(
            base=causal_lm_dir, output=tmp_path / name, conversations=conversations_of(DOCUMENTS), settings=_settings()
        )
    weights = (tmp_path / "a" / "model.safetensors").read_bytes()
    assert weights == (tmp_path / "b" / "model.safetensors").read_bytes()
    assert weights != (causal_lm_dir / "model.safetensors").read_bytes()
    assert _tokenizer(tmp_path / "a")("River")["input_ids"] == _tokenizer(causal_lm_dir)("River")["input_ids"]
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}
    assert (tmp_path / "a" / TRAINING_LOG).read_bytes() == (tmp_path / "b" / TRAINING_LOG).read_bytes()
    found = read_log(tmp_path / "a" / TRAINING_LOG)
    assert found["step"].to_list() == [1, 2] and found["round"].null_count() == 2
    assert found.select("loss", "grad_norm", "learning_rate").null_count().sum_horizontal()[0] == 0
    assert not (tmp_path / "a" / "training_args.bin").exists()


def test_epochs_count_every_row(causal_lm_dir: Path, tmp_path: Path) -> None:
    metrics = run_sft(
        base=causal_lm_dir,
        output=tmp_path / "out",
        conversations=conversations_of([*DOCUMENTS, {"query": "A", "reference": "B"}], system="Use tags."),
        settings=_settings(steps=None, epochs=2.0),
    )
    assert (metrics["rows"], metrics["steps"]) == (13, 8)


def test_no_rows_message(causal_lm_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^SFT has no rows; give at least one conversation$"):
        run_sft(base=causal_lm_dir, output=tmp_path / "out", conversations=[], settings=_settings())
    assert not (tmp_path / "out").exists()


def test_a_prompt_without_room_for_an_answer_is_skipped_and_counted(causal_lm_dir: Path, tmp_path: Path) -> None:
    long = {"query": "river " * 2000, "reference": "A"}
    rows = conversations_of([*DOCUMENTS, long])
    metrics = run_sft(base=causal_lm_dir, output=tmp_path / "out", conversations=rows, settings=_settings())
    assert (metrics["rows"], metrics["skipped"]) == (12, 1)
    with pytest.raises(UserError, match=r"^SFT has no rows: all 1 prompts have 512 tokens or more"):
        run_sft(base=causal_lm_dir, output=tmp_path / "x", conversations=conversations_of([long]), settings=_settings())


def test_batch_size_message(causal_lm_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"sft.batch_size 4 is not a multiple of sft.device_batch_size 3"):
        run_sft(
            base=causal_lm_dir,
            output=tmp_path / "out",
            conversations=conversations_of(DOCUMENTS),
            settings=_settings(device_batch_size=3),
        )


def test_infinite_loss_message(causal_lm_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the loss of sft is .* at step \d+"):
        run_sft(
            base=causal_lm_dir,
            output=tmp_path / "out",
            conversations=conversations_of(DOCUMENTS),
            settings=_settings(steps=20, learning_rate=1e30),
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"device_batch_size": 2},
            r"sft\.batch_size 8 is not a multiple of sft\.device_batch_size 2 times 3 processes",
        ),
        ({}, r"sft\.batch_size 8 is not a multiple of 3 processes; change one of them"),
    ],
)
def test_a_batch_that_processes_cannot_share(
    causal_lm_dir: Path, tmp_path: Path, options: dict[str, int], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    sft = _settings(batch_size=8, **options)
    with pytest.raises(UserError, match=message):
        run_sft(base=causal_lm_dir, output=tmp_path / "out", conversations=conversations_of(DOCUMENTS), settings=sft)


def test_what_deepspeed_cannot_do(causal_lm_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(**options: Any) -> None:
        run_sft(
            base=causal_lm_dir,
            output=tmp_path / "out",
            conversations=conversations_of(DOCUMENTS),
            settings=_settings(**options),
        )

    monkeypatch.setattr("training.memory.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"sft\.deepspeed zero2 needs .* pip install 'grace-data\[deepspeed\]'"):
        train(deepspeed="zero2")
    monkeypatch.setattr("training.memory.find_spec", lambda name: name)
    with pytest.raises(UserError, match=r"zero3 shards the weights \(stage 3\), which sft\.method=qlora cannot have"):
        train(deepspeed="zero3", method="qlora")
    with pytest.raises(UserError, match=r"sft\.deepspeed zero9 is neither one of zero2, zero3, zero3-offload"):
        train(deepspeed="zero9")


def test_variables_of_the_template_and_a_tokenizer_without_padding(causal_lm_dir: Path, tmp_path: Path) -> None:
    """A template that thinks unless told otherwise; the answer starts after its empty thoughts."""
    from transformers import AutoModelForCausalLM

    base = tmp_path / "thinking"
    AutoModelForCausalLM.from_pretrained(causal_lm_dir).save_pretrained(base)
    tokenizer = _tokenizer(causal_lm_dir)
    tokenizer.pad_token = None
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}<think></think>{% endif %}{{ m.content }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt and enable_thinking is false %}<think></think>{% endif %}"
    )
    tokenizer.save_pretrained(base)
    conversation = {
        "prompt": [{"role": "user", "content": "River?"}],
        "completion": [{"role": "assistant", "content": "Trade."}],
    }
    rows, _ = tokenize(tokenizer, [conversation], 512, {"enable_thinking": False})
    ids, length = rows[0]["input_ids"], rows[0]["prompt_length"]
    assert tokenizer.decode(ids[:length]) == "River?<|im_end|>\n<think></think>"
    assert tokenizer.decode(ids[length:]) == "Trade.<|im_end|>"
    sft = _settings(device_batch_size=2)
    off = {"enable_thinking": False}
    metrics = run_sft(
        base=base, output=tmp_path / "out", conversations=conversations_of(DOCUMENTS), settings=sft, template_kwargs=off
    )
    assert metrics["rows"] == 12
    with pytest.raises(UserError, match="renders an answered prompt otherwise"):
        run_sft(base=base, output=tmp_path / "out", conversations=conversations_of(DOCUMENTS), settings=sft)


def test_a_full_gpu_halves_the_batch_once(
    causal_lm_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import torch

    from training.sft.trainer import WeightedSFTTrainer

    sizes = []
    step = WeightedSFTTrainer.training_step

    def small(trainer: Any, model: Any, inputs: Any, *rest: Any) -> Any:
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError
        return step(trainer, model, inputs, *rest)

    monkeypatch.setattr(WeightedSFTTrainer, "training_step", small)
    rows = conversations_of(DOCUMENTS)
    metrics = run_sft(base=causal_lm_dir, output=tmp_path / "sft", conversations=rows, settings=_settings())
    assert sizes == [4, 2, 2, 2, 2] and metrics["steps"] == 2
    assert "ran out with sft.device_batch_size 4: once more with 2" in caplog.text
