"""What the cards of GRACE-KTO show beyond what every card shows: facts and configuration."""

from pathlib import Path
from typing import Any

from builders.core.recipes import models_and_world, source_at_commit
from builders.grace_kto.messages import SYSTEM_BY_LANGUAGE
from builders.store.manifest import Manifest, portable
from scorers.class_weights import class_weights

SNIPPET_MODEL = "Qwen/Qwen2.5-0.5B-Instruct"  # the model in the training snippet, for the reader to replace
READS = {"seed": ("seed", "source"), "answers": ("evaluate", "source"), "comparisons": ("evaluate", "other")}
"""By stage, the setting that names the dataset from outside which it reads."""


def facts(manifest: Manifest, folder: Path) -> dict[str, Any]:
    """Return further values for the templates.

    These are the name of the seed source, the class weights λ± for stock TRL's loss (None where a label is absent), and
    the model named in the training snippet.
    """
    positive, negative = (manifest.counts.get(name, 0) for name in ("positive", "negative"))
    return {
        "source_name": str(portable(manifest.configuration).get("seed", {}).get("source", "")),
        "lambdas": class_weights(positive, negative) if positive and negative else None,
        "snippet_model": SNIPPET_MODEL,
    }


def recipe(manifest: Manifest, value: dict[str, Any]) -> dict[str, Any]:
    """Complete the configuration that reproduces a revision.

    Args:
        manifest: the revision's manifest.
        value: the configuration so far, without models.

    Returns:
        `value` with the models by role, the seed of the generated world where they come from it, and the setting of the
        system prompt where the dataset's messages begin with one.
    """
    names, world = models_and_world(manifest)
    value |= world
    models = {
        role: names[role]
        for role in ("base", "general", "domain", "relevance", "teacher", "criteria", "judge", "evaluated")
        if role in names
    }
    # The setting names the policy of the first round: training has it as its base, and in the role `policy` that of the
    # round before, which is found by its round. The scores' metrics are counted with the policy's tokenizer.
    policy = (names.get("base") if manifest.stage == "policy" else names.get("policy")) or names.get("tokenizer")
    if models or policy:
        value["models"] = models | ({"policy": policy} if policy else {})
    if (source := source_at_commit(manifest)) is not None:
        section, name = READS.get(manifest.stage, READS["seed"])
        value.setdefault(section, {})[name] = source
    if manifest.stage in ("sft", "calibrate"):
        # One prompt for all queries, or one for each language.
        system = SYSTEM_BY_LANGUAGE if len(manifest.prompts) > 1 else next(iter(manifest.prompts), None)
        value["sample"] = {"system_prompt": system}
    return value
