"""The model stages of WritingBench: a writer trained on selected responses, a critic trained on ratings.

Both are supervised fine-tuning on conversations of the dataset above them.
"""

from functools import partial
from pathlib import Path

import polars as pl

from builders.cards.card import Card
from builders.core.machine import local_engine
from builders.core.models import on_disk, require_policy
from builders.core.prompting import chat
from builders.core.stage import Context, FindModel, Stage, Trained
from builders.settings.base import section_at
from builders.store.columns import MESSAGES, column, require_columns
from builders.writingbench import roles
from builders.writingbench.card import recipe
from builders.writingbench.settings import WritingBenchSettings
from scorers.errors import UserError
from training.chat import require_answers, template_options
from training.ready import require_training
from training.tuning import reported
from training.world.stages import processor

CONVERSATION = (
    column("prompt", MESSAGES, "what the model is asked"),
    column("completion", MESSAGES, "what it is to answer"),
)
# By stage, the role of the model that it starts from.
STARTS = {"writer": "base", "critic": "critic"}


def ready(config: WritingBenchSettings, find: FindModel, *, stage: str) -> None:
    """Check what a training needs of machine, model and chat template.

    Raises:
        UserError: as `require_training`, `require_policy` and `require_answers`.
    """
    engine = local_engine(f"engines.{stage}", getattr(config.engines, stage), f"training a {stage}")
    found = find(getattr(config.models, STARTS[stage]))
    base = None if found is None else on_disk(found, stage)
    require_training(stage, section_at(config, stage), base, config.nproc)
    if base is not None:
        require_policy(engine, base, [chat("Write.")], f"engines.{stage}")
        require_answers(engine, base)


def train(context: Context[WritingBenchSettings], output: Path, *, stage: str) -> Trained:
    """Fine-tune a model on the training rows of the dataset above it.

    Raises:
        UserError: the dataset lacks the conversations, has no row, or the model cannot be trained.
    """
    from training.sft.finetune import run_sft

    (dataset,) = context.inputs.values()
    require_columns(dataset.schema(), CONVERSATION, str(dataset))
    rows = dataset.scan()
    if "split" in dataset.schema():
        rows = rows.filter(pl.col("split") == "train")
    conversations = rows.select("prompt", "completion").collect().to_dicts()
    if not conversations:
        raise UserError(f"{dataset}: no row to train the {stage} on; give a dataset with some")
    engine = local_engine(f"engines.{stage}", context.engine_settings(stage)[0], f"training a {stage}")
    metrics = run_sft(
        base=context.local(STARTS[stage]).path,
        output=output,
        conversations=conversations,
        settings=section_at(context.config, stage),
        template_kwargs=template_options(engine),
        section=stage,
        logs=context.store.log_path(context.work),
    )
    return reported(metrics)


def fine_tuned(name: str, suffix: str, parent: str, *tags: str) -> Stage:
    """Return the stage of a model that is fine-tuned on the conversations of a dataset stage.

    Args:
        name: the stage, whose section of settings and engine have the same name.
        suffix: last part of its repository's name.
        parent: the dataset stage.
        tags: of its card.
    """
    start = STARTS[name]
    return Stage(
        name=name,
        kind="model",
        suffix=suffix,
        version=1,
        parents=(parent,),
        roles={start: getattr(roles, start)},
        sections=(name, f"engines.{name}.chat_template", f"engines.{name}.chat_template_kwargs", "threads"),
        per_round=False,
        ready=partial(ready, stage=name),
        bytes_depend_on=processor,
        train=partial(train, stage=name),
        together=True,
        card=Card(f"writingbench/{name}.md.jinja", tags=("trl", "sft", *tags), recipe=recipe),
    )


WRITER = fine_tuned("writer", "writer", "select")
CRITIC = fine_tuned("critic", "critic-model", "critique", "llm-as-a-judge")
