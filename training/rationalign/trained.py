"""The model stages of RationAlign: fold models, the reward model, the writing assistant, and its alignment."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from builders.cards.card import Card
from builders.core.machine import local_engine
from builders.core.models import on_disk, require_policy
from builders.core.prompting import answer, chat
from builders.core.stage import Context, FindModel, Stage, Trained
from builders.core.work import first_process
from builders.rationalign import messages, roles
from builders.rationalign.card import recipe
from builders.rationalign.columns import CONTESTS_COLUMNS, PAIRS_COLUMNS, PREFERENCES_COLUMNS, RATIONALES_COLUMNS
from builders.rationalign.settings import FOLDS, RationAlignSettings
from builders.settings.base import section_at
from builders.store.adapter import name_base
from builders.store.columns import require_columns
from builders.store.revision import Revision
from scorers.errors import UserError
from scorers.suggestion import write_answer
from training.chat import require_answers, template_options
from training.ready import require_training
from training.tuning import reported
from training.world.stages import processor

RationAlignContext = Context[RationAlignSettings]
# What the trainings read of a dataset, the user's own too.
CONTEST_READ = tuple(c for c in CONTESTS_COLUMNS if c.name in ("task", "chosen", "rejected"))
PREFERENCE_READ = tuple(
    c for c in PREFERENCES_COLUMNS if c.name in ("prompt", "chosen", "rejected", "reward_chosen", "reward_rejected")
)
TEMPLATE = ("engines.policy.chat_template", "engines.policy.chat_template_kwargs")


def ready(config: RationAlignSettings, find: FindModel, *, section: str, start: str) -> None:
    """Check what training a writing assistant needs of machine, model and chat template.

    Raises:
        UserError: as `require_training`, `require_policy` and `require_answers`.
    """
    engine = local_engine("engines.policy", config.engines.policy, f"training {section}")
    found = find(getattr(config.models, start))
    model = None if found is None else on_disk(found, section)
    require_training(section, section_at(config, section), model, config.nproc)
    if model is not None:
        require_policy(engine, model, [chat("Edit.")], "engines.policy")
        require_answers(engine, model)


def reward_ready(config: RationAlignSettings, find: FindModel) -> None:
    """Check what training the reward model needs of machine and model.

    Raises:
        UserError: as `require_training`.
    """
    found = find(config.models.reward)
    model = None if found is None else on_disk(found, "reward")
    require_training("reward", config.reward, model, config.nproc)


def fold_ready(config: RationAlignSettings, find: FindModel, *, fold: int) -> None:
    """Check what training a fold model needs.

    Raises:
        UserError: there is no such fold; as `ready`.
    """
    require_fold(config, fold)
    ready(config, find, section="fold", start="base")


def require_fold(config: RationAlignSettings, fold: int) -> None:
    """Check that a fold is one of the configuration's: a model without another one would have seen every pair.

    Raises:
        UserError: it is not.
    """
    if fold > config.pairs.folds:
        raise UserError(
            f"--stage fold-{fold}: pairs.folds is {config.pairs.folds}; train fold-1 … fold-{config.pairs.folds}"
        )


def train_fold(context: RationAlignContext, output: Path, *, fold: int) -> Trained:
    """Train x → s on the pairs of all other folds (§3.2.1).

    Raises:
        UserError: no other fold has a pair, and as `run_sft`.
    """
    parent = context.inputs["pairs"]
    require_fold(context.config, fold)
    require_columns(parent.schema(), PAIRS_COLUMNS, str(parent))
    folds = sorted(parent.scan().select(pl.col("fold").unique()).collect()["fold"])
    if (folds and folds[-1] > context.config.pairs.folds) or len(folds) not in (0, 1, context.config.pairs.folds):
        raise UserError(
            f"{parent}: folds {', '.join(map(str, folds))}, and pairs.folds is {context.config.pairs.folds}; set it to "
            "the dataset's: a model would have seen the pairs that it is to be asked about"
        )
    rows = parent.scan().filter(pl.col("fold") != fold).select("task", "source", "target").collect()
    messages.require_tasks(context.config, rows["task"], parent)
    if rows.is_empty():
        raise UserError(f"{parent}: no pair outside fold {fold} to train on; give labelled texts of several folds")
    config = context.config
    conversations = [
        {"prompt": messages.ask_to_edit(config, task, source, "none"), "completion": answer(target)}
        for task, source, target in rows.iter_rows()
    ]
    return _sft(context, output, conversations, "fold")


def train_sft(context: RationAlignContext, output: Path) -> Trained:
    """Train the writing assistant: x → s, then e, or in another order (§3.2.2, §5.2).

    Raises:
        UserError: as `run_sft`.
    """
    config, order = context.config, context.config.sft.order
    parent = context.inputs["explain"]
    require_columns(parent.schema(), RATIONALES_COLUMNS, str(parent))
    rows = parent.scan().select("task", "source", "target", "rationale").collect()
    if rows.is_empty():
        raise UserError(f"{parent}: no row to train on; give a dataset of rationales")
    messages.require_tasks(config, rows["task"], parent)
    conversations = [
        {
            "prompt": messages.ask_to_edit(config, task, source, order),
            "completion": answer(write_answer(target, rationale, order)),
        }
        for task, source, target, rationale in rows.iter_rows()
    ]
    return _sft(context, output, conversations, "sft")


def _sft(context: RationAlignContext, output: Path, conversations: list[dict[str, Any]], section: str) -> Trained:
    from training.sft.finetune import run_sft

    engine = local_engine("engines.policy", context.config.engines.policy, f"training {section}")
    metrics = run_sft(
        base=context.local("base").path,
        output=output,
        conversations=conversations,
        settings=section_at(context.config, section),
        template_kwargs=template_options(engine),
        section=section,
        logs=context.store.log_path(context.work),
    )
    return reported(metrics)


def train_reward(context: RationAlignContext, output: Path) -> Trained:
    """Train the reward model on contests.

    Raises:
        UserError: as `run_reward`.
    """
    from training.reward.train import run_reward

    parent = context.inputs["contest"]
    require_columns(parent.schema(), CONTEST_READ, str(parent))
    rows = parent.scan().select(c.name for c in CONTEST_READ).collect()
    for number, row in enumerate(rows.iter_rows(named=True)):
        if row["chosen"] == row["rejected"] or not row["chosen"].strip() or not row["rejected"].strip():
            raise UserError(
                f"{parent}, row {number}: chosen and rejected are equal or blank; a contest needs two texts"
            )
    settings = context.config.reward
    metrics = run_reward(
        base=context.local("base").path,
        output=output,
        pairs=rows.to_dicts(),
        settings=settings,
        per_task=settings.per_task,
        logs=context.store.log_path(context.work),
    )
    if first_process():
        name_base(output, context.local("base").record, context.store)
    return reported(metrics)


def train_mpo(context: RationAlignContext, output: Path) -> Trained:
    """Align the writing assistant with the preferences (eq. 2).

    Raises:
        UserError: as `run_mpo`.
    """
    from training.mpo.train import run_mpo

    parent = context.inputs["prefer"]
    require_columns(parent.schema(), PREFERENCE_READ, str(parent))
    rows = parent.scan().select(c.name for c in PREFERENCE_READ).collect()
    margins = rows["reward_chosen"] - rows["reward_rejected"]
    if (bad := ~(margins.is_finite() & (margins >= 0)).fill_null(False)).any():
        number = int(bad.arg_true()[0])
        found = [rows[name][number] for name in ("reward_chosen", "reward_rejected")]
        raise UserError(
            f"{parent}, row {number}: reward_chosen {found[0]}, reward_rejected {found[1]}; both must be numbers, the "
            "chosen one's not the smaller: correct the row or leave it out"
        )
    engine = local_engine("engines.policy", context.config.engines.policy, "training mpo")
    metrics = run_mpo(
        base=context.local("policy").path,
        output=output,
        preferences=rows.to_dicts(),
        settings=context.config.mpo,
        template_kwargs=template_options(engine),
        logs=context.store.log_path(context.work),
    )
    return reported(metrics)


def prompts(config: RationAlignSettings, inputs: Mapping[str, Revision]) -> dict[str, str]:
    """Return the writing assistant's prompt, and what it is told of each task."""
    return messages.prompts(config, next(iter(inputs.values())), ["edit"], ["edit"])


