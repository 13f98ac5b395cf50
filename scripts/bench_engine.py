"""Measure the sampling engines in tokens per second, beside transformers' own `generate` on the same model and prompts.

The model is a random Qwen2 of about 0.4 M parameters unless `--model` names a folder. Each round runs the engine first
and then `generate`, which stops every row at the length that the engine's row had, so both produce the same number of
tokens. Rounds alternate, and the median counts. CPU seconds show how much of the wall time other programs took. The
last line on stdout is one JSON object.

    python scripts/bench_engine.py                  # the transformers engine beside generate
    python scripts/bench_engine.py --vllm           # vLLM too: shards of 8 queries beside one call of all rows
    python scripts/bench_engine.py --generate 2000  # the stage generate beside one call of all prompts that it asked

The last one needs a first policy that writes queries: that of the preset tiny, in the store that `make demo` fills.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from builders.core.models import Loaded, LocalModel
from builders.core.stage import Context
from builders.core.work import build_shards
from builders.engines import Batch, Completion, Engine, Message, SamplingSettings, load_engine
from builders.store.manifest import Model
from builders.store.revision import Revision
from builders.store.store import Store
from training.grace_kto.pipeline import GRACE_KTO
from training.pipelines import load_config

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
Times = tuple[float, float]
"""Wall and CPU seconds."""
SHARD = 8  # queries
BARE, SHARDS = "LLM.generate, one call", f"engine vllm, shards of {SHARD}"
TOPICS = ("river trade", "harbour dues", "glass making", "night trains", "salt roads", "paper mills")


def main() -> None:
    """Parse the command line, measure, print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="model folder or Hub id (default: a random tiny model)")
    parser.add_argument("--queries", type=int, default=32, help="distinct prompts")
    parser.add_argument("--responses", type=int, default=8, help="responses to each prompt")
    parser.add_argument("--max-new-tokens", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--vllm", action="store_true", help="measure the vllm engine too, after the others")
    parser.add_argument("--generate", type=int, help="measure the stage generate instead, of so many queries")
    parser.add_argument("--store", default=".grace/store", help="where the first policy of the preset tiny is")
    options = parser.parse_args()
    if options.generate is not None:
        report_generate(options, measure_generate(options))
        return
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or make_model(Path(folder))
        report(options, measure(options, model))


def measure(options: argparse.Namespace, model: str) -> dict[str, dict[str, float]]:
    """Measure every engine.

    Args:
        options: the command line.
        model: model folder or Hub id.

    Returns:
        Tokens, median seconds (wall and CPU) and tokens per second, by name of the engine.
    """
    import torch

    torch.set_num_threads(options.threads)
    prompts = make_prompts(options.queries, options.responses)
    settings = SamplingSettings(options.max_new_tokens)
    times: dict[str, list[Times]] = {}
    tokens: dict[str, int] = {}
    engine = load_engine("transformers", model, batch_size=options.batch_size)
    plain = load_plain(model)
    timed_engine(engine, prompts[:8], SamplingSettings(8))  # first calls pay for lazy set-up
    for _ in range(options.rounds):
        seconds, completions = timed_engine(engine, prompts, settings)
        # The lengths of this round's draws, which `generate` has to reproduce.
        lengths = [completion.num_tokens for completion in completions]
        add("engine transformers", seconds, sum(lengths), times, tokens)
        seconds, produced = timed_generate(plain, engine.tokenizer, prompts, lengths, options.batch_size)
        add("plain generate", seconds, produced, times, tokens)
    engine.close()
    if options.vllm:
        # Last: vLLM claims its memory when it starts.
        engine = load_engine("vllm", model, batch_size=options.batch_size)
        timed_engine(engine, prompts[:8], SamplingSettings(8))
        for _ in range(options.rounds):
            seconds, produced = timed_bare(engine, prompts, settings)
            add(BARE, seconds, produced, times, tokens)
            seconds, produced = timed_stream(engine, prompts, settings, SHARD * options.responses)
            add(SHARDS, seconds, produced, times, tokens)
        engine.close()
    return {name: summary(tokens[name], runs) for name, runs in times.items()}


class Recorded:
    """An engine that keeps what it was asked.

    Attributes:
        engine: the one that answers.
        asked: the batches, in the order in which they were asked for.
        tokens: those of all answers.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine, self.asked, self.tokens = engine, list[Batch](), 0
        self.tokenizer, self.context_window = engine.tokenizer, engine.context_window

    def stream(self, more: Callable[[], tuple[int, Batch] | None]) -> Iterator[tuple[int, list[Completion]]]:
        """Answer as the engine does."""

        def kept() -> tuple[int, Batch] | None:
            found = more()
            self.asked += [] if found is None else [found[1]]
            return found

        for index, completions in self.engine.stream(kept):
            self.tokens += sum(completion.num_tokens for completion in completions)
            yield index, completions


def timed_stage(
    config: Any, store: Store, seeds: Revision, model: LocalModel, engine: Engine
) -> tuple[Times, Recorded]:
    """Time the stage generate in a folder of its own; the times, and what its engine was asked."""
    recorded, loaded = Recorded(engine), Loaded()
    loaded.get(model, ("engine", config.engines.policy), lambda: recorded)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "generate"
        context = Context(config, store, 1, {"seed": seeds}, {"policy": model}, work, loaded)
        begin = now()
        build_shards(GRACE_KTO.stage("generate"), context)
        return since(begin), recorded


def measure_generate(options: argparse.Namespace) -> dict[str, list[Times]]:
    """Time the stage generate, and then one call of its engine with all prompts that it asked.

    Returns:
        Wall and CPU seconds of every run, by arm.
    """
    import torch

    torch.set_num_threads(options.threads)
    # Files of the usual size: the preset writes one for every eight queries, so that its few queries make several.
    size = (f"generate.queries={options.generate}", "generate.shard_queries=null")
    config = load_config("tiny", size, options.store)
    store = Store(Path(options.store))
    seeds, policy = store.latest("local/tiny-seed"), store.find("local/tiny-sft", "main", "model")
    if seeds is None or policy is None:
        raise SystemExit(f"{options.store}: no seeds or first policy of the preset tiny; run `make demo` first")
    model = LocalModel(Model(id="local/tiny-sft", revision=policy.revision), policy.path)
    engine = load_engine("transformers", str(policy.path), batch_size=config.engines.policy.batch_size)
    engine.generate([[{"role": "user", "content": "?"}]], [0], SamplingSettings(8))
    times: dict[str, list[Times]] = {"stage generate": [], "one call": []}
    for _ in range(options.rounds):
        seconds, recorded = timed_stage(config, store, seeds, model, engine)
        times["stage generate"].append(seconds)
        prompts = [prompt for batch in recorded.asked for prompt in batch.prompts]
        draws = [seed for batch in recorded.asked for seed in batch.seeds]
        begin = now()
        completions = engine.generate(prompts, draws, recorded.asked[0].settings)
        times["one call"].append(since(begin))
        if sum(completion.num_tokens for completion in completions) != recorded.tokens:
            raise RuntimeError("one call drew other tokens than the stage")
        print(f"{len(prompts)} prompts in {len(recorded.asked)} batches, {recorded.tokens} tokens", file=sys.stderr)
    return times


def report_generate(options: argparse.Namespace, times: dict[str, list[Times]]) -> None:
    """Print the table and the JSON line; ratios are those of the medians."""
    medians = {name: [statistics.median(column) for column in zip(*runs, strict=True)] for name, runs in times.items()}
    print(f"{'':16}{'seconds':>10}{'CPU s':>10}")
    for name, (wall, cpu) in medians.items():
        print(f"{name:16}{wall:>10.2f}{cpu:>10.2f}")
    ratios = [one / stage for one, stage in zip(medians["one call"], medians["stage generate"], strict=True)]
    print(f"one call / stage: {ratios[0]:.2f} in seconds, {ratios[1]:.2f} in CPU seconds", flush=True)
    print(json.dumps({"benchmark": "generate", "queries": options.generate, "times": times}))


def summary(tokens: int, runs: list[Times]) -> dict[str, float]:
    """Return the medians over all runs of one engine, and its tokens per second of wall time."""
    wall = statistics.median(run[0] for run in runs)
    cpu = statistics.median(run[1] for run in runs)
    return {"tokens": tokens, "seconds": wall, "cpu_seconds": cpu, "tokens_per_second": tokens / wall}


def now() -> Times:
    """Read the wall clock and this process's CPU clock, in seconds."""
    return time.perf_counter(), time.process_time()


def since(begin: Times) -> Times:
    """Return the seconds passed on both clocks since `begin`."""
    wall, cpu = now()
    return wall - begin[0], cpu - begin[1]


def add(name: str, seconds: Times, produced: int, times: dict[str, list[Times]], tokens: dict[str, int]) -> None:
    """Record one run in `times` and `tokens`; every run of one engine is expected to produce equally many tokens."""
    times.setdefault(name, []).append(seconds)
    tokens[name] = produced


def timed_engine(
    engine: Engine, prompts: list[list[Message]], settings: SamplingSettings
) -> tuple[Times, list[Completion]]:
    """Time one call of an engine.

    Returns:
        Wall and CPU seconds, and the completions.
    """
    begin = now()
    completions = engine.generate(prompts, range(len(prompts)), settings)
    return since(begin), completions


def timed_stream(
    engine: Engine, prompts: list[list[Message]], settings: SamplingSettings, rows: int
) -> tuple[Times, int]:
    """Time an engine that is handed shards of so many rows, one after the other; the times, and the tokens."""
    begin = now()
    starts = iter(range(0, len(prompts), rows))

    def more() -> tuple[int, Batch] | None:
        at = next(starts, None)
        return (
            None
            if at is None
            else (at, Batch(prompts[at : at + rows], range(at, at + rows)[: len(prompts) - at], settings))
        )

    produced = sum(completion.num_tokens for _, found in engine.stream(more) for completion in found)
    return since(begin), produced


def timed_bare(engine: Any, prompts: list[list[Message]], settings: SamplingSettings) -> tuple[Times, int]:
    """Time vLLM alone: all rows in one call, with the same seeds and end tokens; texts are not decoded."""
    from vllm import SamplingParams, TokensPrompt

    begin = now()
    encoded = [
        engine.tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
        for prompt in prompts
    ]
    parameters = [
        SamplingParams(
            max_tokens=settings.max_new_tokens, seed=seed, logprobs=0, stop_token_ids=engine._end_ids,
            detokenize=False,
        )
        for seed in range(len(prompts))
    ]  # fmt: skip
    requests = [TokensPrompt(prompt_token_ids=ids) for ids in encoded]
    outputs = engine._llm.generate(requests, parameters, use_tqdm=False)
    return since(begin), sum(len(output.outputs[0].token_ids) for output in outputs)


def load_plain(model: str) -> Any:
    """Load the model as users of `generate` do, on a GPU where there is one."""
    import torch
    from transformers import AutoModelForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype="auto").to(device).eval()
    loaded.generation_config.eos_token_id = None  # rows end at the lengths given, not by chance
    return loaded


