"""Perplexity of a document under a causal language model, from which professionalism is computed (GRACE-KTO, eq. 3).

Perplexity is exp(mean negative log-likelihood per token). The document stands alone, without a prompt, and its first
token, which no text precedes, is not predicted. A document longer than the model's window is read in windows that
advance by half a window. Each token is predicted once, in the first window that holds it, so that every token that has
half a window of text before it is predicted from at least that much.

Tokens that the model's tokenizer puts before every text by itself, such as Llama's and Gemma's beginning of sequence,
stand before every window, as in the model's training; without them its predictions mean little. They are read, not
predicted, and no token of the document is predicted for their sake: the mean is over as many tokens as without them.
"""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from scorers.batching import by_length
from scorers.context import stretch
from scorers.errors import UserError
from scorers.gpu_memory import BatchSize
from scorers.model_loading import (
    attention_for,
    load_error,
    local_folder,
    naming_wrong_shapes,
    quiet_loading,
    require_all_keys,
    require_vocabulary,
)

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16", "float16")
CONTEXT = "score.context"  # path of the settings of the window, as messages name it
# Rows of hidden states that pass through the LM head together. With a vocabulary of 152,000 words the float32 logits of
# 256 rows take 156 MB; those of a whole batch would take 10 GB.
HEAD_ROWS = 256
PROBE_TOKENS = 16  # length of the text that a model is checked with


class Span(NamedTuple):
    """A window of one text.

    Attributes:
        text: number of the text.
        start: first token of the window.
        predict_from: first token that is predicted in this window.
        stop: token after the last one of the window.
    """

    text: int
    start: int
    predict_from: int
    stop: int


def spans(text: int, length: int, window: int) -> list[Span]:
    """Cut a text into windows that advance by half a window.

    The predicted ranges are disjoint and together cover tokens 1 … length-1.

    Args:
        text: number of the text.
        length: its tokens, at least 2.
        window: tokens of a window at most, at least 2.
    """
    result = [Span(text, 0, 1, min(window, length))]
    while result[-1].stop < length:
        previous = result[-1]
        # The tokens before `previous.stop` are read again as context, but not predicted again.
        start = previous.start + window // 2
        result.append(Span(text, start, previous.stop, min(start + window, length)))
    return result


Ids = list[list[int]]
"""Token ids of texts."""


class WindowedPerplexity(ABC):
    """What all perplexities share, whatever runs the model: tokens, windows, sums.

    Attributes:
        window: tokens read at once, those before the text included.
        family: digest of the tokenizer's content; models of one family give a text the same tokens.

    Args:
        name: the model, as the user named it.
        tokenizer: its tokenizer.
        window: tokens read at once, those before the text included.

    Raises:
        UserError: the window has no room for two tokens.
    """

    def __init__(self, name: str, tokenizer: Any, window: int) -> None:
        self.window = window
        self._tokenizer = tokenizer
        self._prefix = prefix_ids(tokenizer)
        self.family = tokenizer_family(tokenizer, self._prefix)
        if window < (least := 2 + len(self._prefix)):  # one token is predicted from the one before it
            raise UserError(
                f"{CONTEXT}.window is {window} tokens, and {len(self._prefix)} of them stands before every text "
                f"of model {name}; set it to at least {least}"
            )

    def score(self, texts: Sequence[str], known: dict[str, Ids] | None = None) -> list[float | None]:
        """Return the perplexity of each text, from 1 (certain) upwards; None for a text of fewer than two tokens.

        A text's score does not depend on the other texts, up to the rounding error of batched arithmetic.

        Args:
            texts: documents.
            known: token ids of these texts by family, to which those of this model are added; None: of no family.
        """
        if not texts:
            return []
        known = {} if known is None else known
        if self.family not in known:
            known[self.family] = self._tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        encoded = known[self.family]
        window = self.window - len(self._prefix)  # tokens of text in a window
        todo = [span for text, ids in enumerate(encoded) if len(ids) > 1 for span in spans(text, len(ids), window)]
        total = [0.0] * len(texts)
        for span, nll in self._read(encoded, todo):
            total[span.text] += nll  # the parts of a long text are added up
        return [_perplexity(nll, len(ids)) for nll, ids in zip(total, encoded, strict=True)]

    @abstractmethod
    def _read(self, encoded: Ids, todo: Sequence[Span]) -> Iterable[tuple[Span, float]]:
        """Return each span, in any order, with the negative log-likelihood of its predicted tokens, in nats.

        Args:
            encoded: token ids of all texts.
            todo: the spans.
        """

    def _window_ids(self, encoded: Ids, span: Span) -> list[int]:
        """Return the tokens that are read of a span, those before the text first."""
        return [*self._prefix, *encoded[span.text][span.start : span.stop]]

    def _first(self, span: Span) -> int:
        """Return the place in its window of the first token of a span that is predicted."""
        return len(self._prefix) + span.predict_from - span.start


