"""What do reasons and alignment change for a writing assistant (RationAlign, table 1), and which part of it does?

On each generated world the assistant is trained without reasons, with reasons after the suggestion, and with reasons
before it (figure 9); the first two are aligned by margin-based preference optimisation. From the assistant without
reasons and its preferences the parts of the loss are taken away (figure 5: no reward margin, no cross-entropy,
cross-entropy alone, which is fine-tuning on the winning suggestions), other methods learn from the same preferences
(CPO, SimPO and DPO, by stock TRL), and it is fine-tuned on people's edited texts in place of the winning suggestions
(figure 6). All edit the same held-out texts greedily.

Differences are paired by world, with 95 % intervals by Student's t. Prints the tables and one line of JSON, and writes
`alignment.md` and `alignment.json`. A rerun goes on where it stopped.

    bash scripts/compare_alignment.sh --worlds 0-5 --jobs 2
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from builders.store.revision import Revision
from scripts.paired_tables import Result, difference_table, differences, on_each_world, table, write_comparison
from scripts.runs import parser_of

PLAIN, REASONS = "SFT", "SFT (R)"
ALIGNED, ALIGNED_REASONS = "+ alignment", "+ alignment (R)"
FIRST = "SFT (R first)"
WITHOUT_CE = 5e-5
"""Learning rate of the losses without cross-entropy: the best for them of 1e-3, the preset's, 1e-4 and 5e-5 on world 0.

