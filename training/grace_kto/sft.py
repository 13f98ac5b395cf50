"""The model stage `sft`: the first policy, fine-tuned on the seeds that have a reference document (§3.1).

It reads the seeds, whose documents need the tagged form, or the dataset of stage `format`, which has given it to them.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from builders.cards.card import Card
from builders.core.machine import local_engine
from builders.core.models import on_disk, require_policy
from builders.core.prompting import answer, chat
from builders.core.stage import At, Context, FindModel, Stage, Trained
from builders.grace_kto import roles
from builders.grace_kto.card import facts, recipe
from builders.grace_kto.columns import SEED_COLUMNS
from builders.grace_kto.format import FORMATTED, WITH_FORM
from builders.grace_kto.languages import system_for
from builders.grace_kto.messages import system_prompts
from builders.grace_kto.ready import trial_prompts
from builders.grace_kto.settings import GraceKTOSettings
from builders.grace_kto.stages import FORMAT
from builders.store.columns import require_columns
from builders.store.revision import Revision
from scorers.errors import UserError
from training.chat import require_answers, template_options
from training.grace_kto.documents import prepare
from training.ready import require_training
from training.tuning import reported
from training.world.stages import processor

log = logging.getLogger(__name__)


def parents(config: GraceKTOSettings, round_: int) -> dict[str, At]:
    """What SFT trains on besides the seed documents or in their place, by the name under which the stage reads it.

    With a teacher the documents come from stage `format`. The generated world's base model learns here to write
    queries; a pretrained model needs no such exercises.
    """
    formatted = {} if config.models.teacher is None else {"seed": At("format")}
    return formatted | ({"exercises": At("world:exercises")} if config.models.base == "world:base" else {})


def prompts(config: GraceKTOSettings, inputs: Mapping[str, Revision]) -> dict[str, str]:
    """The system prompts for the tagged form, by name, or those that formatted documents have; empty for none."""
    documents = inputs["seed"]
    return system_prompts(config, documents.manifest if is_formatted(documents) else None)


def ready(config: GraceKTOSettings, find: FindModel) -> None:
    """Check what SFT needs of machine, base model and chat template.

    Raises:
        UserError: as `require_training`, `require_policy` and `require_end`.
    """
    engine = local_engine("engines.policy", config.engines.policy, "SFT")
    found = find(config.models.base)
    base = None if found is None else on_disk(found, "SFT")
    require_training("sft", config.sft, base, config.nproc)
    if base is not None:
        require_policy(engine, base, trial_prompts(config, system=True))
        require_answers(engine, base)


def train(context: Context[GraceKTOSettings], output: Path) -> Trained:
    """Fine-tune the base model on the seed documents.

    Args:
        context: the configuration, the seed dataset and the base model.
        output: folder to write the model into.

    Returns:
        The number of rows and the training's metrics.

    Raises:
        UserError: no seed has a reference, the references do not have the tagged form (`documents.prepare`), or the
            base model cannot be trained.
    """
    from training.sft.finetune import run_sft

    seeds, base = context.inputs["seed"], context.local("base")
    conversations, counts = formatted(seeds) if is_formatted(seeds) else wrapped(seeds, context.config)
    exercise = context.inputs.get("exercises")
    more = [] if exercise is None else exercise.scan().collect().to_dicts()
    found = ", ".join(f"{count} {name.removeprefix('documents ')}" for name, count in counts.items())
    log.info("sft: %s on %d seed documents (%s)", base.record.id, len(conversations), found)
    metrics = run_sft(
        base=base.path,
        output=output,
        conversations=[*conversations, *more],
        settings=context.config.sft,
        template_kwargs=template_options(local_engine("engines.policy", context.config.engines.policy, "SFT")),
        logs=context.store.log_path(context.work),
    )
    counts |= {"other exercises": len(more)} if more else {}
    result = reported(metrics)
    return replace(result, counts={**counts, **result.counts})


def is_formatted(documents: Revision) -> bool:
    """Whether a dataset is one of stage `format`, whose rows are conversations already."""
    return documents.manifest is not None and documents.manifest.stage == FORMAT.name


def formatted(documents: Revision) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Return the conversations of a dataset of stage `format`, and how many had the form before."""
    rows = documents.scan().select("attempts", "prompt", "completion").collect()
    given = rows.filter(pl.col("attempts") == 0).height
    counts = {WITH_FORM: given, FORMATTED: rows.height - given}
    return rows.drop("attempts").to_dicts(), {name: count for name, count in counts.items() if count}


def wrapped(seeds: Revision, config: GraceKTOSettings) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Return the conversations of the seeds that have a reference document, and the counts of `documents.prepare`.

    Raises:
        UserError: no seed has a reference, or the references do not have the tagged form.
    """
    require_columns(seeds.schema(), SEED_COLUMNS, str(seeds))
    documents = seeds.scan().select("query", "reference").drop_nulls().collect()
    if documents.is_empty():
        raise UserError(f"{seeds}: no seed has a reference document; set seed.columns.reference, or models.policy")
    system = system_prompts(config, None)
    texts, counts = prepare(documents["reference"].to_list(), config.sft.untagged)
    conversations = [
        {"prompt": chat(query, system=system_for(query, system)), "completion": answer(text)}
        for query, text in zip(documents["query"], texts, strict=True)
        if text is not None
    ]
    return conversations, counts


SFT = Stage(
    name="sft",
    kind="model",
    suffix="sft",
    version=2,
    parents=("seed",),
    also=parents,
    instead={"seed": FORMAT.name},
    roles={"base": roles.base},
    sections=("sft", "engines.policy.chat_template", "engines.policy.chat_template_kwargs", "threads"),
    per_round=False,
    prompts=prompts,
    ready=ready,
    bytes_depend_on=processor,
    train=train,
    together=True,
    card=Card("grace_kto/sft.md.jinja", tags=("trl", "sft"), facts=facts, recipe=recipe),
)
