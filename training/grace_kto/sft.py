"""The model stage `sft`: the first policy, fine-tuned on the seeds that have a reference document (§3.1)."""

import logging
from collections.abc import Mapping
from pathlib import Path

from builders.cards.card import Card
from builders.core.machine import local_engine
from builders.core.models import on_disk, require_policy
from builders.core.prompting import answer, chat
from builders.core.stage import At, Context, FindModel, Stage, Trained
from builders.grace_kto import roles
from builders.grace_kto.card import facts, recipe
from builders.grace_kto.columns import SEED_COLUMNS
from builders.grace_kto.languages import system_for
from builders.grace_kto.messages import system_prompts
from builders.grace_kto.ready import trial_prompts
from builders.grace_kto.settings import GraceKTOSettings
from builders.store.columns import require_columns
from builders.store.revision import Revision
from scorers.errors import UserError
from training.chat import require_answers, template_options
from training.grace_kto.documents import prepare
from training.ready import require_training
from training.world.stages import processor

log = logging.getLogger(__name__)


def exercises(config: GraceKTOSettings, round_: int) -> dict[str, At]:
    """The conversations that SFT trains on besides the seed documents, by the name under which the stage reads them.

    The generated world's base model learns here to write queries; a pretrained model needs no such exercises.
    """
    return {"exercises": At("world:exercises")} if config.models.base == "world:base" else {}


def prompts(config: GraceKTOSettings, inputs: Mapping[str, Revision]) -> dict[str, str]:
    """The system prompts for the tagged form, by name; empty where there is none."""
    return system_prompts(config, None)


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
    require_columns(seeds.schema(), SEED_COLUMNS, str(seeds))
    documents = seeds.scan().select("query", "reference").drop_nulls().collect()
    if documents.is_empty():
        raise UserError(f"{seeds}: no seed has a reference document; set seed.columns.reference, or models.policy")
    system = system_prompts(context.config, None)
    texts, counts = prepare(documents["reference"].to_list(), context.config.sft.untagged)
    conversations = [
        {"prompt": chat(query, system=system_for(query, system)), "completion": answer(text)}
        for query, text in zip(documents["query"], texts, strict=True)
        if text is not None
    ]
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
    )
    # Seconds differ from run to run; a manifest must not.
    results = {name: value for name, value in metrics.items() if name != "seconds"}
    counts |= {"other exercises": len(more)} if more else {}
    return Trained(rows=int(metrics["rows"]), results=results, counts=counts)


SFT = Stage(
    name="sft",
    kind="model",
    suffix="sft",
    version=2,
    parents=("seed",),
    also=exercises,
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
