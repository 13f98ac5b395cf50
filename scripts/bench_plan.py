"""Compare what `grace plan` counts with what this machine measures, for two models of 30 to 150 M random parameters.

Each measurement runs in a process of its own: three steps of weighted KTO (full and LoRA), perplexity of texts, and
sampling with the engine `transformers`; all on one thread of the CPU in float32. Seconds are the CPU's, which other
programs do not lengthen much. Memory is the growth of the process's peak over what it held with all libraries imported.
Time is predicted from the FLOP/s of one layer's matrix products and the bytes/s of a product
number by number, both measured in the same process right before and after.

    python scripts/bench_plan.py
    python scripts/bench_plan.py --models small --work perplexity
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

MODELS: dict[str, dict[str, Any]] = {
    "small": {"vocab_size": 16_384, "hidden_size": 384, "intermediate_size": 1_536, "num_hidden_layers": 12,
              "num_attention_heads": 6, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "large": {"vocab_size": 32_000, "hidden_size": 768, "intermediate_size": 2_560, "num_hidden_layers": 12,
              "num_attention_heads": 12, "num_key_value_heads": 12, "tie_word_embeddings": False},
}  # fmt: skip
WINDOW = 1_024
ROWS, WORDS = 4, 380  # rows of a device batch, and the words of an answer
SLOTS = 32  # rows decoded at once
THREADS = 1


def main() -> None:
    """Parse the command line, measure in processes of their own, print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--work", nargs="+", choices=WORK, default=list(WORK))
    parser.add_argument("--child", nargs=2, metavar=("FOLDER", "WORK"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measured(Path(options.child[0]), options.child[1])))
        return
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models:
            make_model(Path(folder) / name, MODELS[name])
            for work in options.work:
                found.append({"model": name, "work": work, **apart(Path(folder) / name, work)})
                show(found[-1], first=len(found) == 1)
    print(json.dumps({"bench": "plan", "threads": THREADS, "found": found}))


def show(row: dict[str, Any], *, first: bool) -> None:
    """Print one line of the table, after its head where it is the first."""
    if first:
        print(f"{'model':<7} {'work':<11} {'M params':>8} | {'MiB':>7} {'planned':>8} {'ratio':>6} | "
              f"{'seconds':>8} {'planned':>8} {'ratio':>6}")  # fmt: skip
    memory, seconds = row["memory"], row["seconds"]
    print(
        f"{row['model']:<7} {row['work']:<11} {row['parameters'] / 1e6:>8.1f} | {memory / 2**20:>7.0f} "
        f"{row['planned_memory'] / 2**20:>8.0f} {row['planned_memory'] / memory:>6.2f} | {seconds:>8.2f} "
        f"{row['planned_seconds']:>8.2f} {row['planned_seconds'] / seconds:>6.2f}",
        flush=True,
    )