def timed_generate(
    model: Any, tokenizer: Any, prompts: list[list[Message]], lengths: list[int], batch_size: int
) -> tuple[Times, int]:
    """Time `model.generate` over batches in input order.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer, with a chat template.
        prompts: chat prompts.
        lengths: number of new tokens after which each row ends.
        batch_size: rows per batch.

    Returns:
        Wall and CPU seconds, and the number of tokens.
    """
    import torch

    tokenizer.padding_side = "left"  # new tokens must follow the prompt, not its padding
    begin = now()
    produced = 0
    for start in range(0, len(prompts), batch_size):
        batch = tokenizer.apply_chat_template(
            prompts[start : start + batch_size],
            add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True,
        ).to(model.device)  # fmt: skip
        ends = torch.tensor(lengths[start : start + batch_size], device=model.device)
        prompt_length = batch["input_ids"].shape[1]

        # Defaults bind the values of this batch; a closure would look them up only when called.
        def reached(ids: "torch.Tensor", scores: Any, ends: Any = ends, prompt: int = prompt_length) -> Any:
            return ids.shape[1] - prompt >= ends  # (B,)

        model.generate(
            **batch, do_sample=True, top_k=0, max_new_tokens=int(ends.max()),
            pad_token_id=tokenizer.pad_token_id, stopping_criteria=[reached],
        )  # fmt: skip
        produced += int(ends.sum())
    return since(begin), produced


