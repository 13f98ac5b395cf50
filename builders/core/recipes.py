"""What the configuration on a card names: the models by role, the seed of the generated world, the source's commit."""

import re
from typing import Any

from builders.cards.render import named
from builders.core.plan import SOURCE
from builders.store.manifest import Manifest, Model

# The repositories of the generated world carry its seed (training.world.stages.stem).
WORLD_REPO = re.compile(r"-world-(\d+)-[a-z0-9-]+$")


def models_and_world(manifest: Manifest) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the models of a revision by role, and the setting of the generated world where they come from it.

    A model of the generated world is named by its stage, such as world:base: any installation can make it.
    """
    made = {Model(id=p.repo, revision=p.revision): p for p in manifest.parents if p.stage.startswith("world:")}
    names = {role: made[model].stage if model in made else named(model) for role, model in manifest.models.items()}
    seeds = [found[1] for p in made.values() if (found := WORLD_REPO.search(p.repo)) is not None]
    return names, {"world": {"seed": int(seeds[0])}} if seeds else {}


def source_at_commit(manifest: Manifest) -> str | None:
    """Return the dataset that was read from outside, at its commit: a branch moves. None where there was none."""
    return next((f"{parent.repo}@{parent.revision}" for parent in manifest.parents if parent.stage == SOURCE), None)
