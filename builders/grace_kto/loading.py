"""The four models that score a response, loaded as `score` configures them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from builders.core.models import Loaded, LocalModel, pick_device, pick_dtype
from builders.core.stage import Context
from builders.grace_kto.settings import GraceKTOSettings, ScoreSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from scorers.perplexity import Perplexity
    from scorers.relevance import Relevance

ROLES = ("tokenizer", "general", "domain", "relevance")


@dataclass(frozen=True)
class Scorers:
    """The policy's tokenizer, the two language models of perplexity, and BGE-M3."""

    tokenizer: "PreTrainedTokenizerBase"
    general: "Perplexity"
    domain: "Perplexity"
    relevance: "Relevance"


def load_scorers(context: Context[GraceKTOSettings]) -> Scorers:
    """The scorers of a stage, each loaded once and kept from shard to shard."""
    settings, models, loaded = context.config.score, context.models, context.loaded
    return Scorers(
        tokenizer=loaded.get(models["tokenizer"], "tokenizer", lambda: load_tokenizer(models["tokenizer"])),
        general=_perplexity(loaded, models["general"], settings),
        domain=_perplexity(loaded, models["domain"], settings),
        relevance=loaded.get(
            models["relevance"], ("relevance", settings), lambda: load_relevance(models["relevance"], settings)
        ),
    )


def _perplexity(loaded: Loaded, model: LocalModel, settings: ScoreSettings) -> "Perplexity":
    return loaded.get(model, ("perplexity", settings), lambda: load_perplexity(model, settings))


def load_tokenizer(model: LocalModel) -> "PreTrainedTokenizerBase":
    """A model's tokenizer."""
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model.path, trust_remote_code=False)
    return tokenizer


def load_perplexity(model: LocalModel, settings: ScoreSettings) -> "Perplexity":
    """A perplexity scorer."""
    from scorers.perplexity import Perplexity

    device = pick_device(settings.device)
    return Perplexity(
        model.path,
        device=device,
        dtype=pick_dtype(settings.dtype, device),
        window=settings.window,
        tokens_per_batch=settings.tokens_per_batch,
    )


def load_relevance(model: LocalModel, settings: ScoreSettings) -> "Relevance":
    """The BGE-M3 scorer."""
    from scorers.relevance import Relevance

    device = pick_device(settings.device)
    return Relevance(
        model.path,
        device=device,
        fp16=pick_dtype(settings.dtype, device) == "float16",
        max_length=settings.max_length,
        batch_size=settings.texts_per_batch,
    )