def apart(model: Path, work: str) -> dict[str, Any]:
    """Measure one kind of work in a new process."""
    # glibc gives freed blocks back at once: what is measured is what tensors take, not what malloc has kept of them.
    freed = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
    environment = os.environ | {"OMP_NUM_THREADS": str(THREADS), "HF_HUB_OFFLINE": "1"} | freed
    command = [sys.executable, __file__, "--child", str(model), work]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def make_model(folder: Path, shape: dict[str, Any]) -> None:
    """Save a random Qwen2 with a tokenizer in which every word of `WORD` is one token."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|endoftext|>", "<|im_end|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator([" ship sails"] * 9, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.chat_template = "{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}"
    torch.manual_seed(0)
    config = Qwen2Config(
        **shape, max_position_embeddings=WINDOW, bos_token_id=None, eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)


def text(words: int) -> str:
    """A text of this many words, each one token."""
    return " ship" * words


# ---- one process: what is measured -----------------------------------------------------------------------------------


def measured(model: Path, work: str) -> dict[str, Any]:
    """Run one kind of work and return what was measured and what the plan says."""
    import torch

    torch.set_num_threads(THREADS)
    import_everything()
    from builders.store.store import Store
    from training.costs.shapes import find_config, shape_of

    shape = shape_of("model", find_config(str(model), Store(model / "store")))
    rows = SLOTS if work == "sampling" else ROWS * WORDS  # of a matrix product
    gradients = work in ("full", "lora")
    machine = [speeds(shape, rows, gradients=gradients)]
    # The calibration's tensors are gone; their memory may still be the process's, to be used again.
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    found = WORK[work](model, shape)
    memory = resident("VmHWM") - before
    machine.append(speeds(shape, rows, gradients=gradients))
    flops, bandwidth = (statistics.mean(pair) for pair in zip(*machine, strict=True))
    planned = found.pop("planned")(flops, bandwidth)
    return {"parameters": shape.total, "memory": memory, "flops": flops, "bandwidth": bandwidth, **found, **planned}


def import_everything() -> None:
    """Import what the work imports, so that libraries do not count as its memory."""
    for name in (
        "datasets", "peft", "trl", "builders.engines.decoding", "builders.engines.transformers_engine",
        "scorers.perplexity", "training.kto.rounds", "training.kto.tokens", "training.kto.trainer",
    ):  # fmt: skip
        import_module(name)


def resident(field: str) -> int:
    """Bytes of a field of /proc/self/status: VmRSS is held now, VmHWM was held at the most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{field}:")).split()[1])


def speeds(shape: Any, rows: int, *, gradients: bool) -> tuple[float, float]:
    """FLOP/s of all products of a layer, with their two gradients if so asked, and bytes/s of one into new memory.

    Args:
        shape: the model.
        rows: tokens that are multiplied together.
        gradients: whether the work has a backward pass.
    """
    import torch

    wide, keys, inner = (shape.hidden, shape.attention), (shape.hidden, shape.keys), (shape.hidden, shape.inner)
    layers = [wide, keys, keys, wide[::-1], inner, inner, inner[::-1]]
    operands = [(torch.randn(rows, a), torch.randn(b, a), torch.randn(rows, b)) for a, b in layers]
    block, other = torch.ones(ROWS * WORDS, shape.inner), torch.ones(ROWS * WORDS, shape.inner)
    rates: tuple[list[float], list[float]] = ([], [])
    for _ in range(6):
        began = time.process_time()
        for states, weight, gradient in operands:
            states @ weight.T
            if gradients:
                gradient @ weight
                gradient.T @ states
        middle = time.process_time()
        for _ in range(4):
            block * other
        rates[0].append((6 if gradients else 2) * rows * sum(a * b for a, b in layers) / (middle - began))
        rates[1].append(4 * 3 * block.nbytes / (time.process_time() - middle))
    return statistics.median(rates[0]), statistics.median(rates[1])


def machine_of(flops: float, bandwidth: float) -> Any:
    """The machine of the plan, with the speeds that were measured."""
    from training.costs.hardware import Machine

    return Machine("cpu", "cpu", 1, 2.0**40, flops, flops, bandwidth)


