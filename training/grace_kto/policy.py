"""The model stage `policy`: one pass of weighted KTO over a round's weights; the result samples the next round."""

import logging
from pathlib import Path

from builders.cards.card import Card
from builders.core.stage import Context, Stage, Trained
from builders.grace_kto import roles
from builders.grace_kto.card import facts, recipe
from builders.grace_kto.columns import WEIGHTS_COLUMNS
from builders.grace_kto.settings import GraceKTOSettings
from builders.settings.base import identity
from builders.store.adapter import with_base
from builders.store.columns import require_columns
from builders.store.files import ADAPTER_CONFIG, write_text
from builders.store.manifest import Model, fingerprint_of, portable
from builders.store.store import Store, is_commit, is_local
from training.world.stages import processor

READ_COLUMNS = WEIGHTS_COLUMNS[-4:]  # weight, label, prompt, completion

log = logging.getLogger(__name__)


def train(context: Context[GraceKTOSettings], output: Path) -> Trained:
    """Train the round's policy, from the newest checkpoint of the run where there is one.

    All rounds share one folder of checkpoints beside the build's own folder, because optimizer and schedule go on from
    round to round.

    Args:
        context: the configuration, the round, the weights dataset and the models.
        output: folder to write the policy into.

    Returns:
        The number of rows and every number of the training's record.

    Raises:
        UserError: the dataset, the policy or the settings do not fit together.
    """
    from training.kto.rounds import train_round

    config, settings, round_ = context.config, context.config.train, context.round
    weights, policy, first = context.inputs["calibrate"], context.models["policy"], context.models["base"]
    log.info("policy: training on %s at %s", weights.repo, weights.revision)
    require_columns(weights.schema(), READ_COLUMNS, str(weights))
    # With an adapter the initial model is the policy with its adapter off; full fine-tuning has to load it.
    needs_reference = settings.method == "full" and settings.reference == "initial"
    run = context.work.parent / f"run-{_run_key(config, first.record)}"
    record = train_round(
        policy=policy.adapter or policy.path,
        base_model=policy.path if policy.adapter else None,
        output_dir=output,
        run_dir=run,
        dataset=weights.data_files(),
        dataset_digest=weights.digest,
        tokens_dir=context.store.work_path(weights.repo, "tokens"),
        settings=settings,
        template_kwargs=config.engines.policy.chat_template_kwargs,
        round=round_,
        total_rounds=max(config.loop.rounds, round_),
        reference_model=first.path if needs_reference else None,
    )
    for warning in record["warnings"]:
        log.warning("%s: %s", weights, warning)
    _name_base(output, first.record, context.store)  # before the folder is hashed into the manifest
    results = {name: float(value) for name, value in record.items() if isinstance(value, int | float)}
    # No later round needs the optimizer's state.
    scratch = (run,) if round_ >= config.loop.rounds else ()
    return Trained(rows=int(record["rows"]), results=results, scratch=scratch)


def _run_key(config: GraceKTOSettings, first: Model) -> str:
    """A hash of what all rounds of one run share, which names the run's folder of checkpoints."""
    template = config.engines.policy.chat_template_kwargs
    sections = portable([identity(config.train), identity(config.loop), dict(template)])
    return fingerprint_of([sections, first.model_dump()])[:16]


def _name_base(output: Path, base: Model, store: Store) -> None:
    """Let an adapter's configuration name its base model by repository and commit, or not at all.

    A folder and a model of the store are names of this machine alone: the manifest records them, and stock PEFT must
    not ask the Hub for them.
    """
    if not (output / ADAPTER_CONFIG).is_file():
        return
    held = store.find(base.id, base.revision, "model") if is_commit(base.revision) else None
    on_hub = is_commit(base.revision) and not is_local(base.id) and (held is None or not held.made_here)
    write_text(output / ADAPTER_CONFIG, with_base(output, base if on_hub else None).decode())


POLICY = Stage(
    name="policy",
    kind="model",
    suffix="policy",
    version=2,
    parents=("calibrate",),
    reads=READ_COLUMNS,
    roles={"base": roles.first_policy, "policy": roles.policy},
    sections=("train", "engines.policy.chat_template_kwargs", "loop", "threads"),
    bytes_depend_on=processor,
    train=train,
    card=Card("grace_kto/policy.md.jinja", tags=("trl", "kto"), facts=facts, recipe=recipe),
)
