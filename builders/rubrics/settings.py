"""How criteria and ratings are asked for."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from builders.settings.asking import AskingSettings, Text
from builders.settings.base import Positive, Share
from scorers.errors import did_you_mean

PROMPTS = Path(__file__).parent / "prompts"


def _judges_prompt(name: str) -> str:
    """Check that a judge's prompt is a file, or the beginning of files that differ in their language.

    Raises:
        ValueError: naming the closest one.
    """
    files = {path.name.removesuffix(".jinja") for path in PROMPTS.glob("rate.*.jinja")}
    if name not in (known := sorted({"rate", *files})):
        raise ValueError(f"there is no such prompt{did_you_mean(name, known)}; prompts: {', '.join(known)}")
    return name


class CriteriaSettings(AskingSettings):
    """Stage `criteria`: five criteria for each query (§3.2)."""

    shard_rows: Positive | None = Field(None, description="queries per shard; null: 32, or more of many queries")


class RateSettings(AskingSettings):
    """Stage `rate`: each response by each criterion alone (§3.2)."""

    prompt: Annotated[Text, AfterValidator(_judges_prompt)] = Field(
        "rate",
        description="prompt file in builders/rubrics/prompts, also for the critic; rate: that of each response's "
        "language",
    )
    repeats: Positive = Field(1, description="ratings of one response by one criterion")
    temperature: float = Field(
        1.0, ge=0, description="0 is greedy, and one attempt is all: another would give the same reply"
    )
    top_p: Share = 0.95
    shard_responses: Positive | None = Field(None, description="responses per shard; null: 16, or more of many")
