"""Scores of texts that a model has read before, kept in the store: other weights or n-grams make no model read again.

What is kept is what a model said of a whole list of texts, such as a shard's documents, since the texts that share a
batch decide the last digits: what is taken from here is, bit for bit, what would be computed. One file per model,
settings and list, in the folder `.scores` of the store, which is safe to delete::

    {"values": {"perplexity": [8.1, null, 7.6]}, "truncated": 0}
"""

import json
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from builders.core.models import LocalModel, pick_device
from builders.grace_kto.settings import GraceKTOSettings
from builders.settings.base import identity
from builders.store.files import write_text
from builders.store.manifest import fingerprint_of
from builders.store.store import Store
from scorers.relevance import RelevanceScores

if TYPE_CHECKING:
    from scorers.perplexity import Ids, WindowedPerplexity
    from scorers.relevance import Relevance

VERSION = 1  # raise it when equal texts give other scores
# Settings of `score` that decide what a model says of a text, or its last digits.
PERPLEXITY = ("context", "dtype", "tokens_per_batch")
RELEVANCE = ("dtype", "max_length", "texts_per_batch")


class ReadsTexts(Protocol):
    """What gives each text a number, as `scorers.perplexity.Perplexity` does."""

    def score(self, texts: Sequence[str], known: "dict[str, Ids] | None" = None) -> list[float | None]:
        """Return a number for each text; None where it has none.

        Args:
            texts: the texts.
            known: their token ids by tokenizer family, shared by those who read the same texts.
        """


class ComparesTexts(Protocol):
    """What compares queries with texts, as `scorers.relevance.Relevance` does, and counts the texts that it cut."""

    truncated: int

    def score(self, queries: Sequence[str], texts: Sequence[str]) -> RelevanceScores:
        """Return the similarities of each pair."""


class Kept:
    """The kept scores of one model.

    Args:
        store: the store.
        model: the model.
        config: the configuration.
        names: the settings of `score` that count: `PERPLEXITY` or `RELEVANCE`.
    """

    def __init__(self, store: Store, model: LocalModel, config: GraceKTOSettings, names: Sequence[str]) -> None:
        self._folder = store.root / ".scores"
        settings = {name: identity(getattr(config.score, name)) for name in names}
        machine = (pick_device(config.score.device).partition(":")[0], config.threads or os.cpu_count())
        self._key = [VERSION, str(model.record), settings, machine]

    def get(self, texts: Sequence[object], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return what is kept of a list of texts, or make it and keep it.

        Args:
            texts: the texts, or pairs of them.
            make: returns a JSON value.
        """
        key = fingerprint_of([*self._key, list(texts)])
        path = self._folder / key[:2] / f"{key[:32]}.json"
        try:
            found: dict[str, Any] = json.loads(path.read_bytes())
        except (FileNotFoundError, ValueError):  # none yet, or one that something has damaged
            found = make()
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(found) + "\n")
        return found


class KeptPerplexity:
    """A perplexity scorer whose model is loaded once a text is new; see `Kept`."""

    def __init__(self, kept: Kept, load: "Callable[[], WindowedPerplexity]") -> None:
        self._kept, self._load = kept, load

    def score(self, texts: Sequence[str], known: "dict[str, Ids] | None" = None) -> list[float | None]:
        """Return the perplexity of each text, as `Perplexity.score` does."""
        found = self._kept.get(texts, lambda: {"values": {"perplexity": self._load().score(texts, known)}})
        values: list[float | None] = found["values"]["perplexity"]
        return values


class KeptRelevance:
    """A relevance scorer whose model is loaded once a pair is new; see `Kept`.

    Attributes:
        truncated: texts cut so far, as `Relevance` counts them.
    """

    def __init__(self, kept: Kept, load: "Callable[[], Relevance]") -> None:
        self._kept, self._load = kept, load
        self.truncated = 0

    def score(self, queries: Sequence[str], texts: Sequence[str]) -> RelevanceScores:
        """Return the similarities of each pair, as `Relevance.score` does."""
        found = self._kept.get([queries, texts], lambda: self._compare(queries, texts))
        self.truncated += found["truncated"]
        return RelevanceScores(**found["values"])

    def _compare(self, queries: Sequence[str], texts: Sequence[str]) -> dict[str, Any]:
        """Compute what is kept."""
        relevance = self._load()
        before = relevance.truncated
        scores = relevance.score(queries, texts)
        return {"values": scores._asdict(), "truncated": relevance.truncated - before}
