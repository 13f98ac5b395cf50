"""The semi-online loop (§3.5): build, train, and again with the policy that came out.

Every part is kept when it is there and fresh, so the loop stops and resumes anywhere.
"""

from builders.core.run import StageResult, build
from builders.settings.load import Config
from training.kto.stage import train_policy
from training.pipelines import GRACE_KTO
from training.prepare import log, prepare


def run_loop(config: Config) -> list[StageResult]:
    """All rounds; what each stage of each round yielded, the last one the last policy.

    Raises:
        UserError: for a user's mistake; what was finished before stays in the store.
    """
    prepare(config, GRACE_KTO, 1)
    results: list[StageResult] = []
    for round_ in range(1, config.loop.rounds + 1):
        built = build(config, "calibrate", round_=round_)
        trained = train_policy(config, round_)
        results += [*built, trained]
        log(f"round {round_}/{config.loop.rounds}: {_round_line(built, trained)}")
    return results


def _round_line(built: list[StageResult], trained: StageResult) -> str:
    """One line on a finished round: time, matched share, mean length of the sampled data, loss."""
    weights = built[-1].revision.manifest
    policy = trained.revision.manifest
    if weights is None or policy is None:
        return str(trained.revision)
    matched = 1 - weights.counts.get("unscored", 0) / weights.rows.written
    seconds = sum(result.seconds for result in built) + trained.seconds
    return (
        f"{weights.rows.written} rows, {matched:.0%} matched, L {weights.metrics['length'].mean:.1f}, "
        f"loss {policy.results.get('loss', float('nan')):.4f}, {seconds:.0f} s"
    )
