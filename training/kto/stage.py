"""The training stages as revisions of the store: `train --sft` and `train` for one round.

Like a dataset, a model revision has a manifest with the fingerprint of everything that decides it, so a model that is
there already is kept, and its parents say which dataset and which policy it came from.
"""

import contextlib
import importlib.metadata
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builders.cards.render import write_card
from builders.core.models import LocalModel, policy_model, policy_repo, resolve_model, sft_repo
from builders.core.prompting import prompt_text
from builders.core.run import StageResult, build, repo_of
from builders.grace_kto.columns import SEED_COLUMNS, WEIGHTS_COLUMNS, require_columns
from builders.hub.refs import open_revision
from builders.settings.load import Config
from builders.store.manifest import FILE_NAME, Manifest, Model, Parent, Rows, content_digest, fingerprint_of, portable
from builders.store.store import Revision, Store, describe_files, round_tag
from scorers.errors import UserError
from training.pipelines import stage_named
from training.prepare import log, set_threads

VERSION = 1


@dataclass(frozen=True)
class ModelRecipe:
    """Everything that decides a trained model."""

    stage: str
    repo: str
    round: int
    configuration: dict[str, Any]
    parents: dict[str, Revision]
    models: dict[str, Model]
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Hash of the recipe."""
        return fingerprint_of(
            {
                "stage": self.stage,
                "version": VERSION,
                "round": self.round,
                "configuration": self.configuration,
                "parents": {name: [p.repo, p.revision] for name, p in self.parents.items()},
                "models": {role: [m.id, m.revision] for role, m in self.models.items()},
                "extra": self.extra,
            }
        )

    def existing(self, store: Store, ref: str) -> Revision | None:
        """The model of this recipe, if the store holds it under the ref."""
        found = store.find(self.repo, ref, "model")
        fresh = found is not None and found.manifest is not None and found.manifest.fingerprint == self.fingerprint
        return found if fresh else None


def train_sft(config: Config) -> StageResult:
    """Fine-tune the base model on the seed documents that have a reference (§3.1).

    Raises:
        UserError: where no seed has a reference, or the base model is missing.
    """
    seeds = build(config, "seed")[-1].revision
    store = Store(Path(config.store))
    set_threads(config)
    base = resolve_model(config.models.base, config, store)
    system = config.sample.system_prompt
    recipe = ModelRecipe(
        stage="sft",
        repo=sft_repo(config),
        round=0,
        configuration={"sft": portable(config.sft.model_dump())},
        parents={"seed": seeds},
        models={"base": base.record},
        extra={"system_prompt": system and prompt_text(system), "world": config.world and config.world.model_dump()},
    )
    if (found := recipe.existing(store, "main")) is not None:
        return StageResult("sft", found, False, "fresh", 0.0)
    from training.sft.finetune import run_sft

    require_columns(seeds.schema(), SEED_COLUMNS, str(seeds))
    documents = seeds.scan().select("query", "reference").drop_nulls().collect()
    if documents.is_empty():
        raise UserError(f"{seeds}: no seed has a reference document; set seed.columns.reference, or models.policy")
    began = time.monotonic()
    log(f"sft: {base.record.id} on {documents.height} seed documents")
    with store.lock():
        work = store.work_path(recipe.repo, recipe.fingerprint)
        output = work / "model"
        metrics = run_sft(
            base=base.path,
            output=output,
            documents=documents.to_dicts(),
            extra_conversations=_exercises(config),
            settings=config.sft,
            system_prompt=system and prompt_text(system),
        )
        results = {name: value for name, value in metrics.items() if name != "seconds"}
        revision = _store_model(store, recipe, output, int(metrics["rows"]), results, config, ["main", round_tag(0)])
        shutil.rmtree(work)
    return StageResult("sft", revision, True, "missing or stale", time.monotonic() - began)


def _exercises(config: Config) -> list[Any]:
    """The world's exercises in writing queries; a pretrained model needs none."""
    if config.world is None:
        return []
    from training.world.models import query_conversations

    return list(query_conversations(config.world.seed))


