"""The relevance model of the generated world: a small BGE-M3 (an XLM-R encoder with a ColBERT and a lexical head).

It is trained contrastively (InfoNCE) on each of BGE-M3's three similarities (GRACE-KTO, eq. 13–15): a query against all
texts of the batch, of which its own on-topic text is the right one. Among the wrong texts is one with the same headings
and another topic's sentences, so that copied headings do not count as relevance.
"""

from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from scorers.relevance import DOCUMENT_WEIGHTS, combine
from training.world.optimise import rate
from training.world.texts import Prompt, World
from training.world.tokenizer import save_relevance_tokenizer

if TYPE_CHECKING:
    import torch

WINDOW = 512  # longest input in tokens
HIDDEN = 64
STEPS = 300
BATCH = 24  # queries per step; each meets 2 · BATCH texts
TRIPLES = 4_000  # distinct training triples at most
HELD_OUT = 200  # triples for the AUC
# InfoNCE divides each similarity by its temperature: the lower, the more the hardest wrong text counts.
TEMPERATURES = {"dense": 0.1, "lexical": 0.1, "multivector": 0.05}


def encoder_config(tokenizer: Any) -> Any:
    """The configuration of the two-layer encoder for a tokenizer."""
    from transformers import XLMRobertaConfig

    return XLMRobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * HIDDEN,
        max_position_embeddings=WINDOW + 2,  # XLM-R counts positions from the padding id + 1
        type_vocab_size=1,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.05,
    )


class Relevance:
    """An XLM-R encoder with BGE-M3's two heads.

    Args:
        tokenizer: the world's tokenizer for this model.
        seed: seed of the random weights.
    """

    def __init__(self, tokenizer: Any, seed: int) -> None:
        import torch
        from transformers import XLMRobertaModel

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder: Any = XLMRobertaModel(encoder_config(tokenizer))
            self.colbert = torch.nn.Linear(HIDDEN, HIDDEN)
            self.sparse = torch.nn.Linear(HIDDEN, 1)
        # From zero, so that positions beyond the longest training text add nothing instead of noise.
        torch.nn.init.zeros_(self.encoder.embeddings.position_embeddings.weight)
        self.tokenizer = tokenizer

    def parameters(self) -> "list[torch.nn.Parameter]":
        """All weights, the encoder's first."""
        return [*self.encoder.parameters(), *self.colbert.parameters(), *self.sparse.parameters()]

    def encode(self, texts: list[str]) -> "dict[str, torch.Tensor]":
        """Encode texts in BGE-M3's three ways; texts beyond the window are cut.

        Returns:
            dense (B, H), normalised; lexical (B, V), weights over the vocabulary, ≥ 0; vectors (B, T-1, H), one
            normalised vector per token but the first, 0 at padding; mask (B, T-1), 1.0 at tokens.
        """
        import torch
        from torch.nn.functional import normalize

        batch = self.tokenizer(texts, padding=True, truncation=True, max_length=WINDOW, return_tensors="pt")
        hidden = self.encoder(**batch).last_hidden_state  # (B, T, H)
        weights = torch.relu(self.sparse(hidden)).squeeze(-1)  # (B, T)
        # A token weighs its largest weight over its positions (eq. 14); special tokens never match.
        lexical = torch.zeros(len(texts), self.encoder.config.vocab_size)
        lexical = lexical.scatter_reduce(1, batch["input_ids"], weights, reduce="amax")
        unused = torch.ones(self.encoder.config.vocab_size)
        unused[self.tokenizer.all_special_ids] = 0.0
        # The first token is <s>, whose state is the dense vector (eq. 13).
        mask = batch["attention_mask"][:, 1:].to(hidden.dtype)
        vectors = normalize(self.colbert(hidden[:, 1:]), dim=-1) * mask.unsqueeze(-1)
        return {
            "dense": normalize(hidden[:, 0], dim=-1),
            "lexical": lexical * unused,
            "vectors": vectors,
            "mask": mask,
        }


