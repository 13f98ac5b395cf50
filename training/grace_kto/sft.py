"""The model stage `sft`: the first policy, fine-tuned on the seeds that have a reference document (§3.1)."""

import logging
from collections.abc import Mapping, Set
from pathlib import Path

from builders.cards.card import Card
from builders.core.models import LocalModel
from builders.core.prompting import answer, chat
from builders.core.stage import At, Context, Stage, Trained
from builders.grace_kto import roles
from builders.grace_kto.card import facts, recipe
from builders.grace_kto.columns import SEED_COLUMNS
from builders.grace_kto.languages import system_for
from builders.grace_kto.messages import system_prompts
from builders.grace_kto.settings import GraceKTOSettings
from builders.store.columns import require_columns
from builders.store.store import Revision
from scorers.errors import UserError
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


def precheck(config: GraceKTOSettings, models: Mapping[str, LocalModel], above: Set[str]) -> None:
    """Refuse a base model whose chat template cannot be trained on, before the seeds are read."""
    if "base" in models:
        from training.chat import require_template

        systems, template_kwargs = system_prompts(config, None).values(), config.engines.policy.chat_template_kwargs
        require_template(models["base"].path, systems, template_kwargs, sampled=False)


def train(context: Context[GraceKTOSettings], output: Path) -> Trained:
    """Fine-tune the base model on the seed documents.

    Args:
        context: the configuration, the seed dataset and the base model.
        output: folder to write the model into.

    Returns:
        The number of rows and the training's metrics.

    Raises:
        UserError: no seed has a reference, or the base model cannot be trained.
    """
    from training.sft.finetune import run_sft

    seeds, base = context.inputs["seed"], context.models["base"]
    require_columns(seeds.schema(), SEED_COLUMNS, str(seeds))
    documents = seeds.scan().select("query", "reference").drop_nulls().collect()
    if documents.is_empty():
        raise UserError(f"{seeds}: no seed has a reference document; set seed.columns.reference, or models.policy")
    system = system_prompts(context.config, None)
    conversations = [
        {"prompt": chat(query, system=system_for(query, system)), "completion": answer(reference)}
        for query, reference in documents.iter_rows()
    ]
    more = context.inputs.get("exercises")
    log.info("sft: %s on %d seed documents", base.record.id, documents.height)
    metrics = run_sft(
        base=base.path,
        output=output,
        conversations=[*conversations, *([] if more is None else more.scan().collect().to_dicts())],
        settings=context.config.sft,
        template_kwargs=context.config.engines.policy.chat_template_kwargs,
    )
    # Seconds differ from run to run; a manifest must not.
    results = {name: value for name, value in metrics.items() if name != "seconds"}
    return Trained(rows=int(metrics["rows"]), results=results)


SFT = Stage(
    name="sft",
    kind="model",
    suffix="sft",
    version=2,
    parents=("seed",),
    also=exercises,
    precheck=precheck,
    roles={"base": roles.base},
    sections=("sft", "engines.policy.chat_template_kwargs", "threads"),
    per_round=False,
    prompts=prompts,
    bytes_depend_on=processor,
    train=train,
    card=Card("grace_kto/sft.md.jinja", tags=("trl", "sft"), facts=facts, recipe=recipe),
)
