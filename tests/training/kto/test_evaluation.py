"""Evaluation: its loss against a direct computation, and that nothing but the data decides it."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forks import together
from kto_trainers import COMMON

from scorers.errors import UserError

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
WORDS = ["river", "trade", "harbour", "grew", "prices", "fell", "decade", "report"]


def weighted_rows(rows: Any, seed: int = 0, ids: Any = True, every: Any = 3) -> Any:
    """Rows of two a query, of unequal lengths and weights; one in `every` is positive."""
    from datasets import Dataset

    generator = np.random.default_rng(seed)
    columns = {
        "prompt": [[{"role": "user", "content": f"Please write report {i // 2}"}] for i in range(rows)],
        "completion": [
            [{"role": "assistant", "content": " ".join(generator.choice(WORDS, 5 + 2 * (i % 4)))}] for i in range(rows)
        ],
        "label": [i % every == 0 for i in range(rows)],
        "weight": [float(w) if i % every == 0 else -float(w) for i, w in enumerate(generator.uniform(0.2, 2, rows))],
    }
    if ids:
        columns |= {"query_id": [f"q{i // 2}" for i in range(rows)]}
    return Dataset.from_dict(columns)


def config(folder: Path, **options: Any) -> Any:
    from training.kto.trainer import GraceKTOConfig

    settings: dict[str, Any] = COMMON | {
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "learning_rate": 5e-3,
        "learning_rate_end": 5e-3,
        "mu": 0.3,
    }
    return GraceKTOConfig(str(folder), **(settings | options))


@pytest.fixture
def make_trainer(causal_lm_dir: Path, tmp_path: Path) -> Any:
    def make(evaluation: Any, eval_batch: Any = 4, rows: Any = None, arguments: Any = None, **options: Any) -> Any:
        from training.kto.trainer import GraceKTOTrainer

        args = config(tmp_path / "ours", per_device_eval_batch_size=eval_batch, **options)
        rows = weighted_rows(16) if rows is None else rows
        return GraceKTOTrainer(str(causal_lm_dir), args, rows, eval_dataset=evaluation, **(arguments or {}))

    return make


def lora() -> Any:
    from peft import LoraConfig

    return LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")


def logged(trainer: Any, name: str) -> Any:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def completion_logps(model: Any, prompts: Any, completions: Any) -> Any:
    """Per token log-probabilities of each completion, one row at a time, from the full logits."""
    import torch

    result = []
    for prompt, completion in zip(prompts, completions, strict=True):
        with torch.no_grad():
            logps = torch.log_softmax(model(torch.tensor([prompt + completion])).logits[0].double(), -1)
        result.append([logps[len(prompt) + t - 1, token].item() for t, token in enumerate(completion)])
    return result


@pytest.mark.parametrize("kl", ["none", "matched", "mismatched"])
def test_one_batch_equals_a_direct_computation(kl: Any, make_trainer: Any, causal_lm_dir: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from training.kto.loss import grace_kto_loss

    # Training on positives alone makes such texts likelier than under the reference, so that z_ref is above 0.
    lambdas = {"lambda_positive": 1.5, "lambda_negative": 0.7}
    trainer = make_trainer(
        weighted_rows(9, seed=1), eval_batch=9, rows=weighted_rows(16, every=1), kl=kl, max_steps=12, **lambdas
    )
    trainer.train()
    measured = trainer.evaluate()
    rows = trainer.eval_dataset
    tokens_of = trainer.data_collator.tokens.select  # by row number
    prompts, completions = (tokens_of(rows["row"])[name][:] for name in ("prompt_ids", "completion_ids"))
    reference = AutoModelForCausalLM.from_pretrained(causal_lm_dir, dtype=torch.float32).eval()
    tokens = completion_logps(trainer.model.eval(), prompts, completions)
    policy = torch.tensor([sum(row) for row in tokens])
    initial = torch.tensor([sum(row) for row in completion_logps(reference, prompts, completions)])

    z_ref = 0.0
    if kl == "matched":
        z_ref = max((policy - initial).mean().item(), 0)
    if kl == "mismatched":
        borrowed = tokens_of(rows["partner"])["completion_ids"][:]
        pairs = [completion_logps(model, prompts, borrowed) for model in (trainer.model, reference)]
        z_ref = max(np.mean([sum(a) - sum(b) for a, b in zip(*pairs, strict=True)]), 0)
    assert (z_ref > 1) == (kl != "none")
    labels = torch.tensor(rows["label"][:])
    losses = grace_kto_loss(
        policy,
        initial,
        torch.tensor(rows["weight"][:]),
        labels,
        z_ref,
        beta=0.05,
        **lambdas,
    )
    cross_entropy = -np.mean([logp for row, label in zip(tokens, labels, strict=True) if label for logp in row])
    assert measured["eval_kl"] == pytest.approx(z_ref, abs=1e-3)
    assert measured["eval_cross_entropy"] == pytest.approx(cross_entropy, abs=1e-5)
    assert measured["eval_loss"] == pytest.approx(losses.mean().item() + 0.3 * cross_entropy, abs=1e-5)
    ratios = 0.05 * (policy - initial)
    assert measured["eval_rewards/chosen"] == pytest.approx(ratios[labels].mean().item(), abs=1e-4)
    assert measured["eval_logps/rejected"] == pytest.approx(policy[~labels].mean().item(), abs=1e-3)


def test_the_batch_size_changes_nothing(make_trainer: Any) -> None:
    """Ten rows in batches of 1, 4 (4, 4, 2) and 10: rows and tokens are averaged over the dataset, not over batches."""
    results = []
    for eval_batch in (1, 4, 10):
        trainer = make_trainer(weighted_rows(10, seed=1), eval_batch, kl="none")
        trainer.train()
        measured = trainer.evaluate()
        names = [name for name in measured if not name.endswith(("_runtime", "_per_second", "_time"))]
        results.append([measured[name] for name in names])
        assert {"eval_loss", "eval_kl", "eval_cross_entropy", "eval_rewards/rejected"} <= set(names)
    np.testing.assert_allclose(results[1], results[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(results[2], results[0], rtol=1e-5, atol=1e-6)


def test_evaluation_during_training_changes_nothing(make_trainer: Any) -> None:
    results = []
    for strategy in ("no", "steps"):
        trainer = make_trainer(
            weighted_rows(9, seed=1), eval_strategy=strategy, eval_steps=2, lr_scheduler_type="constant"
        )
        trainer.train()
        results.append({name: value.detach().numpy().copy() for name, value in trainer.model.named_parameters()})
    assert all((value == results[1][name]).all() for name, value in results[0].items())
    evaluated = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    assert [entry["step"] for entry in evaluated] == [2, 4]
    assert evaluated[0]["eval_loss"] != evaluated[1]["eval_loss"]
    assert "eval_kl" in evaluated[0]
    assert len(logged(trainer, "kl")) == len(logged(trainer, "loss")) == 4


def test_at_the_start_policy_and_reference_agree(make_trainer: Any) -> None:
    measured = make_trainer(weighted_rows(9, seed=1)).evaluate()
    assert measured["eval_rewards/chosen"] == pytest.approx(0, abs=1e-6)
    assert measured["eval_kl"] == pytest.approx(0, abs=1e-4)


def test_class_weights_are_those_of_the_training_rows(make_trainer: Any) -> None:
    only_negative = weighted_rows(9, seed=1).filter(lambda row: not row["label"])
    trainer = make_trainer({"train": only_negative}, mu=0.0, kl="none")
    assert (trainer.desirable_weight, trainer.undesirable_weight) == (16 / 12, 16 / 20)
    measured = trainer.evaluate()
    assert measured["eval_train_loss"] == pytest.approx(np.abs(only_negative["weight"][:]).mean() * 0.8 / 2, abs=1e-6)
    assert measured["eval_train_cross_entropy"] == 0  # no positive row, no token


def test_a_dictionary_of_datasets(make_trainer: Any) -> None:
    datasets = {"one": weighted_rows(9, seed=1), "two": weighted_rows(6, seed=2, ids=False)}
    trainer = make_trainer(datasets, eval_strategy="steps", eval_steps=4)
    trainer.train()
    both = trainer.evaluate()
    assert logged(trainer, "eval_one_loss")[0] == both["eval_one_loss"]
    for name, rows in datasets.items():
        alone = make_trainer(rows)
        alone.train()
        measured = alone.evaluate()
        for value in ("loss", "kl", "cross_entropy", "rewards/chosen"):
            assert both[f"eval_{name}_{value}"] == pytest.approx(measured[f"eval_{value}"], abs=1e-6)


def test_a_dataset_given_to_evaluate(make_trainer: Any) -> None:
    rows = weighted_rows(9, seed=1)
    given = make_trainer(None).evaluate(rows)
    prepared = make_trainer(rows)
    assert given["eval_loss"] == prepared.evaluate()["eval_loss"]
    assert prepared.evaluate(prepared.eval_dataset)["eval_loss"] == given["eval_loss"]

    prepared.train()
    with pytest.raises(ValueError, match="after training has started"):  # TRL's: the reference is gone
        prepared.evaluate(rows)


def test_a_new_dataset_after_training_an_adapter(make_trainer: Any) -> None:
    rows = weighted_rows(9, seed=1)
    trainer = make_trainer(rows, arguments={"peft_config": lora()})
    trainer.train()
    assert trainer.evaluate(rows)["eval_loss"] == pytest.approx(trainer.evaluate()["eval_loss"], abs=1e-6)

    moved = make_trainer(rows, arguments={"peft_config": lora()}, reference="round")
    moved.train()
    with pytest.raises(UserError, match="reference=round is the adapter training began with"):
        moved.evaluate(rows)


def test_the_cache_holds_the_training_rows_only(make_trainer: Any, tmp_path: Path) -> None:
    cache = {"reference_cache": str(tmp_path / "reference.npz")}
    first = make_trainer(weighted_rows(9, seed=1), **cache)
    before = (tmp_path / "reference.npz").read_bytes()
    second = make_trainer(weighted_rows(9, seed=2), **cache)
    assert (tmp_path / "reference.npz").read_bytes() == before
    assert first.train_dataset["ref_logps"][:] == second.train_dataset["ref_logps"][:]
    assert first.eval_dataset["ref_logps"][:] != second.eval_dataset["ref_logps"][:]


def test_faults_of_an_evaluation_set_are_named(make_trainer: Any) -> None:
    import torch

    with pytest.raises(UserError, match="eval dataset has 0 rows"):
        make_trainer(weighted_rows(9).select([]))
    with pytest.raises(UserError, match="all 2 rows belong to query q0"):
        make_trainer(weighted_rows(2))
    with pytest.raises(UserError, match="kl=matched with 1 row per batch"):
        make_trainer(weighted_rows(9), eval_batch=1, kl="matched")
    trainer = make_trainer(weighted_rows(9, seed=1), kl="none")
    with torch.no_grad():
        trainer.model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(UserError, match=r"policy log-probability of eval row \d is nan"):
        trainer.evaluate()


def test_compute_metrics_gets_the_logits(make_trainer: Any) -> None:
    seen = []

    def shapes(prediction: Any) -> Any:
        seen.append((prediction.predictions.shape, prediction.label_ids.shape))
        return {"answer": 42}

    trainer = make_trainer(weighted_rows(9, seed=1), arguments={"compute_metrics": shapes})
    assert trainer.evaluate()["eval_answer"] == 42
    (logits, labels) = seen[0]
    assert logits[:2] == labels
    assert logits[0] == 9


ON_PROCESSES = """
import json, sys
sys.path[:0] = [{tests!r}, {root!r}]
from pathlib import Path
import test_evaluation

