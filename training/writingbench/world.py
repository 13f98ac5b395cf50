"""What the preset `tiny-writingbench` takes from the generated world: kinds of writing, and two small models.

world:taxonomy   {"domain", "subdomain", "language", "description"}: the world's topics as subdomains
world:base       the model that a writer's training starts from
world:blank      a model that has learned nothing, from which a critic is trained
"""

from typing import Any

import polars as pl

from builders.core.stage import Stage
from builders.store.columns import column
from training.world.lexicon import TOPICS
from training.world.stages import base_stage, make_blank, model_stage, text_stage
from training.world.texts import World
from training.writingbench.teacher import WISHES, criteria_for

DOMAINS = {
    "nature": ("rivers", "forests", "sea", "space"),
    "work": ("farming", "crafts", "energy", "money"),
    "people": ("cities", "health", "music", "schools"),
}
COLUMNS = (
    column("domain", pl.String, "a group of topics"),
    column("subdomain", pl.String, "a topic of the generated world"),
    column("language", pl.String, "en"),
    column("description", pl.String, "what its texts are"),
)


def taxonomy(world: World) -> list[dict[str, Any]]:
    """The world's topics, by domain."""
    return [
        {"domain": domain, "subdomain": topic, "language": "en", "description": f"Reports on the {TOPICS[topic][0]}."}
        for domain, topics in DOMAINS.items()
        for topic in topics
    ]


def wish(examples: list[str], count: int) -> str:
    """The pipeline's words that the world's tokenizer has to know: wishes, criteria, a rating."""
    criteria = [*criteria_for(""), *criteria_for(WISHES["style"])]
    words = [*WISHES.values(), *criteria, 'Criterion: {"score": 10, "reason": "most of it"}']
    return "\n".join([*examples, *(words if not examples else ()), f"Write {count} new requests as a Python list."])


WORLD: tuple[Stage, ...] = (
    text_stage("taxonomy", taxonomy, COLUMNS),
    base_stage(wish),
    model_stage("blank", wish, make_blank),
)
