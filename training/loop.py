"""The semi-online loop (GRACE-KTO, §3.5): build the last stage of round 1, then that of round 2, up to the last round.

Stages that are fresh in the store are kept, so the loop can be stopped anywhere and resumes there.
"""

import gc
import logging
import time

from builders.core.nodes import Node
from builders.core.pipeline import Pipeline
from builders.core.run import run
from builders.core.runner import StageResult
from builders.core.stage import Source
from builders.engines.kept_models import close_kept
from builders.settings.base import Settings
from training.pipelines import pipeline_of

log = logging.getLogger(__name__)


def run_loop(config: Settings) -> list[StageResult]:
    """Build and train every round of a configuration.

    Returns:
        One result per stage and round, in the order of building; the last one is the last stage of the last round.

    Raises:
        UserError: for a user's mistake, and where a round's quality says that the next one should not be made; every
            stage that was finished before it stays in the store.
    """
    pipeline = pipeline_of(config)
    rounds = pipeline.rounds(config)
    results: list[StageResult] = []
    sources: dict[Node, Source | None] = {}  # all rounds read the same, also where a branch of the Hub moves meanwhile
    try:
        for round_ in range(1, rounds + 1):
            began = time.monotonic()
            # A run also returns the earlier rounds that this one is built from: keep this round's stages and
            # those that belong to no round (round 0).
            found = run(pipeline, config, pipeline.last, round_=round_, sources=sources)
            done = [result for result in found if result.round in (0, round_)]
            # The stages of round 0 come back in every round: list them once.
            known = {(result.stage, result.round) for result in results}
            results += [result for result in done if (result.stage, result.round) not in known]
            log.info("round %d/%d: %s", round_, rounds, _line(pipeline, done, time.monotonic() - began))
            made = {result.stage: result.revision for result in done}
            for line in () if pipeline.watch is None else pipeline.watch(config, round_, made):
                log.info("round %d/%d: %s", round_, rounds, line)
            # The libraries' objects stay; the next rounds' collections would walk through them, half a second each.
            gc.collect()
            gc.freeze()
    finally:
        gc.unfreeze()  # else libraries report leaks when the process ends
        close_kept()  # what an engine that sleeps has kept from round to round
    return results


def _line(pipeline: Pipeline, done: list[StageResult], seconds: float) -> str:
    """The log line of a finished round: the pipeline's own summary, if it has one, and the seconds the round took."""
    manifests = [result.revision.manifest for result in done]
    said = "" if pipeline.round_line is None else pipeline.round_line([m for m in manifests if m is not None]) + ", "
    return f"{said}{seconds:.0f} s"