class Perplexity(WindowedPerplexity):
    """A causal language model that scores texts, run by transformers; loads once.

    Args:
        model: a folder with a model and its tokenizer, or the id of one on the Hub.
        revision: branch, tag or commit, for a Hub id.
        device: where it runs, in PyTorch's notation.
        dtype: of weights and activations: float32, bfloat16 or float16. Log-likelihoods are float32, sums float64.
        window: tokens read at once, those before the text included; None: the model's own limit
            (`max_position_embeddings`).
        method: how a window above the model's own is reached; see `scorers.context`.
        tokens_per_batch: padded tokens of one forward pass.

    Raises:
        UserError: the model cannot be loaded, lacks weights, has no known window, looks ahead, or computes its logits
            in a way that this class does not reproduce.
    """

    def __init__(
        self,
        model: str | Path,
        revision: str | None = None,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        window: int | None = None,
        method: str = "none",
        tokens_per_batch: int = 16_384,
    ) -> None:
        if dtype not in DTYPES:
            raise UserError(f"perplexity dtype is {dtype!r}; allowed are {', '.join(DTYPES)}")
        self._name = str(model)
        self._device = device
        tokenizer, self._model, window = _load(self._name, revision, dtype, method, window)
        super().__init__(self._name, tokenizer, window)
        config = self._model.config.get_text_config()
        self._one_by_one = rope_depends_on_length(config)
        self._batch = BatchSize(tokens_per_batch, "score.tokens_per_batch")
        self._model.to(device).eval()
        self._decoder = self._model.get_decoder()
        self._head = self._model.get_output_embeddings()
        self._softcap = getattr(config, "final_logit_softcapping", None)
        self._check_model()

    def _read(self, encoded: Ids, todo: Sequence[Span]) -> list[tuple[Span, float]]:
        """Read the windows of all texts in batches of like length; see `WindowedPerplexity._read`."""
        return self._batch.fitting(lambda size: list(self._batches(encoded, todo, 0 if self._one_by_one else size)))

    def _batches(self, encoded: Ids, todo: Sequence[Span], tokens_per_batch: int) -> Iterator[tuple[Span, float]]:
        """Yield each span with its sum; `tokens_per_batch` 0 makes a batch of each."""
        import torch

        lengths = [len(self._prefix) + span.stop - span.start for span in todo]
        for chosen in by_length(lengths, tokens_per_batch):
            batch = [todo[i] for i in chosen]
            with torch.inference_mode():
                nll = self._nll(encoded, batch)
            yield from zip(batch, nll, strict=True)

    def _nll(self, encoded: Ids, batch: Sequence[Span]) -> list[float]:
        """Sum the negative log-likelihood, in nats, of the predicted tokens of each span.

        Args:
            encoded: token ids of all texts.
            batch: the spans.
        """
        import torch

        windows = [torch.tensor(self._window_ids(encoded, span)) for span in batch]
        # Padding stands on the right, where a causal model cannot see it, so no attention mask is needed.
        inputs = torch.nn.utils.rnn.pad_sequence(windows, batch_first=True).to(self._device)  # (B, T)
        hidden = self._hidden(inputs)  # (B, T, H)
        firsts = [self._first(span) for span in batch]
        # The hidden state at position t predicts the token at t + 1.
        rows = [
            hidden[i, first - 1 : len(window) - 1]
            for i, (first, window) in enumerate(zip(firsts, windows, strict=True))
        ]
        targets = [window[first:] for first, window in zip(firsts, windows, strict=True)]
        nll = self._token_nll(torch.cat(rows), torch.cat(targets).to(self._device))  # (predicted tokens,)
        return [float(part.sum()) for part in torch.split(nll, [len(target) for target in targets])]

    def _hidden(self, inputs: "torch.Tensor") -> "torch.Tensor":
        """Run the decoder: (B, T) token ids to (B, T, H) hidden states."""
        hidden: torch.Tensor = self._decoder(input_ids=inputs, use_cache=False).last_hidden_state
        return hidden

    def _logits(self, hidden: "torch.Tensor") -> "torch.Tensor":
        """Turn (R, H) hidden states into (R, V) logits, as the model's own forward pass does."""
        import torch

        logits: torch.Tensor = self._head(hidden)
        if self._softcap is not None:
            logits = torch.tanh(logits / self._softcap) * self._softcap
        return logits

    def _token_nll(self, hidden: "torch.Tensor", targets: "torch.Tensor") -> "torch.Tensor":
        """Compute the negative log-likelihood of each target token.

        Args:
            hidden: (R, H) hidden states, each at the position before its target.
            targets: (R,) token ids.

        Returns:
            (R,) float64 in nats, on the CPU; logits exist for HEAD_ROWS rows at a time.
        """
        import torch

        parts = [
            torch.nn.functional.cross_entropy(self._logits(rows).float(), wanted, reduction="none")
            for rows, wanted in zip(torch.split(hidden, HEAD_ROWS), torch.split(targets, HEAD_ROWS), strict=True)
        ]
        return torch.cat(parts).double().cpu()

    def _check_model(self) -> None:
        """Check that the logits equal the model's own on a few tokens, and that no token changes the logits before it.

        Some architectures scale their logits after the LM head, and encoders loaded as language models look ahead; both
        would give wrong perplexities without an error.

        Raises:
            UserError: the model fails a check or has no LM head.
        """
        import torch

        if self._head is None or self._decoder is self._model:
            raise UserError(
                f"perplexity model {self._name!r} has no LM head on a decoder; give a causal language model"
            )
        size = min(PROBE_TOKENS, self.window, self._head.weight.shape[0] - 1)
        probe = torch.arange(size, device=self._device)[None]
        changed = torch.cat([probe[:, :-1], probe[:, -1:] + 1], dim=1)  # the same tokens but the last one
        with torch.inference_mode():
            own = self._model(input_ids=probe, use_cache=False).logits[0].float()
            ours = self._logits(self._hidden(probe)[0]).float()
            ours_changed = self._logits(self._hidden(changed)[0]).float()
        what = f"perplexity model {self._name!r} ({type(self._model).__name__})"
        if not torch.isfinite(ours).all():
            raise not_finite_logits(what)
        # Relative to the largest logit, since half precision rounds large logits coarsely.
        tolerance = (1e-4 if self._model.dtype == torch.float32 else 2e-2) * float(own.abs().max())
        if not torch.allclose(ours[:-1], ours_changed[:-1], rtol=0, atol=tolerance):
            raise UserError(f"{what} predicts a token from those after it; give a causal language model")
        if ours.shape != own.shape or not torch.allclose(ours, own, rtol=0, atol=tolerance):
            raise UserError(
                f"{what} changes its logits after the LM head; supported are a plain head and final_logit_softcapping: "
                "choose another model"
            )


