"""What the cards of RationAlign show beyond what every card shows: the configuration that makes a revision again."""

import re
from typing import Any

from builders.core.recipes import models_and_world
from builders.store.manifest import Manifest

_FOLD = re.compile(r"policy-\d+")


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
    # The fold models are made by stages, and the reward model of `prefer` is not the one that its training starts from.
    models = {role: name for role, name in names.items() if not _FOLD.fullmatch(role)}
    if manifest.stage == "prefer":
        models.pop("reward", None)
    if manifest.stage == "reward":
        models = {"reward": models["base"]} if "base" in models else {}
    if models:
        value["models"] = models
    return value
