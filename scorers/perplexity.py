"""Perplexity of a document under a causal language model, from which professionalism is computed (GRACE-KTO, eq. 3).

Perplexity is exp(mean negative log-likelihood per token). The document stands alone, without a prompt, and its first
token, which no text precedes, is not predicted. A document longer than the model's window is read in windows that
advance by half a window. Each token is predicted once, in the first window that holds it, so that every token that has
half a window of text before it is predicted from at least that much.

Tokens that the model's tokenizer puts before every text by itself, such as Llama's and Gemma's beginning of sequence,
stand before every window, as in the model's training; without them its predictions mean little. They are read, not
predicted, and no token of the document is predicted for their sake: the mean is over as many tokens as without them.
"""

import math
from collections.abc import Sequence
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


class Perplexity:
    """A causal language model that scores texts; loads once.

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
        self._tokenizer, self._model, self.window = _load(self._name, revision, dtype, method, window)
        config = self._model.config.get_text_config()
        self._prefix = prefix_ids(self._tokenizer)
        if self.window < (least := 2 + len(self._prefix)):  # one token is predicted from the one before it
            raise UserError(
                f"{CONTEXT}.window is {self.window} tokens, and {len(self._prefix)} of them stands before every text "
                f"of model {self._name}; set it to at least {least}"
            )
        self._one_by_one = _rope_depends_on_length(config)
        self._batch = BatchSize(tokens_per_batch, "score.tokens_per_batch")
        self._model.to(device).eval()
        self._decoder = self._model.get_decoder()
        self._head = self._model.get_output_embeddings()
        self._softcap = getattr(config, "final_logit_softcapping", None)
        self._check_model()

    def score(self, texts: Sequence[str]) -> list[float | None]:
        """Return the perplexity of each text, from 1 (certain) upwards; None for a text of fewer than two tokens.

        A text's score does not depend on the other texts, up to the rounding error of batched arithmetic.

        Args:
            texts: documents.
        """
        if not texts:
            return []
        encoded = self._tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        window = self.window - len(self._prefix)  # tokens of text in a window
        todo = [span for text, ids in enumerate(encoded) if len(ids) > 1 for span in spans(text, len(ids), window)]
        total = self._batch.fitting(lambda tokens: self._totals(encoded, todo, 0 if self._one_by_one else tokens))
        return [_perplexity(nll, len(ids)) for nll, ids in zip(total, encoded, strict=True)]

    def _totals(self, encoded: Sequence[Sequence[int]], todo: Sequence[Span], tokens_per_batch: int) -> list[float]:
        """Sum the negative log-likelihood of each text, in nats.

        Args:
            encoded: token ids of each text.
            todo: the spans of all texts.
            tokens_per_batch: padded tokens of a batch at most; 0: one span at a time.
        """
        import torch

        total = [0.0] * len(encoded)
        with torch.inference_mode():
            # Windows of all texts share batches; the parts of a long text are added up.
            lengths = [len(self._prefix) + span.stop - span.start for span in todo]
            for chosen in by_length(lengths, tokens_per_batch):
                batch = [todo[i] for i in chosen]
                for span, nll in zip(batch, self._nll([encoded[s.text] for s in batch], batch), strict=True):
                    total[span.text] += nll
        return total

    def _nll(self, ids: Sequence[Sequence[int]], batch: Sequence[Span]) -> list[float]:
        """Sum the negative log-likelihood, in nats, of the predicted tokens of each span.

        Args:
            ids: token ids of each span's whole text.
            batch: the spans.
        """
        import torch

        windows = [
            torch.tensor([*self._prefix, *row[span.start : span.stop]]) for row, span in zip(ids, batch, strict=True)
        ]
        # Padding stands on the right, where a causal model cannot see it, so no attention mask is needed.
        inputs = torch.nn.utils.rnn.pad_sequence(windows, batch_first=True).to(self._device)  # (B, T)
        hidden = self._hidden(inputs)  # (B, T, H)
        firsts = [len(self._prefix) + span.predict_from - span.start for span in batch]
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
            raise UserError(f"{what} gives NaN or infinite logits; its weights are damaged, or too large for its dtype")
        # Relative to the largest logit, since half precision rounds large logits coarsely.
        tolerance = (1e-4 if self._model.dtype == torch.float32 else 2e-2) * float(own.abs().max())
        if not torch.allclose(ours[:-1], ours_changed[:-1], rtol=0, atol=tolerance):
            raise UserError(f"{what} predicts a token from those after it; give a causal language model")
        if ours.shape != own.shape or not torch.allclose(ours, own, rtol=0, atol=tolerance):
            raise UserError(
                f"{what} changes its logits after the LM head; supported are a plain head and final_logit_softcapping: "
                "choose another model"
            )


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


def _rope_depends_on_length(config: Any) -> bool:
    """Whether the model uses LongRoPE.

    LongRoPE picks its frequencies by the length of the batch, so padding would change a short text's score.
    """
    rope: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    by_layer_type = [value for value in rope.values() if isinstance(value, dict)]
    return any(parameters.get("rope_type") == "longrope" for parameters in [rope, *by_layer_type])
