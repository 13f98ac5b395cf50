"""Measure a training beside TRL's `KTOTrainer`, on a random model and rows of a real shape.

Both get the same rows, batch and model, in full float32 fine-tuning on the CPU with plain SGD, and as many steps as the
rows make up. What each side needs for its reference is part of the time.

| arm | forward and backward passes per row |
|---|---|
| TRL | policy with gradient, policy on borrowed completions, reference on both |
| ours, mismatched | the same, the reference in advance |
| ours, mismatched, sampler's log-probability | without the reference on the row's own completion |
| ours, matched, sampler's log-probability | the policy with gradient alone |

TRL cuts no row here, and its rows are in random order. What the benchmark does not show: GPUs; QLoRA; several
processes.

    python scripts/bench_train.py --rounds 5
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

WORDS = tuple(f"{a}{b}" for a in ("ri", "ha", "tra", "sto", "gla", "pa") for b in ("ver", "rbour", "de", "ne", "ss"))
ARMS: dict[str, dict[str, Any]] = {
    "ours, mismatched": {"kl": "mismatched"},
    "ours, mismatched, sampler": {"kl": "mismatched", "sampler_reference": True},
    "ours, matched, sampler": {"kl": "matched", "sampler_reference": True},
}


def main() -> None:
    """Parse the command line, measure, print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--queries", type=int, default=8, help="of two responses each")
    parser.add_argument("--tokens", type=int, default=192, help="longest completion; the shortest has half of it")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--width", type=int, default=512, help="of the model; 8 layers, 16,000 words: 42 M parameters")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    options = parser.parse_args()

    import torch

    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder) / "model", options.width)
        rows = make_rows(model, options.queries, options.tokens)
        arms: dict[str, Callable[[], None]] = {"TRL": partial(train_trl, model, rows, options.batch, folder)}
        arms |= {name: partial(train_ours, model, rows, options.batch, folder, more) for name, more in ARMS.items()}
        seconds: dict[str, list[float]] = {name: [] for name in arms}
        for number in range(options.rounds + 1):
            for name, arm in arms.items():
                began = time.process_time()
                arm()
                if number:  # the first run of each pays for imports and caches
                    seconds[name].append(time.process_time() - began)
    show(seconds)


def show(seconds: dict[str, list[float]]) -> None:
    """Print the table, and everything as one line of JSON."""
    theirs = statistics.median(seconds["TRL"])
    print(f"{'arm':<28} {'median CPU s':>12} {'least':>8} {'TRL over it':>12}")
    for name, runs in seconds.items():
        print(
            f"{name:<28} {statistics.median(runs):>12.2f} {min(runs):>8.2f} {theirs / statistics.median(runs):>12.2f}"
        )
    print(json.dumps({"bench": "train", "cpu_seconds": seconds}))


def make_model(folder: Path, width: int) -> Path:
    """Save a random Llama with a word-level tokenizer and a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    names = ["<unk>", "<|end|>", "<|user|>", "<|assistant|>", *WORDS]
    words = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<|end|>", pad_token="<|end|>")
    tokenizer.chat_template = (
        "{% for message in messages %}<|{{ message['role'] }}|> {{ message['content'] }} <|end|> {% endfor %}"
        "{% if add_generation_prompt %}<|assistant|> {% endif %}"
    )
    config = LlamaConfig(
        vocab_size=16_000, hidden_size=width, intermediate_size=3 * width, num_hidden_layers=8,
        num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=4096, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_rows(model: Path, queries: int, tokens: int) -> pl.DataFrame:
    """Two responses to each query, of random words, with the log-probability that a sampler would have written down."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, policy = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model)
    draw = np.random.default_rng(0)
    rows = []
    for number in range(queries):
        prompt = [{"role": "user", "content": " ".join(draw.choice(WORDS, 40))}]
        before = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"]
        for label in (True, False):
            text = " ".join(draw.choice(WORDS, int(draw.integers(tokens // 2, tokens)) - 1))
            ids = [*tokenizer(text).input_ids, tokenizer.eos_token_id]
            with torch.no_grad():
                logits = policy(torch.tensor([before + ids])).logits[0, len(before) - 1 : -1]
            logps = logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None])
            rows.append(
                {
                    "query_id": f"q{number}",
                    "response_id": f"q{number}-{int(label)}",
                    "prompt": prompt,
                    "completion": [{"role": "assistant", "content": text}],
                    "label": label,
                    "weight": 1.0 if label else -1.0,
                    "num_tokens": len(ids),
                    "logprob": float(logps.sum()),
                }
            )
    return pl.DataFrame(rows)


def common(rows: pl.DataFrame, batch: int) -> dict[str, Any]:
    """Arguments of both trainers."""
    return {
        "max_steps": rows.height // batch, "per_device_train_batch_size": batch, "learning_rate": 1e-4, "optim": "sgd",
        "bf16": False, "use_cpu": True, "report_to": "none", "disable_tqdm": True, "logging_strategy": "no",
        "save_strategy": "no", "gradient_checkpointing": False, "dataloader_pin_memory": False,
    }  # fmt: skip


def train_trl(model: Path, rows: pl.DataFrame, batch: int, folder: str) -> None:
    """One pass of TRL's trainer."""
    from datasets import Dataset
    from trl import KTOConfig, KTOTrainer

    plain = rows.sample(fraction=1.0, shuffle=True, seed=0).select("prompt", "completion", "label")
    args = KTOConfig(f"{folder}/trl", max_length=None, **common(rows, batch))
    KTOTrainer(model=str(model), args=args, train_dataset=Dataset.from_polars(plain)).train()


def train_ours(model: Path, rows: pl.DataFrame, batch: int, folder: str, more: dict[str, Any]) -> None:
    """One pass of ours."""
    from training.kto.tokens import tokenized
    from training.kto.trainer import GraceKTOConfig, GraceKTOTrainer

    args = GraceKTOConfig(f"{folder}/ours", learning_rate_end=0.0, mu=0.1, **common(rows, batch), **more)
    GraceKTOTrainer(str(model), args, tokenized(rows, str(model), Path(folder))).train()


if __name__ == "__main__":
    main()
