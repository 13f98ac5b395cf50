"""The loop over rounds (§3.5 of GRACE-KTO): the last stage of every round, one round after the other.

What is there and fresh is kept, so the loop stops and resumes anywhere.
"""

import logging

from builders.core.pipeline import Pipeline
from builders.core.run import StageResult, run
from builders.settings.base import Settings
from training.pipelines import pipeline_of

log = logging.getLogger(__name__)


def run_loop(config: Settings) -> list[StageResult]:
    """All rounds; what each stage of each round yielded, the last one the last round's last stage.

    Raises:
        UserError: for a user's mistake; what was finished before stays in the store.
    """
    pipeline = pipeline_of(config)
    rounds = pipeline.rounds(config)
    results: list[StageResult] = []
    for round_ in range(1, rounds + 1):
        done = [result for result in run(pipeline, config, pipeline.last, round_=round_) if result.round in (0, round_)]
        known = {(result.stage, result.round) for result in results}
        results += [result for result in done if (result.stage, result.round) not in known]
        log.info("round %d/%d: %s", round_, rounds, _line(pipeline, done))
    return results


def _line(pipeline: Pipeline, done: list[StageResult]) -> str:
    """What the pipeline says of a round, and the time it took."""
    manifests = [result.revision.manifest for result in done]
    said = "" if pipeline.round_line is None else pipeline.round_line([m for m in manifests if m is not None]) + ", "
    return f"{said}{sum(result.seconds for result in done):.0f} s"
