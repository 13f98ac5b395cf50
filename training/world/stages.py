"""The generated world as stages: its texts are datasets and its models are models, made locally from a seed.

    world:seeds      {"query", "reference", "language"}     world:heldout  {"query"}
    world:exercises  conversations for SFT, {"prompt", "completion"}
    world:base       the model that SFT starts from         world:bge-m3   the relevance model
    world:general    the general language model             world:domain   the same, trained further on domain texts

Their repositories carry the world's seed, not the run's name, so that runs of one store share them. Every training runs
on one thread: equal seeds give equal weights on one kind of processor, whatever else the computer does.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from builders.cards.card import Card
from builders.core.stage import Context, Shard, ShardResult, Stage, Trained
from builders.settings.base import Settings
from builders.store.columns import MESSAGES, Column, column, frame_of
from builders.store.revision import Revision
from training.world.texts import Prompt, World

Rows = Callable[[World], list[dict[str, Any]]]  # the texts of one dataset, as rows
Training = Callable[[Prompt, Context[Any], Path], Trained]  # trains one model into a folder

VERSION = 3  # raise it when any text, size or step count of the world changes
SEED_DOCUMENTS = 4_000
HELD_OUT_QUERIES = 1_024  # half for choices, half for what is reported of them
EXERCISES = 700

MODEL_CARD = Card("world/model.md.jinja", tags=("tiny",))
RELEVANCE_CARD = Card("world/relevance.md.jinja", tags=("tiny",), task="sentence-similarity")

QUERY = column("query", pl.String, "a writing request of the generated world")
SEED_COLUMNS = (
    QUERY,
    column("reference", pl.String, "a document in the tagged form, good or less good on purpose"),
    column("language", pl.String, "en"),
)
EXERCISE_COLUMNS = (
    column("prompt", MESSAGES, "five requests of the world, and the wish for more of them"),
    column("completion", MESSAGES, "a Python list of new requests"),
)


def stem(config: Settings) -> str:
    """The beginning of the world's repository names."""
    return f"{config.pipeline}-world-{config.world.seed}"


def seeds(world: World) -> list[dict[str, Any]]:
    """Queries with their reference documents."""
    return [dict(row) for row in world.seed_documents(SEED_DOCUMENTS)]


def heldout(world: World) -> list[dict[str, Any]]:
    """Queries that are never seeds, for evaluation."""
    return [{"query": query} for query in world.heldout_queries(HELD_OUT_QUERIES)]


def exercises(prompt: Prompt, world: World) -> list[dict[str, Any]]:
    """Conversations that teach a model to write queries.

    They come from another seed than the base model's conversations, so that SFT sees new ones.
    """
    return [dict(row) for row in World(world.seed + 1_000_000).query_conversations(EXERCISES, prompt)]


def one_shard(context: Context[Settings]) -> list[Shard]:
    """A single shard: the texts are few, so one file holds them."""
    return [Shard(0, None)]


def write_texts(rows: Rows, columns: tuple[Column, ...], context: Context[Settings], shard: Shard) -> ShardResult:
    """Write one kind of text of the configured world, as rows with these columns."""
    frame = frame_of(rows(World(context.config.world.seed)), columns)
    return ShardResult(frame, {"read": frame.height})


def train_base(prompt: Prompt, context: Context[Settings], output: Path) -> Trained:
    """Train the model that SFT starts from."""
    from training.world import models

    return on_one_thread(output, partial(models.train_base, seed=context.config.world.seed, prompt=prompt))


def make_blank(prompt: Prompt, context: Context[Any], output: Path) -> Trained:
    """Make a model of the base model's shape that has learned nothing."""
    from training.world import models

    return on_one_thread(output, partial(models.make_blank, seed=context.config.world.seed, prompt=prompt))


def train_general(prompt: Prompt, context: Context[Settings], output: Path) -> Trained:
    """Train the general language model."""
    from training.world import models

    return on_one_thread(output, partial(models.train_general, seed=context.config.world.seed, prompt=prompt))


def train_domain(prompt: Prompt, context: Context[Settings], output: Path) -> Trained:
    """Train the domain language model, starting from the general one."""
    from training.world import models

    start = context.inputs["world:general"].path
    return on_one_thread(
        output, partial(models.train_domain, general=start, seed=context.config.world.seed, prompt=prompt)
    )


def train_relevance(prompt: Prompt, context: Context[Settings], output: Path) -> Trained:
    """Train the relevance model."""
    from training.world import relevance

    return on_one_thread(output, partial(relevance.train_relevance, seed=context.config.world.seed, prompt=prompt))


def on_one_thread(output: Path, train: Callable[[Path], dict[str, float]]) -> Trained:
    """Run a training on one thread; more threads would add numbers up in another order and change the weights."""
    import torch

    output.mkdir(parents=True)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return Trained(rows=0, results=train(output))
    finally:
        torch.set_num_threads(before)


def learned_prompt(prompt: Prompt, config: Settings, inputs: Mapping[str, Revision]) -> dict[str, str]:
    """Return the prompt that the models' tokenizer and the policy learn from, without examples."""
    return {"wish for queries": prompt([], 2)}


def processor(config: Settings) -> list[str]:
    """The reasons why trained weights may differ although the fingerprint is the same."""
    return ["kind of processor"]


def world_stages(prompt: Prompt) -> tuple[Stage, ...]:
    """The stages of the generated world.

    Args:
        prompt: the pipeline's wish for new queries, which the world's models learn to answer.
    """

    return (
        text_stage("seeds", seeds, SEED_COLUMNS),
        text_stage("heldout", heldout, (QUERY,)),
        text_stage("exercises", partial(exercises, prompt), EXERCISE_COLUMNS),
        model_stage("bge-m3", prompt, train_relevance, card=RELEVANCE_CARD),
        base_stage(prompt),
        model_stage("general", prompt, train_general),
        model_stage("domain", prompt, train_domain, parents=("world:general",)),
    )


def base_stage(prompt: Prompt) -> Stage:
    """The stage of the model that fine-tuning starts from."""
    return model_stage("base", prompt, train_base)


def text_stage(name: str, rows: Rows, columns: tuple[Column, ...]) -> Stage:
    """A stage that writes one kind of text of the world."""
    return Stage(
        name=f"world:{name}",
        kind="dataset",
        suffix=name,
        version=VERSION,
        sections=("world",),
        per_round=False,
        stem=stem,
        columns=columns,
        plan=one_shard,
        build=partial(write_texts, rows, columns),
        card=Card("world/texts.md.jinja", tags=("synthetic",)),
    )


def model_stage(
    name: str, prompt: Prompt, train: Training, parents: tuple[str, ...] = (), card: Card = MODEL_CARD
) -> Stage:
    """A stage that makes one model of the world."""
    return Stage(
        name=f"world:{name}",
        kind="model",
        suffix=name,
        version=VERSION,
        parents=parents,
        sections=("world",),
        per_round=False,
        stem=stem,
        prompts=partial(learned_prompt, prompt),
        bytes_depend_on=processor,
        train=partial(train, prompt),
        card=card,
    )
