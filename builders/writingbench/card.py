"""What the cards of WritingBench show beyond what every card shows: the configuration that makes a revision again."""

import re
from typing import Any

from builders.core.recipes import models_and_world, source_at_commit
from builders.store.manifest import Manifest

_POLICY = re.compile(r"policy-\d+")
#: By stage, the setting that names what it reads from outside.
SOURCES = {"taxonomy": "source", "benchmark": "data"}


def recipe(manifest: Manifest, value: dict[str, Any]) -> dict[str, Any]:
    """Complete the configuration that reproduces a revision.

    Args:
        manifest: the revision's manifest.
        value: the configuration so far, without models.

    Returns:
        `value` with the models by role, and the seed of the generated world where they come from it.
    """
    names, world = models_and_world(manifest)
    value |= world
    models: dict[str, Any] = {role: name for role, name in names.items() if not _POLICY.fullmatch(role)}
    numbered = {int(role.partition("-")[2]): name for role, name in names.items() if _POLICY.fullmatch(role)}
    if numbered:
        models["policies"] = [numbered[number] for number in sorted(numbered)]
    if models:
        value["models"] = models
    source = source_at_commit(manifest)
    if source is not None and manifest.stage in SOURCES:
        value[manifest.stage][SOURCES[manifest.stage]] = source
    return value
