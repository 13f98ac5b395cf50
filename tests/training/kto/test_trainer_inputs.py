"""`GraceKTOTrainer` takes what TRL's trainer takes: model objects, plain datasets of either form, a reference model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kto_trainers import COMMON

from scorers.errors import UserError

WORDS = ["river", "trade", "harbour", "grew", "prices", "fell", "decade", "report"]


def plain_rows(form: Any = "messages", rows: Any = 16, weights: Any = True, seed: int = 0) -> Any:
    """prompt, completion, label and weight, as a TRL user would write them down; four rows per prompt."""
    from datasets import Dataset

    generator = np.random.default_rng(seed)
    prompts: list[Any] = [f"Please write report {i // 4}" for i in range(rows)]
    completions: list[Any] = [" " + " ".join(generator.choice(WORDS, 8 + i % 5)) for i in range(rows)]
    labels = [bool(i % 2) for i in range(rows)]
    if form == "messages":
        prompts = [[{"role": "user", "content": text}] for text in prompts]
        completions = [[{"role": "assistant", "content": text}] for text in completions]
    columns = {"prompt": prompts, "completion": completions, "label": labels}
    if weights:
        columns["weight"] = [
            float(w if y else -w) for w, y in zip(generator.uniform(0.2, 2, rows), labels, strict=True)
        ]
    return Dataset.from_dict(columns)


OPTIONS: dict[str, Any] = COMMON | {"max_steps": 2, "per_device_train_batch_size": 4, "seed": 0, "beta": 0.1}
AS_TRL = {"lambda_positive": 1.0, "lambda_negative": 1.0, "mu": 0.0, "beta": 0.1, "learning_rate_end": 1e-3}


@pytest.fixture
def make_trainer(causal_lm_dir: Path, tmp_path: Path) -> Any:
    def make(model: Any = None, rows: Any = None, options: Any = None, **arguments: Any) -> Any:
        from training.kto.trainer import GraceKTOConfig, GraceKTOTrainer

        return GraceKTOTrainer(
            model=str(causal_lm_dir) if model is None else model,
            args=GraceKTOConfig(str(tmp_path / "ours"), **(OPTIONS | (options or {}))),
            train_dataset=plain_rows() if rows is None else rows,
            **arguments,
        )

    return make


@pytest.fixture
def load(causal_lm_dir: Path) -> Any:
    def load_model(dtype: Any = "float32") -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(causal_lm_dir, dtype=dtype)

    return load_model


@pytest.fixture
def tokenizer(causal_lm_dir: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(causal_lm_dir)


def lora(**options: Any) -> Any:
    from peft import LoraConfig

    return LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", **options)


def adapted(model: Any, seed: int = 7) -> Any:
    """A PeftModel whose adapter is not zero, so that it differs from its base model."""
    import torch
    from peft import get_peft_model

    torch.manual_seed(seed)
    return get_peft_model(model, lora(init_lora_weights=False))


def parameters(trainer: Any) -> Any:
    return {n: p.detach().numpy().copy() for n, p in trainer.model.named_parameters() if p.requires_grad}


def assert_equal_parameters(first: Any, second: Any) -> None:
    assert first.keys() == second.keys()
    assert all((value == second[name]).all() for name, value in first.items())


def logged(trainer: Any, name: str) -> Any:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def test_the_public_example(causal_lm_dir: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from training.kto.trainer import GraceKTOConfig, GraceKTOTrainer

    model = AutoModelForCausalLM.from_pretrained(causal_lm_dir)
    tokenizer = AutoTokenizer.from_pretrained(causal_lm_dir)
    rows = plain_rows()
    args = GraceKTOConfig(output_dir=tmp_path / "example", max_steps=2, eval_strategy="epoch", report_to="none")
    trainer = GraceKTOTrainer(model=model, args=args, train_dataset=rows, eval_dataset=rows, processing_class=tokenizer)
    trainer.train()

    assert trainer.state.global_step == 2
    assert np.isfinite(logged(trainer, "eval_loss")).all()


@pytest.mark.parametrize("peft", [False, True])
def test_a_model_object_trains_as_its_name_does(peft: Any, make_trainer: Any, load: Any) -> None:
    results = []
    for model in (None, load()):
        trainer = make_trainer(model, peft_config=lora() if peft else None)
        before = parameters(trainer)
        trainer.train()
        results.append(parameters(trainer))
        assert any((value != before[name]).any() for name, value in results[-1].items())
    assert_equal_parameters(*results)


def test_a_folder_may_be_a_path(make_trainer: Any, causal_lm_dir: Path) -> None:
    assert make_trainer(causal_lm_dir).train_dataset["ref_logps"][:] == make_trainer().train_dataset["ref_logps"][:]


def test_a_peft_model_as_in_trl_with_reference_round(
    make_trainer: Any, load: Any, tokenizer: Any, tmp_path: Path
) -> None:
    """TRL's reference for a `PeftModel` is the adapter as given, which is our reference=round."""
    from trl import KTOConfig, KTOTrainer

    from training.kto.order import order_rows

    rows = plain_rows(weights=False)
    ours = make_trainer(adapted(load()), rows, AS_TRL | {"reference": "round"})
    ours.train()
    stock = KTOTrainer(
        adapted(load()),
        args=KTOConfig(str(tmp_path / "stock"), max_length=None, lr_scheduler_type="constant", **OPTIONS),
        train_dataset=rows.select(order_rows([f"row {i}" for i in range(len(rows))], 4, 0)),
        processing_class=tokenizer,
    )
    stock.train()
    np.testing.assert_allclose(logged(ours, "loss"), logged(stock, "loss"), rtol=0, atol=1e-6)
    np.testing.assert_allclose(logged(ours, "kl"), logged(stock, "kl"), rtol=0, atol=1e-5)
    assert logged(ours, "rewards/chosen")[0] == pytest.approx(0, abs=1e-6)  # policy = reference at the first step


