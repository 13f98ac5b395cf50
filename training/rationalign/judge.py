"""A judge's view of edited texts and of their reasons (RationAlign, §5.3, figure 8)."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from builders.core.draws import derive_seed
from builders.core.models import AnyModel, load_engine_for
from builders.core.prompting import ask_for
from builders.core.replies import begins_in_block
from builders.engines import Engine, Message, SamplingSettings
from builders.rationalign.messages import LANGUAGE, tasks_of
from builders.rationalign.settings import PROMPTS, RationAlignSettings
from scorers.edit_judgement import RESPECTS, read_scores, read_verdicts
from scorers.extraction import cut_thinking
from training.rationalign.outputs import EvaluationSet, Output

T = TypeVar("T")
UNSCORED = "unscored"
CORRECT = "correct reasons"


def judged(
    config: RationAlignSettings, judge: AnyModel, tests: Sequence[EvaluationSet], outputs: Sequence[Sequence[Output]]
) -> dict[str, float | None]:
    """Let a judge rate outputs and reasons.

    Args:
        config: the configuration.
        judge: the model.
        tests: the test sets.
        outputs: by test set, the output of each text.

    Returns:
        The mean of each respect (1 to 5), `correct reasons` (share of the reasons judged), `unscored` (replies that
        could not be read). None where there is nothing to take a mean of.
    """
    by_place = [
        (place, test.task, text.source, output)
        for test, found in zip(tests, outputs, strict=True)
        for place, (text, output) in enumerate(zip(test.texts, found, strict=True))
    ]
    # Where not all are judged, as many of each test set.
    by_place.sort(key=lambda one: one[0])
    shown = [(task, source, output) for _, task, source, output in by_place[: config.evaluate.judged]]
    tasks = tasks_of(config)
    engine = load_engine_for(config.engines.judge, judge, None, "engines.judge")
    try:
        ratings = _asked(
            config,
            engine,
            [_ask(tasks[task].change, "judge", source, output) for task, source, output in shown],
            lambda number, reply: read_scores(reply),
        )
        reasoned = [(task, source, output) for task, source, output in shown if output.reasons]
        verdicts = _asked(
            config,
            engine,
            [_ask(tasks[task].change, "reasons", source, output) for task, source, output in reasoned],
            lambda number, reply: read_verdicts(reply, len(reasoned[number][2].reasons)),
        )
    finally:
        engine.close()
    scored = [rating for rating in ratings if rating is not None]
    correct = [float(one) for verdict in verdicts if verdict is not None for one in verdict]
    means = {name: _mean([float(rating[name]) for rating in scored]) for name in RESPECTS}
    return {**means, CORRECT: _mean(correct), UNSCORED: float([*ratings, *verdicts].count(None))}


def _ask(task: str, kind: str, source: str, output: Output) -> list[Message]:
    texts = (source, output.suggestion, *output.reasons)
    return ask_for(
        PROMPTS, kind, LANGUAGE, *texts, task=task, source=source, suggestion=output.suggestion, reasons=output.reasons
    )


def _asked(
    config: RationAlignSettings,
    engine: Engine,
    prompts: Sequence[list[Message]],
    read: Callable[[int, str], T | None],
) -> list[T | None]:
    """Ask until every reply can be read, or as often as `explain.attempts` says."""
    settings, found = config.explain, dict[int, T]()
    sampling = SamplingSettings(settings.max_new_tokens, settings.temperature, settings.top_p)
    for attempt in range(settings.attempts if settings.temperature else 1):
        waiting = [number for number in range(len(prompts)) if number not in found]
        if not waiting:
            break
        seeds = [derive_seed(config.random_seed, "judge", number, attempt) for number in waiting]
        opened = begins_in_block(
            engine, [prompts[0]], settings.thinking_tags, config.engines.judge.chat_template_kwargs
        )
        for number, completion in zip(
            waiting, engine.generate([prompts[number] for number in waiting], seeds, sampling), strict=True
        ):
            text = completion.text
            if settings.thinking_tags is not None:
                text, thought = cut_thinking(text, settings.thinking_tags, opened=opened)
                text = "" if thought == "unclosed" else text
            if (answer := read(number, text)) is not None:
                found[number] = answer
    return [found.get(number) for number in range(len(prompts))]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
