"""What the preset `tiny-rationalign` takes from the generated world: texts to edit, and three small models.

world:pairs        {"task", "source", "references"}: texts of all tasks with references, labelled and not
world:tests        the same of held-out sentences
world:editor       the model that fold models and the writing assistant start from: it has learned to copy
world:reader       the model that the reward model starts from: it tells texts from damaged copies of them
world:formality    a classifier that tells formal texts from informal ones
"""

from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import polars as pl

from builders.core.prompting import answer
from builders.core.stage import Context, Stage, Trained
from builders.rationalign import messages
from builders.store.columns import column
from training.rationalign import editing
from training.world.stages import model_stage, on_one_thread, text_stage
from training.world.texts import Prompt, World

LABELLED_AND_NOT = 1_200  # texts of each task
TESTS = 64  # texts of each task
COLUMNS = (
    column("task", pl.String, "what is asked for"),
    column("source", pl.String, "a sentence of the generated world, damaged or dressed down"),
    column("references", pl.List(pl.String), "as it should be, the first one being the target"),
)


def pairs(world: World) -> list[dict[str, Any]]:
    """Texts of all tasks."""
    return _rows(editing.pairs(world.seed, LABELLED_AND_NOT))


def tests(world: World) -> list[dict[str, Any]]:
    """Texts of held-out sentences."""
    return _rows(editing.pairs(world.seed, TESTS, held_out=True))


def _rows(found: list[editing.Pair]) -> list[dict[str, Any]]:
    return [{"task": pair.task, "source": pair.source, "references": list(pair.references)} for pair in found]


def words(examples: list[str], count: int) -> str:
    """The words that the world's tokenizer has to know besides its own: tasks, prompts, reasons."""
    from builders.core.prompting import read_prompt
    from builders.rationalign.settings import PROMPTS

    said = [text for task in messages.ours().values() for text in (task.edit, task.quality)]
    files = [read_prompt(PROMPTS, name) for name in ("edit.en", "reward.en")]
    return "\n".join([*files, *said, *editing.vocabulary(), messages.NOTHING])


def train_editor(folder: Path, seed: int, steps: int) -> dict[str, float]:
    """Train a model to copy texts under any instruction, from scratch."""
    from training.world import models
    from training.world.tokenizer import save_policy_tokenizer

    save_policy_tokenizer(folder, words)
    rng = Random(f"{seed}/instructions")
    tasks = list(messages.ours().values())
    orders = ("suggestion-first", "rationale-first", "none")
    conversations = [
        {
            "prompt": messages.ask(rng.choice(tasks).edit, text, rng.choice(orders)),  # type: ignore[arg-type]
            "completion": answer(text),
        }
        for text in editing.copies(seed, min(12_000, 32 * steps))
    ]
    return models.train_new(folder, conversations, steps=steps, seed=seed)


def train_reader(folder: Path, seed: int, steps: int) -> dict[str, float]:
    """Train a model to score the less damaged of two copies of a text higher, from scratch.

    As a language model that has read much knows whether a text fits the one before it, a reward model starts with that;
    which edits a task wants it has to learn.
    """
    from training.world import models
    from training.world.tokenizer import save_policy_tokenizer

    save_policy_tokenizer(folder, words)
    form = "Old text:\n{}\n\nNew text:\n{}"
    found = editing.damaged_copies(seed, min(12_000, 32 * steps))
    pairs = [(form.format(text, less), form.format(text, more)) for text, less, more in found]
    return models.train_ranker(folder, pairs, steps=steps, seed=seed)


def train_formality(folder: Path, seed: int, steps: int) -> dict[str, float]:
    """Train a classifier of formal and informal texts, from scratch."""
    from training.world import models
    from training.world.tokenizer import save_policy_tokenizer

    save_policy_tokenizer(folder, words)
    found = [pair for pair in editing.pairs(seed + 1_000_000, 1_000) if pair.task == "formality"]
    rows = [(text, label) for pair in found for text, label in ((pair.source, 0), (pair.references[0], 1))]
    return models.train_classifier(folder, rows, {0: "informal", 1: "formal"}, steps=steps, seed=seed)


def _train(prompt: Prompt, context: Context[Any], output: Path, *, kind: str, steps: int) -> Trained:
    train = {"editor": train_editor, "reader": train_reader, "formality": train_formality}[kind]
    return on_one_thread(output, partial(train, seed=context.config.world.seed, steps=steps))


def _model(name: str, steps: int) -> Stage:
    return model_stage(name, words, partial(_train, kind=name, steps=steps))


WORLD: tuple[Stage, ...] = (
    text_stage("pairs", pairs, COLUMNS),
    text_stage("tests", tests, COLUMNS),
    _model("editor", steps=700),
    _model("reader", steps=500),
    _model("formality", steps=150),
)