measured = test_evaluation.evaluate_on_processes({model!r}, Path({folder!r}))
if measured is not None:
    Path({folder!r}, "measured.json").write_text(json.dumps(measured))
"""


def evaluate_on_processes(model: Any, folder: Path) -> Any:
    """Nine rows in batches of four over all processes: the last one is filled up with rows that must not count."""
    from training.kto.trainer import GraceKTOTrainer

    batch = 4 // int(os.environ.get("WORLD_SIZE", "1"))
    args = config(folder, per_device_train_batch_size=batch, per_device_eval_batch_size=batch, max_steps=12)
    trainer = GraceKTOTrainer(model, args, weighted_rows(16, every=1), weighted_rows(9, seed=1))
    trainer.train()
    measured = trainer.evaluate()
    return measured if trainer.accelerator.is_main_process else None


def test_two_processes_measure_the_same(causal_lm_dir: Path, tmp_path: Path) -> None:
    one = evaluate_on_processes(str(causal_lm_dir), tmp_path)
    script = tmp_path / "on_processes.py"
    paths = {"tests": str(Path(__file__).parent), "root": str(ROOT), "folder": str(tmp_path)}
    script.write_text(ON_PROCESSES.format(**paths, model=str(causal_lm_dir)))
    done = together(script)
    assert done.returncode == 0, done.stderr[-2000:]
    two = json.loads((tmp_path / "measured.json").read_text())
    assert one["eval_kl"] > 1
    for name in ("loss", "kl", "cross_entropy", "rewards/chosen", "logps/rejected"):
        assert two[f"eval_{name}"] == pytest.approx(one[f"eval_{name}"], rel=1e-4)
