"""Measure the scorers beside the usual way to compute the same numbers, on random models and texts of real shapes.

| metric | the usual way |
|---|---|
| diversity | numpy's `unique` on polynomial hashes of the n-grams |
| perplexity | a padded batch, the model's own logits, cross-entropy; vLLM's `prompt_logprobs` where it is installed |
| relevance | FlagEmbedding: `compute_score`, and `encode` with the similarities taken from its vectors |

Both sides get the same texts, in the same order, and must agree. Arms alternate; the table has the median and the least
of the CPU seconds, the ratio of the medians, and what memory the first call took beyond what was there before it, in a
fork of its own (vLLM's lies in a process that this does not see). What it does not show: GPUs, and texts whose lengths
are all alike, where there is no padding to save.

    python scripts/bench_scorers.py --metric diversity perplexity relevance
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

Arms = dict[str, Callable[[], Any]]
"""What is measured, ours first; each returns its numbers."""
WORDS = tuple(
    f"{a}{b}" for a in ("ri", "ha", "tra", "sto", "gla", "pa") for b in ("ver", "rbour", "de", "ne", "ss", "per")
)


def main() -> None:
    """Parse the command line, measure, print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metric", nargs="+", choices=sorted(METRICS), default=["diversity"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--texts", type=int, default=24, help="documents; a third as many queries")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    options = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for metric in options.metric:
            if metric != "diversity":
                import torch

                torch.set_num_threads(options.threads)
            for name, arms in METRICS[metric](options, Path(folder)).items():
                found[name] = measure(arms, options.rounds)
    show(found)


def measure(arms: Arms, rounds: int) -> dict[str, dict[str, float]]:
    """Run the arms in turn and return the median and the least of their CPU seconds, and the MiB of their first run.

    The first run's seconds are not counted.
    """
    memory = {name: first_call_mib(arm) for name, arm in arms.items()}  # before any arm has left memory behind
    numbers = [np.asarray(arm(), dtype=float) for arm in arms.values()]
    for other in numbers[1:]:
        np.testing.assert_allclose(other, numbers[0], rtol=1e-3, atol=1e-4)
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, arm in arms.items():
            began = time.process_time()
            arm()
            seconds[name].append(time.process_time() - began)
    return {
        name: {"median": statistics.median(runs), "least": min(runs), "mib": memory[name]}
        for name, runs in seconds.items()
    }


def first_call_mib(arm: Callable[[], Any]) -> float:
    """Run an arm in a fork, and return by how much its memory rose at the most, in MiB, sampled every millisecond.

    Pages of files, such as the weights that are read at the first call, do not count.
    """
    process = get_context("fork").Process(target=arm)
    kib: list[int] = []
    process.start()
    while process.is_alive():
        status = Path(f"/proc/{process.pid}/status").read_text()
        kib += [int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon:")]
        time.sleep(0.001)
    return (max(kib) - kib[0]) / 1024


def show(found: dict[str, dict[str, dict[str, float]]]) -> None:
    """Print the table, and everything as one line of JSON."""
    print(f"{'work':<32} {'arm':<24} {'median s':>9} {'least s':>9} {'ratio':>6} {'MiB':>8}")
    for name, arms in found.items():
        ours = next(iter(arms.values()))["median"]
        for arm, seconds in arms.items():
            median, least, mib = seconds["median"], seconds["least"], seconds["mib"]
            print(f"{name:<32} {arm:<24} {median:>9.4f} {least:>9.4f} {median / ours:>6.2f} {mib:>8.1f}")
    sys.stdout.flush()
    print(json.dumps({"bench": "scorers", "cpu_seconds": found}))


def diversity_arms(options: argparse.Namespace, folder: Path) -> dict[str, Arms]:
    """Documents of three lengths, of words as frequent as in real text."""
    from scorers.diversity import diversity

    draw = np.random.default_rng(0)
    chances = 1 / np.arange(1, 50_001)
    chances /= chances.sum()
    found: dict[str, Arms] = {}
    for size, count in ((100, 320), (3_000, 32), (24_000, 8)):
        rows = [draw.choice(50_000, size, p=chances).tolist() for _ in range(count)]
        found[f"diversity, {count} x {size} tokens"] = {
            "ours": lambda rows=rows: diversity(rows),  # type: ignore[misc]
            "numpy unique": lambda rows=rows: [hashed_diversity(row) for row in rows],  # type: ignore[misc]
        }
    return found


def hashed_diversity(ids: Sequence[int], n: int = 4) -> float:
    """Diversity by hashes, which may collide."""
    array = np.asarray(ids, dtype=np.uint64)
    total = len(array) - n + 1
    codes = np.zeros(total, np.uint64)
    for start in range(n):
        codes = codes * np.uint64(1_000_003) + array[start : start + total]
    return 100.0 * len(np.unique(codes)) / total


def texts_of(count: int, words: Sequence[int], seed: int = 0) -> list[str]:
    """Texts of random words; their lengths are spread between two numbers."""
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(WORDS, int(size))) for size in draw.integers(words[0], words[1], count)]