def not_finite_logits(what: str) -> UserError:
    """The UserError for a model that computes NaN; `what` names the model."""
    return UserError(f"{what} gives NaN or infinite logits; its weights are damaged, or too large for its dtype")


def _perplexity(nll: float, length: int) -> float | None:
    """Turn a summed negative log-likelihood into a perplexity; None for fewer than two tokens."""
    if length < 2:
        return None
    mean = nll / (length - 1)
    try:
        return math.exp(mean)
    except OverflowError:  # a mean above 709: the caller reports the infinity
        return math.inf


def _load(name: str, revision: str | None, dtype: str, method: str, window: int | None) -> tuple[Any, Any, int]:
    """Load the tokenizer and the model with all its weights, made for a window; return these three.

    Raises:
        UserError: the model cannot be loaded, lacks weights, or cannot be brought to the window.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    local_folder("perplexity", name)
    # Missing weights are an error below.
    with quiet_loading(warnings=False), naming_wrong_shapes(f"perplexity model {name!r}"):
        try:
            config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
            # Before the weights are loaded: the model computes its rotary angles when it is made.
            window, entries = stretch(name, config, method, window, CONTEXT)
            config.update(entries)
            tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
            model, report = AutoModelForCausalLM.from_pretrained(
                name, revision=revision, config=config, dtype=dtype, attn_implementation=attention_for(config),
                trust_remote_code=False, output_loading_info=True,
            )  # fmt: skip
        except (OSError, ValueError) as error:
            raise load_error("perplexity", name, revision, error) from error
    require_vocabulary(name, tokenizer, config)
    require_all_keys(f"perplexity model {name!r}", report)
    return tokenizer, model, window


def prefix_ids(tokenizer: Any) -> list[int]:
    """Return the ids that a tokenizer puts before every text by itself; empty for none.

    Raises:
        UserError: the tokenizer does something else to a text than adding tokens before and after it.
    """
    own: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole: list[int] = tokenizer("a")["input_ids"]
    for start in range(len(whole) - len(own) + 1):
        if whole[start : start + len(own)] == own:
            return whole[:start]
    raise UserError(
        f"tokenizer of {tokenizer.name_or_path}: its special tokens change a text's other tokens; choose another model"
    )


def tokenizer_family(tokenizer: Any, prefix: Sequence[int]) -> str:
    """Return a digest of what decides a tokenizer's ids, equal for copies of one tokenizer in several folders.

    Args:
        tokenizer: the tokenizer; one without a backend of the library tokenizers is a family of its own.
        prefix: the ids that it puts before every text by itself.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = f"{tokenizer.name_or_path} {id(tokenizer)}" if backend is None else backend.to_str()
    # Whether a special token in a text is read as one does not stand in the backend's own content.
    return hashlib.sha256(f"{list(prefix)} {tokenizer.split_special_tokens} {content}".encode()).hexdigest()


def rope_depends_on_length(config: Any) -> bool:
    """Whether the model uses LongRoPE.

    LongRoPE picks its frequencies by the length of the batch, so padding would change a short text's score.
    """
    rope: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    by_layer_type = [value for value in rope.values() if isinstance(value, dict)]
    return any(parameters.get("rope_type") == "longrope" for parameters in [rope, *by_layer_type])
