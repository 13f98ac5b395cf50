"""What a stage says of its own card, and everything a card shows that is not in the manifest."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builders.store.columns import Column
from builders.store.manifest import Manifest


@dataclass(frozen=True)
class Card:
    """A stage's part of a card.

    `template` is a file below dataset_cards/. `tags` stand in the front matter beside the pipeline's and the stage's.
    `annotated` and `written` tell whether machines made the annotations and the texts. `figure` draws the picture of a
    snapshot folder as PNG, or returns None where there is nothing to draw. `facts` gives the template further values;
    `recipe` completes the configuration that reproduces the revision (it gets the manifest and the configuration so
    far). `example` is a condition on the row that is shown, as a boolean
    column's name. `read` says what the manifest counts as read,
    `task` what a model does, as the Hub names tasks.
    """

    template: str
    tags: Sequence[str] = ()
    annotated: bool = False
    written: bool = False
    figure: Callable[[Path], bytes | None] | None = None
    facts: Callable[[Manifest, Path], Mapping[str, Any]] | None = None
    recipe: Callable[[Manifest, dict[str, Any]], dict[str, Any]] | None = None
    example: str | None = None
    read: str = "rows read"
    task: str = "text-generation"


@dataclass(frozen=True)
class Page:
    """A card with its place in the pipeline.

    `suffix` ends the repository's name, `command` builds the revision again (without the parent, which the manifest
    names), `parent` is the stage whose revision that command starts from, `following` the command of the stage that
    starts from this one; both None where there is none. `preset` is a preset of this pipeline.
    """

    card: Card
    suffix: str
    command: str
    preset: str
    columns: Sequence[Column] = field(default=())
    parent: str | None = None
    following: str | None = None
