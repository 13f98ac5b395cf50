"""What a stage contributes to a card, and everything that a card shows and the manifest does not hold."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builders.store.columns import Column
from builders.store.manifest import Manifest


@dataclass(frozen=True)
class Card:
    """A stage's part of a card.

    Attributes:
        template: a file below dataset_cards/.
        tags: tags of the front matter beside the pipeline's and the stage's.
        annotated: whether machines made the annotations.
        written: whether machines wrote the texts.
        facts: returns further values for the template.
        recipe: completes the configuration that reproduces a revision, from the manifest and the configuration so far.
        example: name of a boolean column; the example is the first row in which it is true.
        read: what the manifest's number of rows read counts, in words.
        task: what a model does, by the Hub's name of the task.
    """

    template: str
    tags: Sequence[str] = ()
    annotated: bool = False
    written: bool = False
    facts: Callable[[Manifest, Path], Mapping[str, Any]] | None = None
    recipe: Callable[[Manifest, dict[str, Any]], dict[str, Any]] | None = None
    example: str | None = None
    read: str = "rows read"
    task: str = "text-generation"


@dataclass(frozen=True)
class Page:
    """A card with its place in the pipeline.

    Attributes:
        card: the stage's part.
        suffix: last part of the repository's name.
        command: builds the revision again, the parent left out, which the manifest names.
        preset: a preset of this pipeline.
        columns: the contract of a dataset.
        parent: the stage from whose revision `command` starts; None where there is none.
        following: the command of the stage that starts from this one; None where there is none.
    """

    card: Card
    suffix: str
    command: str
    preset: str
    columns: Sequence[Column] = field(default=())
    parent: str | None = None
    following: str | None = None


PageOf = Callable[[Manifest], Page]
"""What the card of a manifest shows beyond it: the pipeline that made the revision says so."""