def perplexity_arms(options: argparse.Namespace, folder: Path) -> dict[str, Arms]:
    """A Qwen2 of 4 layers with the vocabulary of Qwen2.5, texts of 50 to 600 words."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    from scorers.perplexity import Perplexity

    path = folder / "lm"
    make_tokenizer(path)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=151_936, hidden_size=320, intermediate_size=1280, num_hidden_layers=6, num_attention_heads=5,
        num_key_value_heads=1, max_position_embeddings=4096, tie_word_embeddings=True,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(path)
    scorer = Perplexity(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    texts = texts_of(options.texts, (50, 600))

    def padded() -> list[float]:
        found = []
        for at in range(0, len(texts), 4):
            batch = tokenizer(texts[at : at + 4], return_tensors="pt", padding=True)
            labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)[:, 1:]
            with torch.inference_mode():
                logits = model(**batch).logits[:, :-1]
                losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
            found += (losses.sum(1) / (labels != -100).sum(1)).exp().tolist()
        return found

    arms: Arms = {"ours": lambda: scorer.score(texts), "padded, full logits": padded}
    if find_spec("vllm") is not None:
        from builders.engines.vllm_perplexity import VllmPerplexity

        by_vllm = VllmPerplexity(path, device="cpu", dtype="float32")
        arms["vLLM"] = lambda: by_vllm.score(texts)
    return {f"perplexity, {options.texts} texts": arms}


def relevance_arms(options: argparse.Namespace, folder: Path) -> dict[str, Arms]:
    """An encoder of BGE-M3's kind with 4 layers, queries of 10 to 60 words, each with three texts of 50 to 600."""
    from scorers.relevance import Relevance

    path = folder / "bge"
    make_encoder(path)
    ours = Relevance(path, max_length=2048)
    peer = ours._embedder
    texts = texts_of(options.texts, (50, 600))
    queries = [query for query in texts_of(-(-options.texts // 3), (10, 60), seed=1) for _ in range(3)][: len(texts)]
    pairs = list(zip(queries, texts, strict=True))

    def compute_score() -> list[list[float]]:
        found = peer.compute_score(pairs, max_query_length=2048, max_passage_length=2048, batch_size=8)
        return [found["dense"], found["sparse"], found["colbert"]]

    def encode() -> list[list[float]]:
        options_ = {"max_length": 2048, "batch_size": 8, "return_sparse": True, "return_colbert_vecs": True}
        asked, told = peer.encode(queries, **options_), peer.encode(texts, **options_)
        rows = range(len(texts))
        return [
            [float(asked["dense_vecs"][i] @ told["dense_vecs"][i]) for i in rows],
            [
                peer.compute_lexical_matching_score(asked["lexical_weights"][i], told["lexical_weights"][i])
                for i in rows
            ],
            [float(peer.colbert_score(asked["colbert_vecs"][i], told["colbert_vecs"][i])) for i in rows],
        ]

    return {
        f"relevance, {len(pairs)} pairs": {
            "ours": lambda: ours.score(queries, texts),
            "compute_score": compute_score,
            "encode": encode,
        }
    }


def make_tokenizer(folder: Path, *, pair: bool = False) -> Any:
    """Save a tokenizer of byte pairs, which knows the words; with `pair`, with the special tokens of XLM-R."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<s>", "<pad>", "</s>", "<unk>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    raw.train_from_iterator([" ".join(WORDS)], trainer)
    if pair:
        raw.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="<unk>", pad_token="<pad>", eos_token="</s>", cls_token="<s>", bos_token="<s>",
        padding_side="right",
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    return tokenizer


def make_encoder(folder: Path) -> None:
    """Save a random encoder in BGE-M3's layout."""
    import torch
    from transformers import XLMRobertaConfig, XLMRobertaModel

    make_tokenizer(folder, pair=True)
    torch.manual_seed(0)
    config = XLMRobertaConfig(
        vocab_size=250_002, hidden_size=384, num_hidden_layers=4, num_attention_heads=6, intermediate_size=1536,
        max_position_embeddings=2050, pad_token_id=1, bos_token_id=0, eos_token_id=2, type_vocab_size=1,
    )  # fmt: skip
    XLMRobertaModel(config).save_pretrained(folder)
    torch.save(torch.nn.Linear(384, 384).state_dict(), folder / "colbert_linear.pt")
    torch.save(torch.nn.Linear(384, 1).state_dict(), folder / "sparse_linear.pt")


METRICS: dict[str, Callable[[argparse.Namespace, Path], dict[str, Arms]]] = {
    "diversity": diversity_arms,
    "perplexity": perplexity_arms,
    "relevance": relevance_arms,
}

if __name__ == "__main__":
    main()
