"""What the cards of WritingBench show beyond what every card shows: the configuration that makes a revision again."""

import re
from typing import Any

from builders.cards.render import named
from builders.core.plan import SOURCE
from builders.store.manifest import Manifest, Model

# The repositories of the generated world carry its seed (training.world.stages.stem).
WORLD_REPO = re.compile(r"-world-(\d+)-[a-z0-9-]+$")
_POLICY = re.compile(r"policy-\d+")


def recipe(manifest: Manifest, value: dict[str, Any]) -> dict[str, Any]:
    """Complete the configuration that reproduces a revision.

    Args:
        manifest: the revision's manifest.
        value: the configuration so far, without models.

    Returns:
        `value` with the models by role, and the seed of the generated world where they come from it.
    """
    made = {Model(id=p.repo, revision=p.revision): p for p in manifest.parents if p.stage.startswith("world:")}
    names = {role: made[m].stage if m in made else named(m) for role, m in manifest.models.items()}
    seeds = [found[1] for p in made.values() if (found := WORLD_REPO.search(p.repo)) is not None]
    if seeds:
        value["world"] = {"seed": int(seeds[0])}
    models: dict[str, Any] = {role: name for role, name in names.items() if not _POLICY.fullmatch(role)}
    numbered = {int(role.partition("-")[2]): name for role, name in names.items() if _POLICY.fullmatch(role)}
    if numbered:
        models["policies"] = [numbered[number] for number in sorted(numbered)]
    if models:
        value["models"] = models
    # A branch moves: the rows are those of the commit.
    for parent in manifest.parents:
        if parent.stage == SOURCE:
            value["taxonomy"]["source"] = f"{parent.repo}@{parent.revision}"
    return value