def test_a_peft_models_reference_is_its_base_unless_said_otherwise(make_trainer: Any, load: Any) -> None:
    trainer = make_trainer(adapted(load()))
    assert trainer.train_dataset["ref_logps"][:] == make_trainer().train_dataset["ref_logps"][:]
    trainer.train()
    assert logged(trainer, "rewards/chosen")[0] != 0
    with pytest.raises(UserError, match="initial_adapter is for a model without an adapter"):
        make_trainer(adapted(load()), options={"initial_adapter": "somewhere"})


def test_a_reference_model_object(make_trainer: Any, tmp_path: Path) -> None:
    import torch
    from tiny_models import make_causal_lm
    from transformers import AutoModelForCausalLM

    other = make_causal_lm(tmp_path / "other", seed=5)
    reference = AutoModelForCausalLM.from_pretrained(other, dtype=torch.float32)
    trainer = make_trainer(ref_model=reference)
    assert trainer.train_dataset["ref_logps"][:] == make_trainer(str(other)).train_dataset["ref_logps"][:]


def test_a_named_reference_model_is_freed(make_trainer: Any, load: Any, causal_lm_dir: Path) -> None:
    trainer = make_trainer(load("bfloat16"), options={"reference_model": str(causal_lm_dir)})
    assert trainer.accelerator._models == []
    alike = make_trainer(load("bfloat16"))  # the reference is loaded in the policy's precision
    assert trainer.train_dataset["ref_logps"][:] == alike.train_dataset["ref_logps"][:]


def test_the_tokenizer_and_the_window_come_from_the_model_object(make_trainer: Any, load: Any, tokenizer: Any) -> None:
    assert make_trainer(load()).processing_class.get_vocab() == tokenizer.get_vocab()

    nameless = load()
    nameless.config._name_or_path = ""
    with pytest.raises(UserError, match="give processing_class"):
        make_trainer(nameless)
    make_trainer(nameless, processing_class=tokenizer)

    small = load()
    small.config.max_position_embeddings = 20
    with pytest.raises(UserError, match=r"train row \d+ has \d+ tokens with its prompt, the limit is 20"):
        make_trainer(small)


def test_the_arguments_stay_as_given(make_trainer: Any, causal_lm_dir: Path, tmp_path: Path) -> None:
    from training.kto.trainer import GraceKTOConfig, GraceKTOTrainer

    args = GraceKTOConfig(str(tmp_path / "x"), max_length=100, **OPTIONS)
    GraceKTOTrainer(causal_lm_dir, args, plain_rows())
    assert args.max_length == 100
    with pytest.raises(UserError, match="args is a KTOConfig"):
        from trl import KTOConfig

        GraceKTOTrainer(causal_lm_dir, KTOConfig(str(tmp_path / "x"), **OPTIONS), plain_rows())


