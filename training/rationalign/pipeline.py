"""The graph of RationAlign.

pairs ─ explain ─ [sft];  pairs ─ [fold-1 … fold-K] ─ contest ─ [reward]      ([x] is a model stage)
pairs ─ unlabelled;  sft, unlabelled ─ sample;  sample, reward ─ prefer ─ [mpo]
"""

from collections.abc import Sequence
from pathlib import Path

from builders.core.evaluation_table import EvaluationTable
from builders.core.pipeline import Pipeline
from builders.rationalign.settings import RationAlignSettings
from builders.rationalign.stages import CONTEST, EXPLAIN, PAIRS, PREFER, SAMPLE, UNLABELLED
from builders.store.manifest import Manifest
from training.rationalign.trained import FOLD_STAGES, MPO, REWARD, SFT
from training.rationalign.world import WORLD


def round_line(manifests: Sequence[Manifest]) -> str:
    """Summarise a run in one line: contests, preferences, and what the reward model got right.

    Args:
        manifests: the manifests of the stages.
    """
    made = {manifest.stage: manifest for manifest in manifests}
    parts = []
    if contests := made.get("contest"):
        parts.append(f"{contests.rows.written} contests of {contests.rows.read} pairs")
    if reward := made.get("reward"):
        parts.append(f"reward model right in {reward.results.get('accuracy', 0.0):.0%} of them")
    if kept := made.get("prefer"):
        parts.append(f"{kept.rows.written} preferences of {kept.rows.read} texts")
    return "; ".join(parts) or "kept"


def evaluate(config: RationAlignSettings, references: Sequence[str], output: Path) -> EvaluationTable:
    """Compare writing assistants on the test sets; see `training.rationalign.evaluate`."""
    from training.rationalign.evaluate import evaluate_assistants

    return evaluate_assistants(config, references, output)


# In topological order: every stage stands after those it reads.
RATIONALIGN = Pipeline(
    name="rationalign",
    settings=RationAlignSettings,
    stages=(*WORLD, PAIRS, UNLABELLED, EXPLAIN, *FOLD_STAGES, CONTEST, REWARD, SFT, SAMPLE, PREFER, MPO),
    last="mpo",
    preset="tiny-rationalign",
    round_line=round_line,
    evaluate=evaluate,
)