At the preset's they forget how to edit.
"""
#: What is taken away from the loss, by name: settings of `mpo`.
PARTS = {
    "no margin (γ = 0)": ("mpo.gamma=0.0",),
    "no cross-entropy": ("mpo.ce=none", f"mpo.learning_rate={WITHOUT_CE}"),
    "winning suggestions alone": ("mpo.weight=0.0",),
}
LABELS = "people's edited texts"
STOCK = ("CPO", "SimPO", "DPO")


def compared(store: Path, world: int) -> Result:
    """Train all assistants of a world, and let them edit its test texts.

    Returns:
        By assistant: the metric of each task, ALL, the edits proposed and their precision in percent.
    """
    found: Result = {}
    # The stages that reasons do not change are kept: their fingerprints are the same.
    plain = ("sft.order=none",)
    found[PLAIN] = scores(store, world, plain, build(store, world, "sft", plain).path)
    found[ALIGNED] = scores(store, world, plain, build(store, world, "mpo", plain).path)
    for name, settings in PARTS.items():
        found[name] = scores(store, world, plain, build(store, world, "mpo", (*plain, *settings)).path)
    for name in STOCK:
        found[name] = scores(store, world, plain, stock(store, world, name))
    found[LABELS] = scores(store, world, plain, on_labels(store, world))
    found[REASONS] = scores(store, world, (), build(store, world, "sft", ()).path)
    found[ALIGNED_REASONS] = scores(store, world, (), build(store, world, "mpo", ()).path)
    first = ("sft.order=rationale-first",)
    found[FIRST] = scores(store, world, first, build(store, world, "sft", first).path)
    return found


def config_of(store: Path, world: int, settings: Sequence[str]) -> Any:
    """The configuration of a world."""
    from training import load_config

    own = (f"world.seed={world}", f"random_seed={world}", "workers=1", "models.classifier=null", "models.judge=null")
    return load_config("tiny-rationalign", [*own, *settings], str(store))


def build(store: Path, world: int, stage: str, settings: Sequence[str]) -> Revision:
    """Build a stage of the preset tiny-rationalign, and return its revision."""
    from training import build as build_stage

    return build_stage(config_of(store, world, settings), stage)[-1].revision


def scores(store: Path, world: int, settings: Sequence[str], model: Path) -> dict[str, float]:
    """Let an assistant edit the test texts, and score what it made of them."""
    from builders.core.models import LocalModel
    from builders.store.manifest import Model
    from training.rationalign.evaluate import scored
    from training.rationalign.outputs import edited, evaluation_sets

    config = config_of(store, world, settings)
    tests = evaluation_sets(config)
    one = scored("", tests, edited(config, LocalModel(Model(id="assistant", revision=""), model), tests))
    return one.scores | {"edits": one.edits, "precision": 100 * one.precision}


def stock(store: Path, world: int, method: str) -> Path:
    """Align the assistant without reasons by a method of stock TRL, on the same preferences, and return its folder.

    Settings are those of table 6, the steps those of the preset, and the learning rate too where the loss has a
    cross-entropy.
    """
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback

    plain = ("sft.order=none",)
    base, data = (build(store, world, stage, plain) for stage in ("sft", "prefer"))
    settings = config_of(store, world, plain).mpo
    output = store / "stock" / method
    shutil.rmtree(output, ignore_errors=True)
    files = [str(file) for file in sorted(data.path.glob("data/*.parquet"))]
    rows = load_dataset("parquet", data_files=files, split="train", cache_dir=str(store / "cache"))
    rows = rows.select_columns(["prompt", "chosen", "rejected"])
    shared: dict[str, Any] = {
        "output_dir": str(output),
        "max_steps": settings.steps,
        "per_device_train_batch_size": settings.batch_size,
        "learning_rate": settings.learning_rate if method == "CPO" else WITHOUT_CE,
        "warmup_steps": settings.warmup_ratio,
        "lr_scheduler_type": "cosine",
        "seed": world,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "max_length": 512,
    }
    model = AutoModelForCausalLM.from_pretrained(base.path)
    tokenizer = AutoTokenizer.from_pretrained(base.path)
    if method == "DPO":
        from trl import DPOConfig, DPOTrainer

        trainer: Any = DPOTrainer(
            model=model, args=DPOConfig(beta=0.1, **shared), train_dataset=rows, processing_class=tokenizer
        )
    else:
        from trl.experimental.cpo import CPOConfig, CPOTrainer

        own: dict[str, Any] = {"loss_type": "sigmoid", "beta": 0.1, "cpo_alpha": 1.0}
        if method == "SimPO":
            own = {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 1.0, "cpo_alpha": 0.0}
        trainer = CPOTrainer(
            model=model, args=CPOConfig(**own, **shared), train_dataset=rows, processing_class=tokenizer
        )
    trainer.remove_callback(PrinterCallback)  # stdout is for the tables
    trainer.train()
    trainer.save_model(str(output))
    tokenizer.save_pretrained(str(output))
    return output


def on_labels(store: Path, world: int) -> Path:
    """Fine-tune the assistant without reasons on the edited texts that the world has for its preferences' texts."""
    from builders.core.prompting import answer
    from training.rationalign.editing import pairs
    from training.rationalign.world import LABELLED_AND_NOT
    from training.sft.finetune import run_sft

    plain = ("sft.order=none",)
    base, data = (build(store, world, stage, plain) for stage in ("sft", "prefer"))
    targets = {(pair.task, pair.source): pair.references[0] for pair in pairs(world, LABELLED_AND_NOT)}
    rows = data.scan().select("task", "source", "prompt").collect()
    conversations = [
        {"prompt": prompt, "completion": answer(targets[task, source])} for task, source, prompt in rows.iter_rows()
    ]
    output = store / "labels"
    run_sft(base=base.path, output=output, conversations=conversations, settings=config_of(store, world, plain).mpo)
    return output


def main() -> None:
    """Compare on all worlds, and write tables and JSON."""
    options = parser_of(__doc__, "0-5").parse_args()
    worlds = on_each_world("alignment", compared, options)
    plain = differences(worlds, PLAIN)
    reasons = differences(worlds, REASONS)
    aligned = differences(
        [{name: world[name] for name in (ALIGNED, *PARTS, *STOCK, LABELS)} for world in worlds], ALIGNED
    )
    notes = [
        f"{len(worlds)} worlds; MaxMatch, SARI or BLEU, 0 to 100, on 64 held-out texts of each task, ALL their mean; "
        "edits proposed, and the percentage of them that a reference has; mean ± standard deviation over worlds. "
        "Differences are paired by world, with 95 % intervals by Student's t; bold where the interval does not hold 0. "
        f"Made by `bash scripts/compare_alignment.sh --worlds {','.join(map(str, options.worlds))}`.",
    ]
    parts = (
        table(worlds, "assistant", 1),
        difference_table(plain, PLAIN, digits=1),
        difference_table({ALIGNED_REASONS: reasons[ALIGNED_REASONS]}, REASONS, digits=1),
        difference_table(aligned, ALIGNED, digits=1),
        notes,
    )
    write_comparison("alignment", options, worlds, parts, differences={PLAIN: plain, REASONS: reasons})


if __name__ == "__main__":
    main()
