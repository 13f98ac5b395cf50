"""A small run of RationAlign: a model that has begun to learn to copy, and settings that end in seconds."""

from pathlib import Path


def make_editor(folder: Path) -> Path:
    """Train the world's editor for a few steps: it copies some words right and some wrong. Returns the folder."""
    import torch

    from training.rationalign.world import train_editor

    folder.mkdir()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        train_editor(folder, seed=0, steps=150)
    finally:
        torch.set_num_threads(threads)
    return folder


def small(editor: Path) -> list[str]:
    """Settings of the run that starts from an editor."""
    return [
        f"models.base={editor}",
        f"models.reward={editor}",
        "models.classifier=null",
        "workers=1",
        "pairs.per_task=12",
        "unlabelled.per_task=6",
        "explain.shard_rows=24",
        "sft.order=none",
        "fold.steps=12",
        "contest.samples=4",
        "contest.max_new_tokens=32",
        "contest.shard_rows=16",
        "sft.steps=16",
        "sample.responses=4",
        "sample.max_new_tokens=32",
        "sample.shard_rows=24",
        "reward.steps=6",
        "prefer.share=0.5",
        "mpo.steps=4",
        "evaluate.per_task=4",
        "evaluate.samples=3",
        "evaluate.max_new_tokens=32",
    ]
