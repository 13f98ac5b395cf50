"""Chains of small revisions in a store, with true manifests: hand-made rows and no language model."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from card_snapshots import model_manifest, snapshot
from safetensors.numpy import save_file

from builders.cards.render import write_card
from builders.grace_kto.settings import GraceKTOSettings
from builders.store.manifest import Model, Parent, content_digest, describe_files
from builders.store.ref import round_tag
from builders.store.revision import Revision
from builders.store.store import Store
from training.grace_kto.pipeline import GRACE_KTO
from training.pipelines import load_config, page_of

WAY = {stage.name for stage in GRACE_KTO.upto(GRACE_KTO.stage("policy"))}
ROUND_STAGES = tuple(s for s in GRACE_KTO.stages if s.kind == "dataset" and s.per_round and s.name in WAY)


def config_for(store: Store, namespace: str | None = None) -> GraceKTOSettings:
    overrides = [] if namespace is None else [f"namespace={namespace}"]
    config: GraceKTOSettings = load_config("tiny", overrides, str(store.root))
    return config


def parent_of(revision: Revision) -> Parent:
    assert revision.manifest is not None
    return Parent(
        stage=revision.manifest.stage,
        kind=revision.manifest.kind,
        round=revision.manifest.round,
        repo=revision.repo,
        revision=revision.revision,
        digest=revision.digest,
    )


def add_dataset(
    store: Store,
    stage_name: str,
    parents: Sequence[Revision] = (),
    *,
    round_: int = 1,
    text: str = "Write a report.",
    name: str = "demo",
    policy: Revision | None = None,
) -> Revision:
    """A dataset of one stage: two shards, nine rows whose strings hold `text`."""
    stage = GRACE_KTO.stage(stage_name)
    staged = store.root / ".work" / f"{name}-{stage_name}-{round_}"
    models = {} if policy is None else {"policy": Model(id=policy.repo, revision=policy.revision)}
    manifest = snapshot(
        staged,
        stage_name,
        repo=f"local/{name}-{stage.suffix}",
        text=f"{text} ({round_})" if stage.per_round else text,
        round=round_ if stage.per_round else 0,
        parents=[parent_of(parent) for parent in parents],
        models=models,
    )
    for marker in (staged / "data").glob("*.sha256"):  # of the build, not of the revision
        marker.unlink()
    write_card(manifest, staged, page_of(manifest), store)
    return store.add(staged, manifest, ["main", round_tag(manifest.round)])


def add_model(store: Store, weights: Revision, *, round_: int = 1, name: str = "demo") -> Revision:
    """A tiny LoRA adapter trained, so its manifest says, on a weights dataset."""
    staged = store.root / ".work" / f"{name}-policy-{round_}"
    staged.mkdir(parents=True)
    save_file({"lora_A.weight": np.full((4, 8), round_, np.float32)}, staged / "adapter_model.safetensors")
    base = Model(id="Qwen/Qwen2.5-0.5B", revision="1" * 40)
    named = {"base_model_name_or_path": base.id, "revision": base.revision}
    (staged / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "round": round_, **named}))
    files = describe_files(staged, sorted(staged.iterdir()))
    manifest = model_manifest(
        "policy",
        base,
        repo=f"local/{name}-policy",
        round=round_,
        parents=[parent_of(weights)],
        files=files,
        digest=content_digest(files),
    )
    write_card(manifest, staged, page_of(manifest), store)
    return store.add(staged, manifest, ["main", round_tag(round_)])


def add_rounds(store: Store, rounds: int = 2) -> dict[tuple[str, int], Revision]:
    """All five stages and an adapter of each round, by (stage, round); the seeds are round 0."""
    made = {("seed", 0): add_dataset(store, "seed")}
    policy = None
    for round_ in range(1, rounds + 1):
        parent = made["seed", 0]
        for stage in ROUND_STAGES:
            parent = add_dataset(store, stage.name, [parent], round_=round_, policy=policy)
            made[stage.name, round_] = parent
        policy = made["policy", round_] = add_model(store, parent, round_=round_)
    return made


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
