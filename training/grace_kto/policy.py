"""The model stage `policy`: one pass of weighted KTO over a round's weights; the result samples the next round."""

import logging
from pathlib import Path

from builders.cards.card import Card
from builders.core.machine import local_engine
from builders.core.models import LocalModel, on_disk, require_policy
from builders.core.stage import Context, FindModel, Stage, Trained
from builders.grace_kto import roles
from builders.grace_kto.card import facts, recipe
from builders.grace_kto.columns import WEIGHTS_COLUMNS
from builders.grace_kto.ready import trial_prompts
from builders.grace_kto.settings import GraceKTOSettings
from builders.store.adapter import name_base
from builders.store.columns import require_columns
from builders.store.files import write_text
from builders.store.manifest import read_manifest
from builders.store.ref import is_commit
from builders.store.store import Store
from scorers.errors import UserError
from training.chat import require_rendering, template_options
from training.ready import require_training
from training.world.stages import processor

CHAT_TEMPLATE = "chat_template.jinja"  # as transformers calls it in a model's folder
READ_COLUMNS = WEIGHTS_COLUMNS[-4:]  # weight, label, prompt, completion

log = logging.getLogger(__name__)


def ready(config: GraceKTOSettings, find: FindModel) -> None:
    """Check what KTO needs of machine and policy; of a policy that is still to be made, of the model it is made from.

    Raises:
        UserError: as `require_training`, `require_policy` and `require_rendering`.
    """
    engine = local_engine("engines.policy", config.engines.policy, "training the policy")
    found = find(roles.tokenizer(config, 1))
    model = None if found is None else on_disk(found, "training the policy")
    require_training("train", config.train, model, config.nproc)
    if model is not None:
        require_policy(engine, model, trial_prompts(config, system=False))
        require_rendering(engine, model)


def train(context: Context[GraceKTOSettings], output: Path) -> Trained:
    """Train the round's policy, from the newest checkpoint of the round where there is one.

    Optimizer and schedule go on from round to round: the policy of the round before carries their state.

    Args:
        context: the configuration, the round, the weights dataset and the models.
        output: folder to write the policy into.

    Returns:
        The number of rows and every number of the training's record.

    Raises:
        UserError: the dataset, the policy or the settings do not fit together, or the policy is an adapter of another
            model than the first policy.
    """
    from training.kto.rounds import train_round

    config, settings, round_ = context.config, context.config.train, context.round
    weights, policy, first = context.inputs["calibrate"], context.local("policy"), context.local("base")
    engine = local_engine("engines.policy", config.engines.policy, "training the policy")
    log.info("policy: training on %s at %s", weights.repo, weights.revision)
    require_columns(weights.schema(), READ_COLUMNS, str(weights))
    # With an adapter the initial model is the policy with its adapter off; full fine-tuning has to load it.
    needs_reference = settings.method == "full" and settings.reference == "initial"
    if policy.adapter or needs_reference:
        _require_base(policy, first, round_, context.store)
    record = train_round(
        policy=policy.adapter or policy.path,
        base_model=policy.path if policy.adapter else None,
        output_dir=output,
        run_dir=context.work / "checkpoints",
        dataset=weights.data_files(),
        dataset_digest=weights.digest,
        tokens_dir=context.store.work_path(weights.repo, "tokens"),
        logs_dir=context.store.log_path(context.work),
        settings=settings,
        template_kwargs=template_options(engine),
        round=round_,
        total_rounds=max(config.loop.rounds, round_),
        reference_model=first.path if needs_reference else None,
    )
    for warning in record["warnings"]:
        log.warning("%s: %s", weights, warning)
    # Before the folder is hashed into the manifest.
    if engine.chat_template is not None:  # whoever loads the policy has it then
        write_text(output / CHAT_TEMPLATE, engine.chat_template)
    name_base(output, first.record, context.store)
    counts = {"new_optimizer": 1} if record.pop("new_optimizer") else {}
    results = {name: float(value) for name, value in record.items() if isinstance(value, int | float)}
    return Trained(rows=int(record["rows"]), results=results, counts=counts)


def _require_base(policy: LocalModel, first: LocalModel, round_: int, store: Store) -> None:
    """Check that a later round goes on from the first policy that its policy was made from; equal content is the same.

    An adapter of another model would sample nonsense, and another reference would pull a policy elsewhere.

    Raises:
        UserError: the first policy is another model by now, as after a change of the settings of SFT.
    """
    manifest = read_manifest(policy.adapter or policy.path)
    base = manifest.models.get("base") if manifest is not None and manifest.stage == POLICY.name else None
    if base is None or base == first.record:
        return
    held = store.find(base.id, base.revision, "model") if is_commit(base.revision) else None
    before = _content(policy.path, store) if policy.adapter else held and held.digest
    if before is None or before == _content(first.path, store):
        return
    raise UserError(
        f"policy {policy.record} was made from {base}, and the first policy of this configuration is {first.record}; "
        f"set back what changed it, or make the rounds before round {round_} anew (`train --round 1 --force`)"
    )


def _content(folder: Path, store: Store) -> str:
    """Return the content digest of a model: its manifest's, or that of all files."""
    manifest = read_manifest(folder)
    return store.digest_of(folder) if manifest is None else manifest.digest


POLICY = Stage(
    name="policy",
    kind="model",
    suffix="policy",
    version=2,
    parents=("calibrate",),
    reads=READ_COLUMNS,
    roles={"base": roles.first_policy, "policy": roles.policy},
    sections=("train", "engines.policy.chat_template", "engines.policy.chat_template_kwargs", "loop", "threads"),
    ready=ready,
    bytes_depend_on=processor,
    train=train,
    together=True,
    card=Card("grace_kto/policy.md.jinja", tags=("trl", "kto"), facts=facts, recipe=recipe),
)
