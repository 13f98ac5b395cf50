"""The graph of GRACE-KTO.

    seed ─ [sft] ─ generate ─ sample ─ score ─ calibrate ─ [policy] ─▶ next round     ([x] is a model stage)

With `models.teacher` the reference documents pass through the stage `format` on their way: seed ─ format ─ [sft]. With
`score.rubric` documents are rated before they are scored: sample ─ criteria ─ rate ─ score. `grace evaluate` asks each
policy for answers to held-out queries, and with --judge a judge for grades: [policy] ─ answers ─ evaluations; with
--pairwise between two policies' answers: answers, answers ─ comparisons.

Where other presets name files and models, the tiny preset names stages of the generated world: `world:seeds`,
`world:base`, and so on.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from builders.core.costs import CostPlan, Rehearsed
from builders.core.evaluation_table import EvaluationTable
from builders.core.pipeline import Pipeline
from builders.grace_kto.messages import ask_for_queries
from builders.grace_kto.settings import GraceKTOSettings
from builders.grace_kto.stages import CALIBRATE, CRITERIA, FORMAT, GENERATE, RATE, SAMPLE, SCORE, SEED
from builders.store.manifest import Manifest
from builders.store.revision import Revision
from training.grace_kto.answers import ANSWERS
from training.grace_kto.comparisons import COMPARISONS
from training.grace_kto.evaluations import EVALUATIONS
from training.grace_kto.policy import POLICY
from training.grace_kto.sft import SFT
from training.world.stages import world_stages

# The world's models are taught the pipeline's own wish for new queries, in the short wording that they can learn.
WORLD_PROMPT = partial(ask_for_queries, prompt="generate.tiny")
WORLD = world_stages(WORLD_PROMPT)


def rounds(config: GraceKTOSettings) -> int:
    """The number of rounds of the semi-online loop."""
    return config.loop.rounds


def round_line(manifests: Sequence[Manifest]) -> str:
    """Summarise a finished round in one line: rows, matched share, mean length L in tokens, loss.

    Args:
        manifests: the manifests of the round's stages.
    """
    made = {manifest.stage: manifest for manifest in manifests}
    if "calibrate" not in made:  # a policy that was pulled, or is of a run that this one continues
        return f"policy {made['policy'].repo} kept"
    weights, policy = made["calibrate"], made["policy"]
    # Unscored are the rows without a match, and the few matched ones that lack a ranked metric.
    matched = 1 - weights.counts.get("unscored", 0) / weights.rows.written
    loss = policy.results.get("loss", float("nan"))
    # Where nothing matched, the column has no value and so no summary.
    length = f"{weights.metrics['length'].mean:.1f}" if "length" in weights.metrics else "–"
    rubric = f", rubric {weights.metrics['rubric'].mean:.2f}" if "rubric" in weights.metrics else ""
    return f"{weights.rows.written} rows, {matched:.0%} matched, L {length}{rubric}, loss {loss:.4f}"


def watch(config: GraceKTOSettings, round_: int, made: Mapping[str, Revision]) -> Iterator[str]:
    """Say how good a round's data is and what its policy has learned; see `quality` and `evaluate` beside this module.

    Raises:
        UserError: the loop should not go on after this round.
    """
    from training.grace_kto.evaluate import learned
    from training.grace_kto.quality import look_at, require_no_alarm

    lines = learned(config, round_) if config.loop.held_out else []
    said, reason = look_at(config, round_, made, lines)
    yield from (*([said] if said else []), *lines)
    require_no_alarm(reason)


def compared(datasets: Sequence[Revision]) -> EvaluationTable | None:
    """Compare policies by their answers alone; see `training.grace_kto.compared`."""
    from training.grace_kto.compared import compared_answers

    return compared_answers(datasets)


def evaluate(config: GraceKTOSettings, references: Sequence[str], output: Path) -> EvaluationTable:
    """Compare policies on held-out queries; see `training.grace_kto.compared`."""
    from training.grace_kto.evaluate import evaluate_policies

    return evaluate_policies(config, references, output)


def evaluate_contexts(
    config: GraceKTOSettings, references: Sequence[str], output: Path, windows: Sequence[int], methods: Sequence[str]
) -> EvaluationTable:
    """Compare a policy's context windows and methods; see `training.grace_kto.contexts`."""
    from training.grace_kto import contexts

    return contexts.evaluate_contexts(config, references, output, windows, methods)


def costs(config: GraceKTOSettings) -> CostPlan:
    """Count what a run will cost; see `training.grace_kto.costs`."""
    from training.grace_kto.costs import plan_costs

    return plan_costs(config)


def rehearse(config: GraceKTOSettings, random_weights: bool) -> Sequence[Rehearsed]:
    """Run everything once, small; see `training.grace_kto.rehearsal`."""
    from training.grace_kto import rehearsal

    return rehearsal.rehearse(config, random_weights=random_weights)


# In topological order: every stage stands after those it reads.
GRACE_KTO = Pipeline(
    name="grace-kto",
    settings=GraceKTOSettings,
    stages=(
        *WORLD,
        SEED,
        FORMAT,
        SFT,
        GENERATE,
        SAMPLE,
        CRITERIA,
        RATE,
        SCORE,
        CALIBRATE,
        POLICY,
        ANSWERS,
        EVALUATIONS,
        COMPARISONS,
    ),
    last="policy",
    preset="tiny",
    rounds=rounds,
    round_line=round_line,
    watch=watch,
    compared=compared,
    evaluate=evaluate,
    evaluate_contexts=evaluate_contexts,
    costs=costs,
    rehearse=rehearse,
)
