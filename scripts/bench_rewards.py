"""Rewards of edited texts: pairs scored per second in batches of like length, against one text at a time.

The model is a Qwen2 sequence classifier with random weights; the texts are those of the generated world's editing
tasks, most of some 60 tokens, and some of a few hundred. Both ways give the same rewards.

    python scripts/bench_rewards.py --pairs 512 --layers 4 --width 256
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from random import Random

from builders.rationalign.messages import reward_text
from scorers.reward import RewardModels
from training.pipelines import load_config
from training.rationalign.editing import pairs
from training.rationalign.world import words


def make_model(folder: Path, layers: int, width: int) -> Path:
    """Save a reward model with random weights and the world's tokenizer."""
    import torch
    from transformers import AutoTokenizer, Qwen2ForSequenceClassification

    from training.world.models import causal_config
    from training.world.tokenizer import save_policy_tokenizer

    save_policy_tokenizer(folder, words)
    config = causal_config(AutoTokenizer.from_pretrained(folder), width, 2 * width)
    config.num_hidden_layers, config.layer_types, config.num_labels = layers, ["full_attention"] * layers, 1
    torch.manual_seed(0)
    Qwen2ForSequenceClassification(config).save_pretrained(folder)
    return folder


def main() -> None:
    """Make texts, score them both ways, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=512)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=64)
    options = parser.parse_args()
    config, rng = load_config("tiny-rationalign"), Random(0)
    found = rng.sample(pairs(0, -(-options.pairs // 8)), options.pairs)
    texts = []
    for pair in found:
        times = rng.choice((1, 1, 1, 1, 4))  # some are paragraphs
        source = " ".join([pair.source] * times)
        for suggestion in (pair.references[0], pair.source):
            texts.append(reward_text(config, pair.task, source, " ".join([suggestion] * times)))
    kinds = ["all"] * len(texts)
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder), options.layers, options.width)
        rates, rewards = {}, {}
        for size in (options.batch_size, 1):
            model = RewardModels(Path(folder), None, device="cpu", dtype="float32", batch_size=size)
            model.score(texts[:2], kinds[:2])  # loads it
            began = time.perf_counter()
            rewards[size] = model.score(texts, kinds)
            rates[size] = options.pairs / (time.perf_counter() - began)
    largest = max(abs(a - b) for a, b in zip(*rewards.values(), strict=True))
    if largest > 1e-3:
        raise SystemExit(f"the two ways differ by {largest}")
    fast, slow = rates[options.batch_size], rates[1]
    print(f"{options.pairs} pairs; rewards differ by {largest:.1e} at most")
    print(f"{'batches of ' + str(options.batch_size):<20}{fast:>10,.1f} pairs/s")
    print(f"{'one at a time':<20}{slow:>10,.1f} pairs/s")
    print(f"{'ratio':<20}{fast / slow:>10.1f}")
    record = {
        "pairs": options.pairs,
        "batched": round(fast, 1),
        "alone": round(slow, 1),
        "ratio": round(fast / slow, 2),
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
