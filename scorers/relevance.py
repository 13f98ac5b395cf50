"""Relevance R of a text to its query: the three similarities of BGE-M3 (GRACE-KTO, equations 4 and 13–15).

With H the encoder's hidden states of a text:
- dense: inner product of the two normalised [CLS] states (eq. 13);
- lexical: each distinct token weighs max ReLU(W_lex · H) over its positions; sum, over the tokens that both texts
  hold, of the product of their weights, special tokens left out (eq. 14);
- multi-vector: every state but [CLS] is projected and normalised; mean over the query's vectors of the largest inner
  product with a vector of the text (eq. 15).

The network and its heads are FlagEmbedding's. Its `encode` is not used: it runs the first batch of every call twice,
and answers a failure of the network with ever smaller batches, down to an empty one, where the cause is lost.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from scorers.batching import by_length
from scorers.errors import UserError
from scorers.gpu_memory import BatchSize
from scorers.model_loading import HEADS, load_error, local_folder, quiet_loading

if TYPE_CHECKING:
    import torch

# What a BGE-M3 repository holds for PyTorch; its ONNX copy of the weights is left out.
FILES = ["*.json", "*.safetensors", "*.bin", "*.pt", "*.model", "*.txt"]
# Padded tokens of a forward pass over long documents, which bound its memory: a CPU is as fast with few.
TOKENS_PER_BATCH, CPU_TOKENS_PER_BATCH = 16_384, 4_096
SPECIAL = ("cls_token", "eos_token", "pad_token", "unk_token")  # never lexical matches
# These architectures count positions from the padding id + 1, so not all of the position table is usable.
OFFSET_POSITIONS = ("xlm-roberta", "xlm-roberta-xl", "roberta", "camembert")

Weights = tuple[float, float, float]  # of dense, lexical and multi-vector similarity in eq. 4
SUMMARY_WEIGHTS: Weights = (1.0, 0.3, 1.0)  # R_s
DOCUMENT_WEIGHTS: Weights = (0.15, 0.5, 0.35)  # R_d


class Similarity(Protocol):
    """The type of a similarity, one or many at once.

    A float, a numpy array, a torch tensor, a polars expression or series.
    """

    def __add__(self, other: Any, /) -> Any: ...

    def __rmul__(self, factor: float, /) -> Any: ...


S = TypeVar("S", bound=Similarity)


def combine(dense: S, lexical: S, multivector: S, weights: Weights) -> S:
    """Return the weighted sum of the three similarities, added in this order and not divided by the weights (eq. 4).

    Args:
        dense: dense similarity, in [-1, 1].
        lexical: lexical similarity, from 0 upwards.
        multivector: multi-vector similarity, in [-1, 1].
        weights: their weights, in this order.

    Returns:
        The relevance R, of the type of the similarities; null where a similarity is null.

    >>> combine(0.5, 0.25, 0.75, (1.0, 0.5, 1.0))
    1.375
    """
    w_dense, w_lexical, w_multivector = weights
    total: S = w_dense * dense + w_lexical * lexical + w_multivector * multivector
    return total


class RelevanceScores(NamedTuple):
    """Similarities of each pair: dense and multi-vector in [-1, 1], lexical from 0 upwards."""

    dense: list[float]
    lexical: list[float]
    multivector: list[float]

    def combined(self, weights: Weights = DOCUMENT_WEIGHTS) -> list[float]:
        """Return the relevance R of each pair (eq. 4); the default weights are those of documents, R_d.

        >>> RelevanceScores([0.5], [0.25], [0.75]).combined(SUMMARY_WEIGHTS)
        [1.325]
        """
        return [combine(d, x, m, weights) for d, x, m in zip(*self, strict=True)]


class _Vectors(NamedTuple):
    """One text as BGE-M3 sees it."""

    dense: "torch.Tensor"  # (H,)
    lexical: dict[int, float]  # token id to weight above 0
    multivector: "torch.Tensor"  # (T - 1, H)


class Relevance:
    """BGE-M3; loads once, scores pairs.

    Args:
        model: a folder in BGE-M3's layout or the id of one on the Hub.
        revision: branch, tag or commit, for a Hub id.
        device: where it runs, in PyTorch's notation; one device.
        fp16: half precision, on a GPU only.
        max_length: tokens after which a text is cut, special tokens included; lowered to the encoder's limit.
        batch_size: texts per forward pass at most; long texts make smaller batches.

    Attributes:
        max_length: the length in force, in tokens.
        truncated: texts cut so far. Each call of `score` counts a distinct text once.

    Raises:
        UserError: the model cannot be loaded, lacks a head, or `fp16` is asked for on a CPU.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        revision: str | None = None,
        device: str = "cpu",
        fp16: bool = False,
        max_length: int = 8192,
        batch_size: int = 32,
    ) -> None:
        name = str(model)
        if fp16 and device == "cpu":
            raise UserError(f"relevance model {name!r}: fp16 needs a GPU, the device is 'cpu'; set fp16 to false")
        # Kept although only its parts are used: on its deletion it moves the network off the device.
        self._embedder = _load(name, revision, device, fp16)
        self._network = self._embedder.model.to(device).eval()
        self._tokenizer = self._embedder.tokenizer
        self._device = device
        self._asked, self._batch = batch_size, BatchSize(batch_size, "score.texts_per_batch")
        self._tokens = CPU_TOKENS_PER_BATCH if device == "cpu" else TOKENS_PER_BATCH
        specials = self._tokenizer.special_tokens_map
        self._special_ids = set(self._tokenizer.convert_tokens_to_ids([specials[s] for s in SPECIAL if s in specials]))
        self.max_length = min(max_length, _positions(self._network.config))
        self.truncated = 0
        fewest = len(self._tokenizer("")["input_ids"])
        if fewest < 2 or self.max_length <= fewest:
            raise UserError(
                f"relevance model {name!r}: {fewest} special tokens around a text cut at {self.max_length} tokens; "
                "BGE-M3 adds 2: use its tokenizer and a larger max_length"
            )

    def score(self, queries: Sequence[str], texts: Sequence[str]) -> RelevanceScores:
        """Score queries[i] against texts[i].

        Each distinct text passes through the network once. The vectors of all distinct queries are in memory together,
        those of the other texts one batch at a time.

        Args:
            queries: N queries.
            texts: N texts, summaries or documents.

        Returns:
            The three similarities of each pair, N numbers each.

        Raises:
            ValueError: the sequences differ in length.
        """
        if len(queries) != len(texts):
            raise ValueError(f"{len(queries)} queries for {len(texts)} texts")
        cut_before = self.truncated

        def attempt(rows: int) -> RelevanceScores:
            self.truncated = cut_before  # a second attempt counts anew
            return self._score(queries, texts, rows)

        return self._batch.fitting(attempt)

    def _score(self, queries: Sequence[str], texts: Sequence[str], rows: int) -> RelevanceScores:
        """Score pairs with at most `rows` texts per forward pass."""
        scores = RelevanceScores([0.0] * len(texts), [0.0] * len(texts), [0.0] * len(texts))
        asked = dict(self._encode(list(dict.fromkeys(queries)), rows))
        # Pairs by text, so that a text that occurs in several pairs is encoded once.
        pairs_of: dict[str, list[int]] = {}
        for pair, text in enumerate(texts):
            pairs_of.setdefault(text, []).append(pair)
        for text, vectors in self._each_once(list(pairs_of), asked, rows):
            for pair in pairs_of[text]:
                query = asked[queries[pair]]
                scores.dense[pair] = float(query.dense @ vectors.dense)
                scores.lexical[pair] = _lexical(query.lexical, vectors.lexical)
                scores.multivector[pair] = _multivector(query.multivector, vectors.multivector)
        return scores

    def _each_once(self, texts: Sequence[str], known: dict[str, _Vectors], rows: int) -> Iterator[tuple[str, _Vectors]]:
        """Yield each distinct text with its vectors; a text that is also a query is not encoded again."""
        yield from ((text, known[text]) for text in texts if text in known)
        yield from self._encode([text for text in texts if text not in known], rows)

    def _encode(self, texts: Sequence[str], rows: int) -> Iterator[tuple[str, _Vectors]]:
        """Yield distinct texts with their vectors, in batches of similar length, longest first."""
        ids = self._token_ids(texts)
        for batch in by_length([len(row) for row in ids], self._tokens * rows // self._asked, rows):
            yield from zip([texts[i] for i in batch], self._forward([ids[i] for i in batch]), strict=True)

    def _token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return token ids with special tokens, cut at `max_length`; counts the texts that were cut."""
        if not texts:
            return []
        ids: list[list[int]] = self._tokenizer(list(texts), verbose=False)["input_ids"]
        long = [i for i, row in enumerate(ids) if len(row) > self.max_length]
        self.truncated += len(long)
        for i in long:
            # Tokenized again, since the tokenizer keeps the closing special token and a plain cut would lose it.
            ids[i] = self._tokenizer(texts[i], truncation=True, max_length=self.max_length)["input_ids"]
        return ids

    def _forward(self, ids: Sequence[Sequence[int]]) -> list[_Vectors]:
        """Run the network on one batch of token ids; one `_Vectors` per text."""
        import torch

        rows = [torch.tensor(row) for row in ids]
        pad = torch.nn.utils.rnn.pad_sequence
        features = {
            "input_ids": pad(rows, batch_first=True, padding_value=self._tokenizer.pad_token_id).to(self._device),
            "attention_mask": pad([torch.ones_like(row) for row in rows], batch_first=True).to(self._device),
        }  # (B, T) each
        with torch.inference_mode():
            out = self._network(features, return_dense=True, return_sparse=True, return_colbert_vecs=True)
            dense, multivector = out["dense_vecs"].float(), out["colbert_vecs"].float()  # (B, H), (B, T - 1, H)
            weights = out["sparse_vecs"].squeeze(-1).tolist()  # (B, T)
        return [
            _Vectors(dense[i], self._token_weights(row, weights[i]), multivector[i, : len(row) - 1])
            for i, row in enumerate(ids)
        ]

    def _token_weights(self, ids: Sequence[int], weights: Sequence[float]) -> dict[int, float]:
        """Map each token id of a text to its largest weight, without special tokens and weights of 0."""
        result: dict[int, float] = {}
        for token, weight in zip(ids, weights, strict=False):  # the weights go on over the padding
            if token not in self._special_ids and weight > result.get(token, 0.0):
                result[token] = weight
        return result


def _lexical(query: dict[int, float], text: dict[int, float]) -> float:
    """Sum the products of the weights of the tokens that both texts hold (eq. 14)."""
    return sum((weight * text[token] for token, weight in query.items() if token in text), start=0.0)


def _multivector(query: "torch.Tensor", text: "torch.Tensor") -> float:
    """Average over the query's vectors the largest inner product with a vector of the text (eq. 15)."""
    return float((query @ text.T).amax(dim=1).mean())  # (query tokens, text tokens)


def _load(name: str, revision: str | None, device: str, fp16: bool) -> Any:
    """Load FlagEmbedding's BGE-M3 with both heads.

    Raises:
        UserError: a head is missing, or the model cannot be loaded.
    """
    folder = _folder(name, revision)
    missing = [head for head in HEADS if not (folder / head).is_file()]
    if missing:
        raise UserError(
            f"relevance model {name!r} lacks {' and '.join(missing)}; BGE-M3 needs both heads ({', '.join(HEADS)}): "
            "give a complete folder or the id BAAI/bge-m3"
        )
    from FlagEmbedding import BGEM3FlagModel

    with quiet_loading(warnings=True):  # FlagEmbedding does not say which weights it found
        try:
            return BGEM3FlagModel(str(folder), use_fp16=fp16, devices=device)
        except (OSError, ValueError, RuntimeError, EOFError, UnpicklingError) as error:
            raise load_error("relevance", name, revision, error) from error


def _folder(name: str, revision: str | None) -> Path:
    """The model's folder; a model of the Hub is downloaded or taken from the cache.

    Raises:
        UserError: the name is neither a folder nor a Hub id, or the download fails.
    """
    folder = local_folder("relevance", name)
    if folder is not None:
        return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=FILES))
    except (OSError, ValueError) as error:
        raise load_error("relevance", name, revision, error) from error


def _positions(config: Any) -> int:
    """The number of tokens that the encoder has positions for."""
    offset = config.pad_token_id + 1 if config.model_type in OFFSET_POSITIONS else 0
    return int(config.max_position_embeddings) - offset
