"""How a stage asks a model for replies that are read, and how a thinking block is told."""

from typing import Annotated

from pydantic import Field

from builders.settings.base import Positive, Section, Share

Text = Annotated[str, Field(min_length=1)]
# strict=False: YAML has lists, which a strict model would not accept as tuples.
Tags = Annotated[tuple[Text, Text], Field(strict=False)]


class AskingSettings(Section):
    """Sampling of replies that are read and, where they do not fit, asked for again."""

    attempts: Positive = Field(3, description="replies asked for at most, until one can be read")
    temperature: float = Field(
        0.7, ge=0, description="0 is greedy, and one attempt is all: another would give the same reply"
    )
    top_p: Share = 0.9
    max_new_tokens: Positive = Field(2048, description="tokens of a reply")
    thinking_tags: Tags | None = Field(
        ("<think>", "</think>"), description="a block between these before a reply is cut; null: never"
    )