def make_prompts(queries: int, responses: int) -> list[list[Message]]:
    """Make chat prompts of different lengths, `responses` copies of each, copies next to each other."""
    texts = [
        f"Please write a report titled number {i}, covering the following sections: "
        + ", ".join(TOPICS[(i + k) % len(TOPICS)] for k in range(1 + i % 5))
        for i in range(queries)
    ]
    return [[{"role": "user", "content": text}] for text in texts for _ in range(responses)]


def make_model(folder: Path) -> str:
    """Save a random model and its tokenizer.

    Rows end after about 100 tokens: 7 of the 700 ids end a row, and the random model draws ids nearly uniformly.

    Returns:
        The folder.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([prompt[0]["content"] for prompt in make_prompts(64, 1)] * 4, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=700, hidden_size=96, intermediate_size=192, num_hidden_layers=4, num_attention_heads=3,
        num_key_value_heads=1, max_position_embeddings=1024, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=[2, *range(694, 700)], pad_token_id=0,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    model.generation_config.eos_token_id = config.eos_token_id
    model.save_pretrained(folder)
    return str(folder)


def report(options: argparse.Namespace, results: dict[str, dict[str, float]]) -> None:
    """Print the table, then the JSON line; ratios are to plain `generate`."""
    base = results["plain generate"]["tokens_per_second"]
    print(f"{'':26}{'tokens':>10}{'seconds':>10}{'CPU s':>10}{'tokens/s':>12}{'ratio':>8}")
    for name, result in results.items():
        speed = result["tokens_per_second"]
        seconds = f"{result['seconds']:>10.2f}{result['cpu_seconds']:>10.2f}"
        print(f"{name:26}{result['tokens']:>10}{seconds}{speed:>12,.0f}{speed / base:>8.2f}")
    if BARE in results:
        ratio = results[BARE]["cpu_seconds"] / results[SHARDS]["cpu_seconds"]
        print(f"{SHARDS} against {BARE}, in CPU seconds: {ratio:.2f}")
    sys.stdout.flush()
    print(json.dumps({"benchmark": "engine", **vars(options), "results": results}))


if __name__ == "__main__":
    main()
