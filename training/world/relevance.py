"""The generated world's relevance model: a small BGE-M3 (XLM-R encoder, ColBERT and lexical head) trained on its texts.

Trained contrastively (InfoNCE) on each of BGE-M3's three similarities: a query against all texts of the batch, the
on-topic text being the right one; among the wrong ones is a text with the same headings and another topic's sentences.
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
BATCH = 24
TRIPLES = 4_000
HELD_OUT = 200
TEMPERATURES = {"dense": 0.1, "lexical": 0.1, "multivector": 0.05}


class Relevance:
    """An XLM-R encoder with BGE-M3's two heads, randomly initialised from a seed."""

    def __init__(self, tokenizer: Any, seed: int) -> None:
        import torch
        from transformers import XLMRobertaConfig, XLMRobertaModel

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            config = XLMRobertaConfig(
                vocab_size=len(tokenizer),
                hidden_size=HIDDEN,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=2 * HIDDEN,
                max_position_embeddings=WINDOW + 2,
                type_vocab_size=1,
                pad_token_id=tokenizer.pad_token_id,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
                initializer_range=0.05,
            )
            self.encoder: Any = XLMRobertaModel(config)
            self.colbert = torch.nn.Linear(HIDDEN, HIDDEN)
            self.sparse = torch.nn.Linear(HIDDEN, 1)
        # Positions that no training text reaches then add nothing, instead of noise.
        torch.nn.init.zeros_(self.encoder.embeddings.position_embeddings.weight)
        self.tokenizer = tokenizer

    def parameters(self) -> "list[torch.nn.Parameter]":
        """All weights, encoder first."""
        return [*self.encoder.parameters(), *self.colbert.parameters(), *self.sparse.parameters()]

    def encode(self, texts: list[str]) -> "dict[str, torch.Tensor]":
        """dense (B, H), lexical weights over the vocabulary (B, V), token vectors (B, T, H) and their mask (B, T)."""
        import torch
        from torch.nn.functional import normalize

        batch = self.tokenizer(texts, padding=True, truncation=True, max_length=WINDOW, return_tensors="pt")
        hidden = self.encoder(**batch).last_hidden_state  # (B, T, H)
        weights = torch.relu(self.sparse(hidden)).squeeze(-1)  # (B, T)
        lexical = torch.zeros(len(texts), self.encoder.config.vocab_size)
        lexical = lexical.scatter_reduce(1, batch["input_ids"], weights, reduce="amax")
        unused = torch.ones(self.encoder.config.vocab_size)
        unused[self.tokenizer.all_special_ids] = 0.0
        mask = batch["attention_mask"][:, 1:].to(hidden.dtype)
        vectors = normalize(self.colbert(hidden[:, 1:]), dim=-1) * mask.unsqueeze(-1)
        return {
            "dense": normalize(hidden[:, 0], dim=-1),
            "lexical": lexical * unused,
            "vectors": vectors,
            "mask": mask,
        }


def similarities(queries: "dict[str, torch.Tensor]", texts: "dict[str, torch.Tensor]") -> "dict[str, torch.Tensor]":
    """BGE-M3's dense, lexical and multi-vector similarity of each query with each text, each (queries, texts)."""
    import torch

    pairs = torch.einsum("qih,tjh->qitj", queries["vectors"], texts["vectors"])
    best = pairs.amax(dim=-1)  # (Q, I, T): the best text token for each query token
    lengths = queries["mask"].sum(dim=1)
    return {
        "dense": queries["dense"] @ texts["dense"].T,
        "lexical": queries["lexical"] @ texts["lexical"].T,
        "multivector": (best * queries["mask"].unsqueeze(-1)).sum(dim=1) / lengths.unsqueeze(-1),
    }


def relevance_auc(model: Relevance, triples: list[tuple[str, str, str]]) -> dict[str, float]:
    """For each similarity and for `document`, their weighted sum R_d (eq. 4): how often an on-topic text scores higher
    than an off-topic one, over all pairs of the triples' texts, each scored with its own query. 0.5 is chance."""
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
    wins = sum(1.0 if p > n else 0.5 if p == n else 0.0 for p in positive for n in negative)
    return wins / (len(positive) * len(negative))


def train_relevance(folder: Path, seed: int, prompt: Prompt, steps: int = STEPS) -> dict[str, float]:
    """Train and save a BGE-M3 folder; returns parameters, steps, the final loss and `auc_*` on held-out triples."""
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
    """Mean over the three similarities of the cross-entropy of finding each query's own text among 2·B texts."""
    import torch
    from torch.nn.functional import cross_entropy

    queries, positives, negatives = zip(*batch, strict=True)
    scores = similarities(model.encode(list(queries)), model.encode([*positives, *negatives]))
    target = torch.arange(len(batch))
    return torch.stack([cross_entropy(scores[name] / t, target) for name, t in TEMPERATURES.items()]).mean()