@pytest.mark.parametrize("form", ["messages", "text"])
def test_a_plain_dataset_equals_trl(form: Any, make_trainer: Any, causal_lm_dir: Path, tmp_path: Path) -> None:
    """Without ids and weights this is KTO: every row a query of its own, weight ±1."""
    from trl import KTOConfig, KTOTrainer

    from training.kto.order import order_rows

    rows, held_out = plain_rows(form, weights=False), plain_rows(form, rows=8, weights=False, seed=1)
    order = [order_rows([f"row {i}" for i in range(size)], 4, 0) for size in (16, 8)]
    evaluation = {"eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 4}
    ours = make_trainer(rows=rows, options=AS_TRL | evaluation, eval_dataset=held_out)
    ours.train()
    arguments = OPTIONS | evaluation | {"max_length": None, "lr_scheduler_type": "constant"}
    stock = KTOTrainer(
        str(causal_lm_dir),
        args=KTOConfig(str(tmp_path / "stock"), **arguments),
        train_dataset=rows.select(order[0]),
        eval_dataset=held_out.select(order[1]),
    )
    stock.train()
    for name in ("loss", "eval_loss"):
        np.testing.assert_allclose(logged(ours, name), logged(stock, name), rtol=0, atol=1e-6)
    for name in ("kl", "eval_kl"):
        np.testing.assert_allclose(logged(ours, name), logged(stock, name), rtol=0, atol=1e-5)
    first, second = parameters(ours), parameters(stock)
    for name, value in first.items():
        np.testing.assert_allclose(value, second[name], rtol=0, atol=1e-6, err_msg=name)


def test_weights_of_a_plain_dataset_enter(make_trainer: Any) -> None:
    rows = plain_rows("text", rows=12)
    trainer = make_trainer(rows=rows, options={"per_device_train_batch_size": 12, "mu": 0.0, "max_steps": 1})
    trainer.train()
    # Policy = reference and six rows of each label: every row costs |W|/2.
    assert logged(trainer, "loss")[0] == pytest.approx(np.abs(rows["weight"][:]).mean() / 2, abs=1e-6)


def test_preference_pairs_are_taken_apart(make_trainer: Any) -> None:
    from datasets import Dataset

    pairs = Dataset.from_dict(
        {"prompt": ["a river", "the harbour"], "chosen": [" grew", " fell"], "rejected": [" report", " trade"]}
    )
    trainer = make_trainer(rows=pairs)
    assert sorted(trainer.train_dataset["weight"][:]) == [-1, -1, 1, 1]


def test_other_columns_do_not_disturb(make_trainer: Any) -> None:
    rows = plain_rows()
    extra = rows.add_column("row", ["x"] * len(rows)).add_column("ref_logps", [0.0] * len(rows))
    assert make_trainer(rows=extra).train_dataset["ref_logps"][:] == make_trainer().train_dataset["ref_logps"][:]


def test_rows_that_do_not_fit_are_named(make_trainer: Any) -> None:
    rows = plain_rows(rows=4)

    def column(name: str, values: Any) -> Any:
        return rows.remove_columns(name).add_column(name, values)

    faults = [
        (rows.remove_columns("label"), "train dataset has no column label"),
        (column("label", [0, 1, 0, 1]), "label is int64, not bool"),
        (column("weight", ["a"] * 4), "weight is string, not a number"),
        (column("weight", [1.0, float("nan"), 0.0, 0.0]), "weight of train row 1 is nan"),
        (column("label", [True, None, True, True]), "column label is null in train row 1"),
        (rows.select([]), "train dataset has 0 rows"),
        (rows.to_iterable_dataset(), "IterableDataset"),
    ]
    for dataset, message in faults:
        with pytest.raises(UserError, match=message):
            make_trainer(rows=dataset)


def test_an_order_of_rows_that_would_undo_ours_is_refused(tmp_path: Path) -> None:
    from training.kto.config import GraceKTOConfig

    with pytest.raises(UserError, match=r"train_sampling_strategy is 'random'.*leave it at sequential"):
        GraceKTOConfig(str(tmp_path), train_sampling_strategy="random", **OPTIONS)
