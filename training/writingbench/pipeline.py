"""The graph of WritingBench.

taxonomy ─ request ─ refine ─ criteria ─ respond ─ rate ─ select ─ [writer]      ([x] is a model stage)
                                                   rate ─ critique ─ [critic] ─▶ a judge for another run's rate
"""

from collections.abc import Sequence
from pathlib import Path

from builders.core.evaluation_table import EvaluationTable
from builders.core.pipeline import Pipeline, one_round
from builders.store.manifest import Manifest
from builders.writingbench.settings import WritingBenchSettings
from builders.writingbench.stages import BENCHMARK, CRITERIA, CRITIQUE, RATE, REFINE, REQUEST, RESPOND, SELECT, TAXONOMY
from training.writingbench.finetuned import CRITIC, WRITER
from training.writingbench.world import WORLD


def round_line(manifests: Sequence[Manifest]) -> str:
    """Summarise a run in one line: ratings, mean score, unscored ones, rows of the writer's data.

    Args:
        manifests: the manifests of the stages.
    """
    made = {manifest.stage: manifest for manifest in manifests}
    parts = []
    if ratings := made.get("rate"):
        mean = f"{ratings.metrics['score'].mean:.2f}" if "score" in ratings.metrics else "–"
        parts.append(f"{ratings.rows.written} ratings, mean {mean}, {ratings.counts.get('unscored', 0)} unscored")
    if kept := made.get("select"):
        parts.append(f"{kept.rows.written} of {kept.rows.read} responses kept")
    return "; ".join(parts) or "kept"


def evaluate(config: WritingBenchSettings, references: Sequence[str], output: Path) -> EvaluationTable:
    """Compare critics with the judge on queries that they never saw; see `training.writingbench.critics`."""
    from training.writingbench.critics import evaluate_critics

    return evaluate_critics(config, references, output)


def benchmark(
    config: WritingBenchSettings,
    policies: Sequence[str],
    responses: Sequence[str],
    scores: Sequence[str],
    output: Path,
) -> EvaluationTable:
    """Compare models on WritingBench's queries; see `training.writingbench.evaluate`."""
    from training.writingbench import evaluate

    return evaluate.benchmark(config, policies, responses, scores, output)


def longbench(
    config: WritingBenchSettings,
    policies: Sequence[str],
    responses: Sequence[str],
    scores: Sequence[str],
    output: Path,
) -> EvaluationTable:
    """Compare models on LongBench-Write's queries; see `training.writingbench.longbench`."""
    from training.writingbench.longbench import benchmark

    return benchmark(config, policies, responses, scores, output)


# In topological order: every stage stands after those it reads.
WRITINGBENCH = Pipeline(
    name="writingbench",
    settings=WritingBenchSettings,
    stages=(*WORLD, TAXONOMY, REQUEST, REFINE, CRITERIA, BENCHMARK, RESPOND, RATE, SELECT, CRITIQUE, CRITIC, WRITER),
    last="writer",
    preset="tiny-writingbench",
    rounds=one_round,
    round_line=round_line,
    evaluate=evaluate,
    benchmarks={"writingbench": benchmark, "longbench-write": longbench},
)
