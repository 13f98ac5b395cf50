"""The kinds of figures of a dataset or a model: all that its columns, or the log of its training, allow.

What is drawn follows from the names of the columns alone, so that anybody's dataset with such columns has the pictures
too. Large datasets are read column by column and counted, never held; where single rows are drawn, a stated rule says
which.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from builders.cards.figures import curves, distributions, drawing
from builders.store.manifest import TRAINING_LOG
from builders.store.revision import Revision
from builders.store.training_log import read_log

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class _Kind:
    """A kind of picture.

    Attributes:
        name: of letters and underscores, fit for a file.
        title: what it shows, in words.
        draw: draws it; None where the data do not allow it.
    """

    name: str
    title: str
    draw: "Callable[[pl.LazyFrame], Figure | None]"


@dataclass(frozen=True)
class _LogKind:
    """A kind of picture of a training, as `_Kind` of a dataset."""

    name: str
    title: str
    draw: "Callable[[curves.Logs], Figure | None]"


# In the order of their worth: a card shows the first two that there are.
DATASET_KINDS = (
    _Kind("weights", "Histogram of the weights by label", distributions.weights_figure),
    _Kind("reward_by_length", "Reward against length", distributions.reward_by_length_figure),
    _Kind("rewards", "Rewards of the chosen and the rejected, and their difference", distributions.pairs_figure),
    _Kind("ratings", "Distribution of the ratings", distributions.ratings_figure),
    _Kind("metrics", "Distribution of each metric", distributions.metrics_figure),
    _Kind("metrics_by_policy", "Means of each metric by policy", distributions.by_policy_figure),
)
MODEL_KINDS = (
    _LogKind("learning_curves", "Loss, gradient norm and learning rate over the training", curves.learning_figure),
    _LogKind("margins", "Rewards, margins and KL over the training", curves.margins_figure),
)
TITLES = {kind.name: kind.title for kind in (*DATASET_KINDS, *MODEL_KINDS)}


def best_pictures(revision: Revision, most: int) -> list[tuple[str, bytes]]:
    """Draw the first pictures of a revision as PNG alone.

    Args:
        revision: as of `figures_of`.
        most: how many at most.

    Returns:
        Names and images.

    Raises:
        UserError: as `figures_of`.
    """
    found = []
    with drawing.fixed_style():
        for name, _, figure in figures_of(revision):
            found.append((name, drawing.png(figure)))
            if len(found) == most:
                break
    return found


def figures_of(revision: Revision) -> "Iterator[tuple[str, str, Figure]]":
    """Yield all figures that a dataset's columns or a model's training log allow, the most telling ones first.

    Nothing is drawn before it is asked for; both have to happen in `fixed_style`.

    Args:
        revision: of a dataset or a model, this project's or anybody's.

    Yields:
        Name, of letters and underscores, fit for a file; title; figure. None of a dataset without such columns, or
        without rows, and of a model without a log.

    Raises:
        UserError: a file is not readable.
    """
    logs = _logs(revision)
    if logs:
        for of_log in MODEL_KINDS:
            if (figure := of_log.draw(logs)) is not None:
                yield of_log.name, of_log.title, figure
    elif _has_rows(revision):
        rows = revision.scan()
        for kind in DATASET_KINDS:
            if (figure := kind.draw(rows)) is not None:
                yield kind.name, kind.title, figure


def _has_rows(revision: Revision) -> bool:
    """Whether a revision is a dataset with files."""
    if revision.manifest is not None:
        return revision.manifest.kind == "dataset" and any(file.rows for file in revision.manifest.files)
    return bool(revision.files) or revision.path.is_file() or any(revision.path.glob("**/*.parquet"))


def _logs(revision: Revision) -> curves.Logs:
    """Return the logs of a model by the folder that they lie in, "" for the revision's own; none of a dataset."""
    if revision.manifest is not None:
        paths: Sequence[Path] = [revision.path / file.path for file in revision.manifest.training_log or ()]
    else:
        paths = sorted(revision.path.rglob(TRAINING_LOG)) if revision.path.is_dir() else []
    found = {path.parent.relative_to(revision.path).as_posix(): read_log(path) for path in paths}
    return {"" if name == "." else name: log for name, log in found.items() if not log.is_empty()}