def train(method: str, model: Path, shape: Any) -> dict[str, Any]:
    """Three optimizer steps of weighted KTO, one device batch each; the time is that of the last two."""
    import polars as pl
    from transformers import TrainerCallback

    from builders.settings.kto import TrainSettings
    from training.costs.training import Step, row_work, training_memory
    from training.kto.rounds import train_round
    from training.memory import Zero, count_in

    class Clock(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.began: list[float] = []
            self.ended: list[float] = []

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.began.append(time.process_time())

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.ended.append(time.process_time())

    settings = TrainSettings.model_validate(
        {"method": method, "batch_size": ROWS, "device_batch_size": ROWS, "precision": "fp32", "lora_rank": 16}
    )
    rows = [
        {
            "prompt": [{"role": "user", "content": text(12 - n % 4) + f" {n}"}],
            "completion": [{"role": "assistant", "content": text(WORDS)}],
            "label": n % 2 == 0,
            "weight": 1.0,
            "query_id": str(n),
            "response_id": f"{n}-0",
        }
        for n in range(3 * ROWS)
    ]
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        train_round(
            policy=model, output_dir=Path(folder) / "out", run_dir=Path(folder) / "run", dataset=pl.DataFrame(rows),
            settings=settings, callbacks=[clock],
        )  # fmt: skip
    seconds = [end - begin for begin, end in zip(clock.began, clock.ended, strict=True)]
    tokens = WORDS + 12 + 5
    step = Step(ROWS, tokens, WORDS + 1, accumulates=False, device="cpu", bf16=False, kl=True)
    sizes = count_in(shape.config, settings, "model")
    memory = training_memory(shape, sizes, settings, Zero(), 1, step)["peak"].value
    work = row_work(shape, sizes, settings, step, Zero())

    def planned(flops: float, bandwidth: float) -> dict[str, float]:
        from training.costs.training import step_seconds

        trained = sizes.total if method == "full" else sizes.adapter
        value = step_seconds(work, ROWS, trained, machine_of(flops, bandwidth), 4, utilisation=1.0, bandwidth_share=1.0)
        return {"planned_memory": memory, "planned_seconds": value}

    return {"seconds": statistics.mean(seconds[1:]), "planned": planned}


def perplexity(model: Path, shape: Any) -> dict[str, Any]:
    """Score texts in batches of 2,048 tokens."""
    from scorers.perplexity import Perplexity
    from training.costs.inference import perplexity_memory, reading_seconds

    count, length = 24, 512
    scorer = Perplexity(model, tokens_per_batch=2_048)
    began = time.process_time()
    scorer.score([text(length)] * count)
    seconds = time.process_time() - began
    memory = perplexity_memory(shape, 2_048, 4)["peak"].value

    def planned(flops: float, bandwidth: float) -> dict[str, float]:
        value = reading_seconds(
            shape, count, length, machine_of(flops, bandwidth), 4, utilisation=1.0, bandwidth_share=1.0
        ).value
        return {"planned_memory": memory, "planned_seconds": value}

    return {"seconds": seconds, "planned": planned}


def sampling(model: Path, shape: Any) -> dict[str, Any]:
    """Sample with the engine `transformers`; random weights hardly ever draw the end, so rows are as long as allowed.

    Nor have they a nucleus: with top-p the whole vocabulary would be sorted, which a trained model hardly needs.
    """
    from builders.engines import SamplingSettings
    from builders.engines.transformers_engine import TransformersEngine
    from builders.settings.engines import TransformersEngineSettings
    from training.costs.inference import Sampling, decode_seconds, sampling_memory

    rows, prompt, longest = SLOTS, 96, 160
    engine = TransformersEngine(str(model), device="cpu", dtype="float32", batch_size=rows)
    began = time.process_time()
    done = engine.generate(
        [[{"role": "user", "content": text(prompt - 1)}]] * rows, list(range(rows)),
        SamplingSettings(longest),
    )  # fmt: skip
    seconds = time.process_time() - began
    written = statistics.mean(row.num_tokens for row in done)
    use = Sampling(prompt, written, longest, WINDOW, rows, distinct=1)
    settings = TransformersEngineSettings(batch_size=rows)

    def planned(flops: float, bandwidth: float) -> dict[str, float]:
        machine = machine_of(flops, bandwidth)
        value = decode_seconds(shape, settings, use, machine, 4, utilisation=1.0, bandwidth_share=1.0).value
        return {
            "planned_memory": sampling_memory(shape, settings, use, machine, 4)["peak"].value, "planned_seconds": value,
        }  # fmt: skip

    return {"seconds": seconds, "planned": planned}


WORK: dict[str, Callable[[Path, Any], dict[str, Any]]] = {
    "full": lambda model, shape: train("full", model, shape),
    "lora": lambda model, shape: train("lora", model, shape),
    "perplexity": perplexity,
    "sampling": sampling,
}

if __name__ == "__main__":
    main()
