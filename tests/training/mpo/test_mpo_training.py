"""Preference optimisation as a training: its loss against a plain computation, whatever the batches; stock CPO."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.settings.mpo import MpoSettings
from scorers.errors import UserError
from training.mpo.train import run_mpo

PAIRS = [
    {
        "prompt": [{"role": "user", "content": f"Please edit report {i}."}],
        "chosen": [{"role": "assistant", "content": "The harbour grew." + " Trade doubled." * (i % 3)}],
        "rejected": [{"role": "assistant", "content": "The results fell within" + " a decade" * (1 + i % 2)}],
        "reward_chosen": 1.0 + 0.25 * i,
        "reward_rejected": -0.5,
    }
    for i in range(12)
]


def settings(**values: Any) -> MpoSettings:
    return MpoSettings(
        **{"steps": 1, "batch_size": 12, "learning_rate": 1e-3, "warmup_ratio": 0.0, "beta": 0.1} | values
    )


def log_probabilities(folder: Path, name: str) -> list[tuple[float, int]]:
    """log π of each pair's answer, summed over its tokens, and their number, one row at a time."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    found = []
    for pair in PAIRS:
        prompt: Any = pair["prompt"]
        answer: Any = pair[name]
        start = tokenizer(tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False))[
            "input_ids"
        ]
        rest = tokenizer(answer[0]["content"] + "<|im_end|>")["input_ids"]
        ids = torch.tensor([start + rest])
        with torch.no_grad():
            logps = model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
        found.append((logps[len(start) - 1 :].sum().item(), len(rest)))
    return found


@pytest.mark.parametrize("device_batch", [12, 4])
@pytest.mark.parametrize("kind", ["mean", "sum", "none"])
def test_the_loss_of_a_step_is_eq_2(causal_lm_dir: Path, tmp_path: Path, device_batch: int, kind: str) -> None:
    """Ten lines of plain Python over all twelve pairs, also where the step is cut into device batches."""
    import math

    own = settings(device_batch_size=device_batch, ce=kind, weight=0.7, gamma=0.5)
    metrics = run_mpo(base=causal_lm_dir, output=tmp_path / "out", preferences=PAIRS, settings=own)
    winners, losers = (log_probabilities(causal_lm_dir, name) for name in ("chosen", "rejected"))
    margin_loss = 0.0
    for pair, (w, _), (lo, _) in zip(PAIRS, winners, losers, strict=True):
        reward: Any = pair["reward_chosen"]
        z = own.beta * (w - lo - own.gamma * (reward + 0.5))
        margin_loss += math.log1p(math.exp(-z)) / len(PAIRS)
    total, tokens = sum(w for w, _ in winners), sum(n for _, n in winners)
    ce = {"mean": -total / tokens, "sum": -total / len(PAIRS), "none": 0.0}[kind]
    assert metrics["loss"] == pytest.approx(own.weight * margin_loss + ce, rel=1e-5)


def test_without_a_margin_a_step_is_one_of_stock_cpo(causal_lm_dir: Path, tmp_path: Path) -> None:
    """λ = 1 and γ = 0: the same loss and the same weights after two steps, to the rounding of AdamW's first steps."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    own = settings(steps=2, weight=1.0, gamma=0.0, optimizer="adamw_torch")
    ours = run_mpo(base=causal_lm_dir, output=tmp_path / "ours", preferences=PAIRS, settings=own)
    args = CPOConfig(
        output_dir=str(tmp_path / "cpo"),
        max_steps=2,
        per_device_train_batch_size=12,
        learning_rate=own.learning_rate,
        warmup_steps=0,
        lr_scheduler_type="cosine",
        optim="adamw_torch",
        beta=own.beta,
        cpo_alpha=1.0,
        max_length=512,
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        logging_steps=1,
        disable_tqdm=True,
        save_strategy="no",
    )
    rows = Dataset.from_list([{name: pair[name] for name in ("prompt", "chosen", "rejected")} for pair in PAIRS])
    trainer = CPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(causal_lm_dir),
        args=args,
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(causal_lm_dir),
    )
    theirs = trainer.train()
    assert ours["train_loss"] == pytest.approx(theirs.training_loss, abs=1e-5)
    mine = AutoModelForCausalLM.from_pretrained(tmp_path / "ours").state_dict()
    before = AutoModelForCausalLM.from_pretrained(causal_lm_dir).state_dict()
    moved = torch.cat([(trainer.model.state_dict()[n] - before[n]).flatten() for n in mine])
    apart = torch.cat([(trainer.model.state_dict()[n] - mine[n]).flatten() for n in mine])
    assert apart.norm() < 1e-2 * moved.norm()


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=4))
def test_the_collator_labels_answers_alone(shapes: list[tuple[int, int, int]]) -> None:
    from training.mpo.trainer import PairCollator

    rows = [
        {
            "chosen_ids": list(range(1, p + c + 1)),
            "rejected_ids": list(range(1, p + r + 1)),
            "prompt_length": p,
            "margin": 0.5,
        }
        for p, c, r in shapes
    ]
    batch = PairCollator(0)(rows)
    assert batch["input_ids"].shape[0] == 2 * len(rows) and batch["counted"].tolist() == [1.0] * len(rows)
    lengths = [(p, p + c) for p, c, _ in shapes] + [(p, p + r) for p, _, r in shapes]
    for labels, ids, (start, end) in zip(batch["labels"], batch["input_ids"], lengths, strict=True):
        assert labels[:start].tolist() == [-100] * start and labels[end:].eq(-100).all()
        assert labels[start:end].tolist() == ids[start:end].tolist()


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_an_adapter_is_merged_into_a_whole_model(causal_lm_dir: Path, tmp_path: Path, method: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    own = settings(method=method, lora_rank=4, lora_alpha=8, steps=2)
    run_mpo(base=causal_lm_dir, output=tmp_path / "out", preferences=PAIRS, settings=own)
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    before = AutoModelForCausalLM.from_pretrained(causal_lm_dir).state_dict()
    assert not (tmp_path / "out" / "adapter").exists() and after.keys() == before.keys()
    assert any(not torch.equal(after[name], before[name]) for name in after)


def test_what_cannot_be_trained_on(causal_lm_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^mpo: no preference to train on; `build --stage prefer` makes some"):
        run_mpo(base=causal_lm_dir, output=tmp_path / "out", preferences=[], settings=settings())
    with pytest.raises(UserError, match=r"^mpo: all 12 prompts have 4 tokens or more, .*raise mpo.max_length"):
        run_mpo(base=causal_lm_dir, output=tmp_path / "out", preferences=PAIRS, settings=settings(max_length=4))
    with pytest.raises(ValueError, match="weight 0 and ce none leave no loss"):
        settings(weight=0.0, ce="none")
