"""How a judge is asked for grades."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from builders.settings.asking import AskingSettings, Text
from builders.settings.base import Positive
from scorers.errors import did_you_mean

PROMPTS = Path(__file__).parent / "prompts"


def _known_prompt(name: str) -> str:
    """Check that a prompt is a file, or the beginning of files that differ in their language.

    Raises:
        ValueError: naming the closest one.
    """
    files = {path.name.removesuffix(".jinja") for path in PROMPTS.glob("*.jinja")}
    if name not in (known := sorted(files | {file.partition(".")[0] for file in files})):
        raise ValueError(f"there is no such prompt{did_you_mean(name, known)}; prompts: {', '.join(known)}")
    return name


class JudgeSettings(AskingSettings):
    """A judge of answers: stage `evaluations` grades each by five criteria (§4.1), `comparisons` pairs of them."""

    prompt: Annotated[Text, AfterValidator(_known_prompt), Field(pattern=r"^judge(\.|$)")] = Field(
        "judge", description="prompt file in builders/judging/prompts; judge: that of each query's language"
    )
    pair_prompt: Annotated[Text, AfterValidator(_known_prompt), Field(pattern=r"^pair(\.|$)")] = Field(
        "pair", description="the same for `grace evaluate --pairwise`"
    )
    temperature: float = Field(
        0.3, ge=0, description="0 is greedy, and one attempt is all: another would give the same reply"
    )
    top_p: float = Field(1.0, gt=0, le=1)
    guided: bool = Field(
        False,
        description="hold replies to their form while they are drawn, so that each one can be read unless it is cut; "
        "engine vllm, or openai where the server is vLLM's; leaves a thinking model no room to think",
    )
    shard_responses: Positive | None = Field(
        None, description="responses, or pairs of them, per shard; null: 16, or more of many"
    )