def train_policy(
    config: Config, round_: int = 1, dataset: str | None = None, *, require_pinned: bool = False
) -> StageResult:
    """One pass of weighted KTO over a weights dataset; the result is the policy of the round.

    Args:
        round_: round of the loop, which decides the policy to start from and the place in the schedule.
        dataset: REF of a weights dataset; None takes the store's of this round.
        require_pinned: refuse a branch.

    Raises:
        UserError: where the dataset or the policy is missing or does not fit.
    """
    store = Store(Path(config.store))
    set_threads(config)
    weights = open_revision(
        dataset or f"{repo_of(stage_named('calibrate'), config)}@{round_tag(round_)}",
        store,
        require_pinned=require_pinned,
    )
    log(f"train: {weights.repo} at {weights.revision}")
    require_columns(weights.schema(), WEIGHTS_COLUMNS[-4:], str(weights))
    policy = policy_model(config, store, round_)
    first = policy_model(config, store, 1)
    recipe = ModelRecipe(
        stage="train",
        repo=policy_repo(config),
        round=round_,
        configuration=portable({"train": config.train.model_dump(), "loop": config.loop.model_dump()}),
        parents={"calibrate": weights},
        models={"base": first.record, "policy": policy.record},
    )
    if (found := recipe.existing(store, round_tag(round_))) is not None:
        return StageResult("train", found, False, "fresh", 0.0)
    began = time.monotonic()
    with store.lock() if first_process() else contextlib.nullcontext():
        revision = _train_round(config, store, recipe, weights, policy, first)
    return StageResult("train", revision, True, "missing or stale", time.monotonic() - began)


def _train_round(
    config: Config, store: Store, recipe: ModelRecipe, weights: Revision, policy: LocalModel, first: LocalModel
) -> Revision:
    """Train from the newest checkpoint of the run and move the policy into the store."""
    from training.kto.rounds import train_round

    settings = config.train
    initial = settings.method == "full" and settings.reference == "initial"
    work = store.work_path(recipe.repo, fingerprint_of([recipe.configuration, first.record.model_dump()]))
    output = work / f"policy-{recipe.fingerprint[:16]}"
    record = train_round(
        policy=policy.adapter or policy.path,
        base_model=policy.path if policy.adapter else None,
        output_dir=output,
        run_dir=work / "run",
        dataset=weights.data_files(),
        settings=settings,
        round=recipe.round,
        total_rounds=max(config.loop.rounds, recipe.round),
        reference_model=first.path if initial else None,
    )
    if not first_process():
        sys.exit(0)  # of several processes under torchrun the first one writes to the store
    for warning in record["warnings"]:
        log(f"warning: {weights}: {warning}")
    _forget_paths(output, first.record)
    results = {name: float(value) for name, value in record.items() if isinstance(value, int | float)}
    refs = ["main", round_tag(recipe.round)]
    revision = _store_model(store, recipe, output, int(record["rows"]), results, config, refs)
    if recipe.round >= config.loop.rounds:
        shutil.rmtree(work)  # no later round needs the optimizer's state
    return revision


def first_process() -> bool:
    """Whether this is the only process, or the first of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def _forget_paths(output: Path, base: Model) -> None:
    """An adapter names its base model by id and revision, not by a folder of this machine."""
    path = output / "adapter_config.json"
    if path.is_file():
        adapter = json.loads(path.read_text(encoding="utf-8"))
        adapter |= {"base_model_name_or_path": base.id, "revision": base.revision}
        path.write_text(json.dumps(adapter, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _store_model(
    store: Store,
    recipe: ModelRecipe,
    output: Path,
    rows: int,
    results: Mapping[str, float],
    config: Config,
    refs: list[str],
) -> Revision:
    """Add manifest and card to a finished model folder and move it into the store."""
    made = (FILE_NAME, "README.md")
    files = describe_files(output, sorted(p for p in output.rglob("*") if p.is_file() and p.name not in made))
    manifest = Manifest(
        kind="model",
        stage=recipe.stage,
        stage_version=VERSION,
        code_version=importlib.metadata.version("grace-data"),
        repo=recipe.repo,
        round=recipe.round,
        fingerprint=recipe.fingerprint,
        random_seed=config.random_seed,
        configuration=recipe.configuration,
        parents=[
            Parent(stage=name, repo=p.repo, revision=p.revision, digest=p.digest) for name, p in recipe.parents.items()
        ],
        models=recipe.models,
        rows=Rows(read=rows, written=rows),
        results=dict(results),
        files=files,
        digest=content_digest(files),
    )
    write_card(manifest, output, store, license=config.publish.license)
    return store.add(output, manifest, refs)
