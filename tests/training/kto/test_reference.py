"""The reference's log-probabilities of millions of rows."""

import gc
import weakref
from pathlib import Path
from typing import Any


def test_no_tensor_of_a_batch_is_kept(causal_lm_dir: Path, tmp_path: Path) -> None:
    """One tensor for each of a million batches would take a gigabyte beside the 32 MB of the numbers in them."""
    from datasets import Dataset

    from training.kto.trainer import GraceKTOConfig, GraceKTOTrainer

    columns = {"prompt": [f"Report {i}" for i in range(8)], "completion": [" river"] * 8, "label": [True, False] * 4}
    args = GraceKTOConfig(
        str(tmp_path), max_steps=1, per_device_train_batch_size=4, bf16=False, use_cpu=True, report_to="none"
    )
    trainer = GraceKTOTrainer(str(causal_lm_dir), args, Dataset.from_dict(columns))
    gather, most = trainer.accelerator.gather_for_metrics, 0
    kept: list[Any] = []

    def noted(values: Any) -> Any:
        nonlocal most
        gc.collect()
        most = max(most, sum(one() is not None for one in kept))
        kept.append(weakref.ref(values))
        return gather(values)

    trainer.accelerator.gather_for_metrics = noted
    before = trainer.train_dataset
    found = trainer._compute_reference(before.remove_columns(["ref_logps", "ref_KL_logps"]), batch_size=1)
    assert len(kept) == 16 and most <= 1
    for name, values in found.items():
        assert abs(values - before.with_format("numpy")[name][:]).max() < 1e-4
