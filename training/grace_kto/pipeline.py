"""The graph of GRACE-KTO.

    seed ─ [sft] ─ generate ─ sample ─ score ─ calibrate ─ [policy] ─▶ next round     ([x] is a model stage)

The tiny preset names stages of the generated world where others name files and models: `world:seeds`, `world:base`, ….
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from builders.core.pipeline import EvaluationTable, Pipeline
from builders.grace_kto.messages import ask_for_queries
from builders.grace_kto.settings import GraceKTOSettings
from builders.grace_kto.stages import CALIBRATE, GENERATE, SAMPLE, SCORE, SEED
from builders.store.manifest import Manifest
from training.grace_kto.policy import POLICY
from training.grace_kto.sft import SFT
from training.world.stages import world_stages

WORLD = world_stages(partial(ask_for_queries, prompt="generate.tiny"))


def rounds(config: GraceKTOSettings) -> int:
    """Rounds of the semi-online loop."""
    return config.loop.rounds


def round_line(manifests: Sequence[Manifest]) -> str:
    """A finished round in a few words: rows, matched share, mean length of the sampled documents, loss."""
    made = {manifest.stage: manifest for manifest in manifests}
    weights, policy = made["calibrate"], made["policy"]
    matched = 1 - weights.counts.get("unscored", 0) / weights.rows.written
    loss = policy.results.get("loss", float("nan"))
    length = weights.metrics["length"].mean
    return f"{weights.rows.written} rows, {matched:.0%} matched, L {length:.1f}, loss {loss:.4f}"


def evaluate(config: GraceKTOSettings, references: Sequence[str], output: Path) -> EvaluationTable:
    """Compare policies on held-out queries; see `training.grace_kto.evaluate`."""
    from training.grace_kto.evaluate import evaluate_policies

    return evaluate_policies(config, references, output)


GRACE_KTO = Pipeline(
    name="grace-kto",
    settings=GraceKTOSettings,
    stages=(*WORLD, SEED, SFT, GENERATE, SAMPLE, SCORE, CALIBRATE, POLICY),
    last="policy",
    preset="tiny",
    rounds=rounds,
    round_line=round_line,
    evaluate=evaluate,
)
