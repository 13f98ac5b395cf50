"""Loading of the four models that score a response, as stage `score` configures them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builders.core.models import LocalModel, pick_device, pick_dtype
from builders.core.stage import Context
from builders.grace_kto.kept_scores import (
    PERPLEXITY,
    RELEVANCE,
    ComparesTexts,
    Kept,
    KeptPerplexity,
    KeptRelevance,
    ReadsTexts,
)
from builders.grace_kto.settings import GraceKTOSettings, ScoreSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from scorers.perplexity import WindowedPerplexity
    from scorers.relevance import Relevance

ROLES = ("tokenizer", "general", "domain", "relevance")


@dataclass(frozen=True)
class Scorers:
    """The models that score a response.

    Attributes:
        tokenizer: the policy's, whose tokens L and E count.
        general: perplexity under the general language model M_G.
        domain: perplexity under the domain language model M_D.
        relevance: BGE-M3 similarities.
    """

    tokenizer: "PreTrainedTokenizerBase"
    general: ReadsTexts
    domain: ReadsTexts
    relevance: ComparesTexts


def load_scorers(context: Context[GraceKTOSettings]) -> Scorers:
    """Return the scorers of the stage; each model is loaded once, when a text is new to it, and kept in memory."""
    settings, loaded = context.config.score, context.loaded
    models = {role: context.local(role) for role in ROLES}

    # The settings are part of each key: the same model with other settings is loaded anew.
    def perplexity(role: str) -> KeptPerplexity:
        model = models[role]
        # What was kept before there was a choice of engines is that of transformers.
        names = PERPLEXITY if settings.engine == "transformers" else (*PERPLEXITY, "engine")
        return KeptPerplexity(
            Kept(context.store, model, context.config, names),
            lambda: loaded.get(model, ("perplexity", settings), lambda: load_perplexity(model, settings)),
        )

    relevance = models["relevance"]
    return Scorers(
        tokenizer=loaded.get(models["tokenizer"], "tokenizer", lambda: load_tokenizer(models["tokenizer"])),
        general=perplexity("general"),
        domain=perplexity("domain"),
        relevance=KeptRelevance(
            Kept(context.store, relevance, context.config, RELEVANCE),
            lambda: loaded.get(relevance, ("relevance", settings), lambda: load_relevance(relevance, settings)),
        ),
    )


def load_tokenizer(model: LocalModel) -> "PreTrainedTokenizerBase":
    """Load a model's tokenizer."""
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model.path, trust_remote_code=False)
    return tokenizer


def load_perplexity(model: LocalModel, settings: ScoreSettings) -> "WindowedPerplexity":
    """Load a perplexity scorer; one of vLLM has a `close` that frees its memory."""
    device = pick_device(settings.device)
    options: dict[str, Any] = {
        "device": device,
        "dtype": pick_dtype(settings.dtype, device),
        "window": settings.context.window,
        "method": settings.context.method,
        "tokens_per_batch": settings.tokens_per_batch,
    }
    if settings.engine == "vllm":
        from builders.engines.vllm_perplexity import VllmPerplexity

        return VllmPerplexity(model.path, **options, memory_share=settings.memory_share)
    from scorers.perplexity import Perplexity

    return Perplexity(model.path, **options)


def load_relevance(model: LocalModel, settings: ScoreSettings) -> "Relevance":
    """Load the BGE-M3 scorer."""
    from scorers.relevance import Relevance

    device = pick_device(settings.device)
    return Relevance(
        model.path,
        device=device,
        # FlagEmbedding knows float16 and float32 only; any other dtype means float32.
        fp16=pick_dtype(settings.dtype, device) == "float16",
        max_length=settings.max_length,
        batch_size=settings.texts_per_batch,
    )