def similarities(queries: "dict[str, torch.Tensor]", texts: "dict[str, torch.Tensor]") -> "dict[str, torch.Tensor]":
    """BGE-M3's three similarities of each query with each text.

    Args:
        queries: Q encoded queries.
        texts: N encoded texts.

    Returns:
        dense, lexical and multivector, each (Q, N).
    """
    import torch

    pairs = torch.einsum("qih,tjh->qitj", queries["vectors"], texts["vectors"])  # (Q, query tokens, N, text tokens)
    best = pairs.amax(dim=-1)  # (Q, query tokens, N): the most similar token of the text for each token of the query
    lengths = queries["mask"].sum(dim=1)  # (Q,)
    return {
        "dense": queries["dense"] @ texts["dense"].T,
        "lexical": queries["lexical"] @ texts["lexical"].T,
        "multivector": (best * queries["mask"].unsqueeze(-1)).sum(dim=1) / lengths.unsqueeze(-1),
    }


def relevance_auc(model: Relevance, triples: list[tuple[str, str, str]]) -> dict[str, float]:
    """How often an on-topic text scores higher than an off-topic one, each scored with its own query (AUC).

    Args:
        model: the relevance model.
        triples: (query, on-topic text, off-topic text) each.

    Returns:
        A share in [0, 1], 0.5 is chance, for each similarity and for `document`, their weighted sum R_d (eq. 4); over
        all pairs of an on-topic and an off-topic text.
    """
    import torch

    positive: dict[str, list[float]] = {}
    negative: dict[str, list[float]] = {}
    with torch.no_grad():
        for query, *texts in triples:
            scores = similarities(model.encode([query]), model.encode(texts))
            scores["document"] = combine(scores["dense"], scores["lexical"], scores["multivector"], DOCUMENT_WEIGHTS)
            for name, values in scores.items():
                positive.setdefault(name, []).append(values[0, 0].item())
                negative.setdefault(name, []).append(values[0, 1].item())
    return {name: _auc(positive[name], negative[name]) for name in positive}


def _auc(positive: list[float], negative: list[float]) -> float:
    """The share of (positive, negative) pairs in which the positive value is larger; a tie counts one half."""
    wins = sum(1.0 if p > n else 0.5 if p == n else 0.0 for p in positive for n in negative)
    return wins / (len(positive) * len(negative))


def train_relevance(folder: Path, seed: int, prompt: Prompt, steps: int = STEPS) -> dict[str, float]:
    """Train the relevance model and save it as a BGE-M3 folder.

    Args:
        folder: folder to write the model into.
        seed: seed of the texts, the weights and the batches.
        prompt: the pipeline's wish for new queries, for the tokenizer.
        steps: optimizer steps.

    Returns:
        parameters, steps, loss (mean over the last tenth of the steps) and `auc_*` on held-out triples.
    """
    import torch
    from transformers import AutoTokenizer

    save_relevance_tokenizer(folder, WINDOW, prompt)
    model = Relevance(AutoTokenizer.from_pretrained(folder), seed)
    world = World(seed)
    triples = world.relevance_triples(min(TRIPLES, BATCH * steps))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    rng = Random(f"{seed}/relevance-batches")
    losses = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * rate(step, steps)
        loss = _contrastive_loss(model, rng.sample(triples, BATCH))
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.detach().item())
    # The layout of BAAI/bge-m3, which FlagEmbedding loads: encoder, and one .pt file per head.
    model.encoder.save_pretrained(folder)
    torch.save(model.colbert.state_dict(), folder / "colbert_linear.pt")
    torch.save(model.sparse.state_dict(), folder / "sparse_linear.pt")
    auc = relevance_auc(model, world.relevance_triples(HELD_OUT, "held-out"))
    tail = losses[-max(1, steps // 10) :]
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "steps": steps,
        "loss": sum(tail) / len(tail),
        **{f"auc_{name}": value for name, value in auc.items()},
    }


def _contrastive_loss(model: Relevance, batch: list[tuple[str, str, str]]) -> "torch.Tensor":
    """The cross-entropy of finding each query's own text, averaged over the three similarities.

    Args:
        model: the relevance model.
        batch: B triples (query, on-topic text, off-topic text).

    Returns:
        A scalar tensor in nats; every query chooses among 2·B texts.
    """
    import torch
    from torch.nn.functional import cross_entropy

    queries, positives, negatives = zip(*batch, strict=True)
    scores = similarities(model.encode(list(queries)), model.encode([*positives, *negatives]))
    # Query i belongs to text i: the on-topic texts stand first.
    target = torch.arange(len(batch))
    return torch.stack([cross_entropy(scores[name] / t, target) for name, t in TEMPERATURES.items()]).mean()
