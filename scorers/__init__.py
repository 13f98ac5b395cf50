"""Scorers: one file per metric, the only copy of each equation of GRACE-KTO. Texts or token ids in, numbers out.

Scoring a list of texts; models are folders or Hub ids and load once::

    from transformers import AutoTokenizer
    from scorers import Perplexity, Relevance, diversity, lengths, professionalism

    ids = AutoTokenizer.from_pretrained(policy)(texts, add_special_tokens=False)["input_ids"]
    general, domain = (Perplexity(model).score(texts) for model in (general_model, domain_model))
    relevance = Relevance(bge_m3).score(queries, texts).combined()
    print(lengths(ids), diversity(ids), professionalism(general, domain), relevance)

Ranks, rewards and weights of a whole frame of scores: `builders.grace_kto.calibrate.calibrate_frame`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

# Imported at once: they need the standard library only, and a function with the name of its file must be bound here
# before anyone imports that file, or `from scorers import diversity` would find the module.
from scorers.class_weights import class_weights
from scorers.diversity import diversity
from scorers.errors import UserError, did_you_mean
from scorers.extraction import Extraction, cut_thinking, extract
from scorers.length import lengths
from scorers.professionalism import professionalism

if TYPE_CHECKING:
    from scorers.perplexity import Perplexity
    from scorers.ranking import group_rewards
    from scorers.relevance import Relevance, RelevanceScores, combine
    from scorers.weighting import Totals, global_weights, totals_of

__all__ = [
    "Extraction",
    "Perplexity",
    "Relevance",
    "RelevanceScores",
    "Totals",
    "UserError",
    "class_weights",
    "combine",
    "cut_thinking",
    "did_you_mean",
    "diversity",
    "extract",
    "global_weights",
    "group_rewards",
    "lengths",
    "professionalism",
    "totals_of",
]

# Loaded when first asked for (PEP 562): they need numpy or polars, and later torch.
_HOME = {
    "Perplexity": "scorers.perplexity",
    "Relevance": "scorers.relevance",
    "RelevanceScores": "scorers.relevance",
    "Totals": "scorers.weighting",
    "combine": "scorers.relevance",
    "global_weights": "scorers.weighting",
    "group_rewards": "scorers.ranking",
    "totals_of": "scorers.weighting",
}

if not TYPE_CHECKING:  # a type checker must still report a name that does not exist

    def __getattr__(name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_HOME[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
