"""What writing assistants make of test texts: suggestions with their reasons, greedy or drawn."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from builders.core.draws import derive_seed
from builders.core.models import LocalModel, load_engine_for, pick_device, pick_dtype
from builders.core.replies import begins_in_block
from builders.core.run import run
from builders.engines import SamplingSettings
from builders.engines.prompts import fits_window
from builders.rationalign import messages
from builders.rationalign.contest import sampling_of
from builders.rationalign.settings import RationAlignSettings
from builders.rationalign.texts import nothing_in, read_texts
from builders.store.revision import Revision
from scorers.editing import Edited, Metric
from scorers.errors import UserError
from scorers.extraction import cut_thinking
from scorers.rationale import reasons_of
from scorers.reward import RewardModels
from scorers.suggestion import Answer, read_answer
from training.rationalign.pipeline import RATIONALIGN


@dataclass(frozen=True)
class EvaluationSet:
    """Labelled texts of one task.

    Attributes:
        name: in the table.
        task: what is asked for.
        metric: how outputs are compared.
        texts: the texts with their references.
    """

    name: str
    task: str
    metric: Metric
    texts: Sequence[Edited]


ALL = "ALL"
"""Name of the mean over all test sets."""


@dataclass(frozen=True)
class Output:
    """What an assistant made of a text.

    Attributes:
        suggestion: the new text; the old one where the answer has none that can be read.
        reasons: a sentence each.
        read: whether the answer could be read.
    """

    suggestion: str
    reasons: Sequence[str]
    read: bool


def evaluation_sets(config: RationAlignSettings) -> list[EvaluationSet]:
    """Return the test sets of the configuration; a source with several tasks is one for each.

    Sets of several tasks that have one name are told apart by the task, as in `mine gec`.

    Raises:
        UserError: there is none, a source is missing or has no text, or two have one name.
    """
    if not config.evaluate.sources:
        raise UserError("evaluate.sources names no test set; give labelled texts: [{source: FILE, task: gec}, …]")
    found: dict[tuple[str, str], list[Edited]] = {}
    for source in config.evaluate.sources:
        parent: Revision | None = None
        if RATIONALIGN.find(source.source) is not None:
            parent = run(RATIONALIGN, config, source.source)[-1].revision
        counts: Counter[str] = Counter()
        own: dict[tuple[str, str], list[Edited]] = {}
        for text in read_texts(config, source, parent, counts, labelled=True):
            name = source.name or text.task
            own.setdefault((name, text.task), []).append(Edited(text.source, text.references, text.gold))
        if not own:
            raise UserError(f"evaluate.sources: {nothing_in(source.source, counts)}")
        if twice := sorted(own.keys() & found.keys()):
            raise UserError(
                f"evaluate.sources: {source.source}: there is a test set {twice[0][0]} already; give this one a name"
            )
        found |= own
    shared = Counter(name for name, _ in found)
    limit = config.evaluate.per_task
    sets = [
        EvaluationSet(
            name if shared[name] == 1 else f"{name} {task}",
            task,
            messages.task_of(config, task, name).metric,
            texts[:limit],
        )
        for (name, task), texts in found.items()
    ]
    for name, number in Counter([ALL, *(one.name for one in sets)]).items():
        if number > 1:
            said = "is the table's mean" if name == ALL else "is what two test sets would be called"
            raise UserError(f"evaluate.sources: {name} {said}; give another name")
    return sets


def edited(config: RationAlignSettings, model: LocalModel, tests: Sequence[EvaluationSet]) -> list[list[Output]]:
    """Let an assistant edit all test texts, greedily; a text over its window stays as it is.

    Returns:
        By test set, the output of each text.
    """
    sampling = SamplingSettings(config.evaluate.max_new_tokens, temperature=0.0)
    answers = _answers(config, model, tests, sampling, 1)
    return [
        [_output(text, drawn[0]) for text, drawn in zip(test.texts, found, strict=True)]
        for test, found in zip(tests, answers, strict=True)
    ]


def drawn(
    config: RationAlignSettings, model: LocalModel, tests: Sequence[EvaluationSet], count: int
) -> list[list[list[str]]]:
    """Draw suggestions for all test texts, as the stage `sample` does.

    Returns:
        By test set and text, the suggestions that could be read.
    """
    answers = _answers(config, model, tests, sampling_of(config.sample), count)
    return [[[answer.suggestion for answer in some if answer] for some in found] for found in answers]


def _answers(
    config: RationAlignSettings,
    model: LocalModel,
    tests: Sequence[EvaluationSet],
    sampling: SamplingSettings,
    count: int,
) -> list[list[list[Answer | None]]]:
    """Ask an assistant, and read its answers; None for one that cannot be read or was not asked for."""
    engine = load_engine_for(config.engines.policy, model, None, "engines.policy")
    variables, tags = config.engines.policy.chat_template_kwargs, config.sample.thinking_tags
    asked = [
        (number, place, messages.ask_to_edit(config, test.task, text.source, config.sft.order))
        for number, test in enumerate(tests)
        for place, text in enumerate(test.texts)
    ]
    try:
        limit = min(sampling.max_new_tokens, engine.context_window // 2)
        settings = SamplingSettings(
            limit,
            sampling.temperature,
            sampling.top_p,
            top_k=sampling.top_k,
            presence_penalty=sampling.presence_penalty,
        )
        fitting = [one for one in asked if fits_window(engine, one[2], limit, variables)]
        prompts = [(number, place, said, j) for number, place, said in fitting for j in range(count)]
        seeds = [derive_seed(config.random_seed, "evaluate", number, place, j) for number, place, _, j in prompts]
        completions = engine.generate([said for _, _, said, _ in prompts], seeds, settings) if prompts else []
        opened = begins_in_block(engine, [said for _, _, said, _ in prompts[:1]], tags, variables)
    finally:
        engine.close()
    found: list[list[list[Answer | None]]] = [[[None] * count for _ in test.texts] for test in tests]
    for (number, place, _, j), completion in zip(prompts, completions, strict=True):
        text, thought = completion.text, "none"
        if tags is not None:
            text, thought = cut_thinking(text, tags, opened=opened)
        found[number][place][j] = None if thought == "unclosed" else read_answer(text)
    return found


def _output(text: Edited, answer: Answer | None) -> Output:
    if answer is None:
        return Output(text.source, (), read=False)
    return Output(answer.suggestion, reasons_of(answer.rationale or ""), read=True)


def reward_models(config: RationAlignSettings, model: LocalModel) -> RewardModels:
    """Load a reward model as the stage `prefer` does."""
    settings = config.prefer
    device = pick_device(settings.device)
    dtype = pick_dtype(settings.dtype, device)
    return RewardModels(
        model.path,
        model.adapter,
        device=device,
        dtype=dtype,
        batch_size=settings.batch_size,
        max_length=settings.max_length,
        name=str(model.record),
    )


def formal_share(texts: Sequence[str], classifier: Path, label: str, device: str) -> float:
    """Return the share of texts that a sequence classifier finds formal (Rao and Tetreault, 2018).

    Args:
        texts: the texts.
        classifier: folder of the model.
        label: the name that it has for formal texts.
        device: auto, cpu or cuda.

    Raises:
        UserError: it has no such label.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(classifier, trust_remote_code=False, padding_side="right")
    model = AutoModelForSequenceClassification.from_pretrained(classifier, trust_remote_code=False)
    numbers = {str(name): number for number, name in model.config.id2label.items()}
    if label not in numbers:
        raise UserError(f"evaluate.formal is {label}, and models.classifier has the labels {', '.join(numbers)}")
    model.to(pick_device(device)).eval()
    right = 0
    with torch.inference_mode():
        for start in range(0, len(texts), 64):
            batch = tokenizer(
                list(texts[start : start + 64]), return_tensors="pt", padding=True, truncation=True, max_length=512
            )
            found = model(**batch.to(model.device)).logits.argmax(-1)
            right += int((found == numbers[label]).sum())
    return right / len(texts)
