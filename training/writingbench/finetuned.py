"""The model stages of WritingBench: a writer trained on selected responses, a critic trained on ratings.

Both are supervised fine-tuning on conversations of the dataset above them.
"""

from collections.abc import Sequence
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
    )
    # Seconds differ from run to run; a manifest must not.
    return Trained(rows=int(metrics["rows"]), results={k: v for k, v in metrics.items() if k != "seconds"})


def _depends(config: WritingBenchSettings) -> Sequence[str]:
    """Return why trained weights may differ although the fingerprint is the same."""
    return ["kind of processor"]


WRITER = Stage(
    name="writer",
    kind="model",
    suffix="writer",
    version=1,
    parents=("select",),
    roles={"base": roles.base},
    sections=("writer", "engines.writer.chat_template", "engines.writer.chat_template_kwargs", "threads"),
    per_round=False,
    ready=partial(ready, stage="writer"),
    bytes_depend_on=_depends,
    train=partial(train, stage="writer"),
    together=True,
    card=Card("writingbench/writer.md.jinja", tags=("trl", "sft"), recipe=recipe),
)
CRITIC = Stage(
    name="critic",
    kind="model",
    suffix="critic-model",
    version=1,
    parents=("critique",),
    roles={"critic": roles.critic},
    sections=("critic", "engines.critic.chat_template", "engines.critic.chat_template_kwargs", "threads"),
    per_round=False,
    ready=partial(ready, stage="critic"),
    bytes_depend_on=_depends,
    train=partial(train, stage="critic"),
    together=True,
    card=Card("writingbench/critic.md.jinja", tags=("trl", "sft", "llm-as-a-judge"), recipe=recipe),
)