def _fold(number: int) -> Stage:
    """Return the stage of the model that has not seen a fold."""
    return Stage(
        name=FOLDS[number - 1],
        kind="model",
        suffix=FOLDS[number - 1],
        version=1,
        parents=("pairs",),
        roles={"base": roles.base},
        sections=("fold", "tasks", "pairs.folds", *TEMPLATE, "threads"),
        per_round=False,
        prompts=prompts,
        ready=partial(fold_ready, fold=number),
        bytes_depend_on=processor,
        train=partial(train_fold, fold=number),
        together=True,
        card=Card("rationalign/fold.md.jinja", tags=("trl", "sft"), recipe=recipe),
    )


FOLD_STAGES = tuple(_fold(number) for number in range(1, len(FOLDS) + 1))
SFT = Stage(
    name="sft",
    kind="model",
    suffix="sft",
    version=1,
    parents=("explain",),
    roles={"base": roles.base},
    sections=("sft", "tasks", *TEMPLATE, "threads"),
    per_round=False,
    prompts=prompts,
    ready=partial(ready, section="sft", start="base"),
    bytes_depend_on=processor,
    train=train_sft,
    together=True,
    card=Card("rationalign/sft.md.jinja", tags=("trl", "sft", "text-editing"), recipe=recipe),
)
REWARD = Stage(
    name="reward",
    kind="model",
    suffix="reward",
    version=1,
    parents=("contest",),
    reads=CONTEST_READ,
    roles={"base": roles.reward},
    sections=("reward", "threads"),
    per_round=False,
    ready=reward_ready,
    bytes_depend_on=processor,
    train=train_reward,
    together=True,
    card=Card("rationalign/reward.md.jinja", tags=("trl", "reward-model"), task="text-classification", recipe=recipe),
)
MPO = Stage(
    name="mpo",
    kind="model",
    suffix="mpo",
    version=1,
    parents=("prefer",),
    reads=PREFERENCE_READ,
    roles={"policy": roles.policy},
    sections=("mpo", *TEMPLATE, "threads"),
    per_round=False,
    ready=partial(ready, section="mpo", start="policy"),
    bytes_depend_on=processor,
    train=train_mpo,
    together=True,
    card=Card("rationalign/mpo.md.jinja", tags=("trl", "preference-optimisation", "text-editing"), recipe=recipe),
)
