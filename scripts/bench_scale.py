"""Measure time and peak memory of the pipeline's own work on large data, with an engine that answers at once.

Each part runs in a process of its own, since the peak of a process never falls:

    generate        writes `--queries` new queries
    scores          makes `--rows` rows with 2 kB of text each, the groups whole in each file; calibrate reads them
    calibrate       makes the revision: ranks, rewards, weights, summaries, card
    verify          compares the revision with its manifest and recomputes it
    batch           turns the rows into token ids and draws the trainer's first batch; the model's work is left out
    split-scores    makes the same rows with each group spread over all files; split reads them
    split           calibrates them

With fewer than 1,000,000 queries or 8,000,000 rows each part runs at a quarter of the size too, and the last columns
are what the line through both gives for the full size; below a twentieth of it that would say nothing. CPU seconds show
how much of the wall time other programs took. Memory is given twice: `RSS` is the largest process's peak by the kernel,
with the resident pages of mapped files, which the kernel takes back when it needs memory; `anon` is all processes of
the part together without those pages, the highest of ten samples a second. Prints a table and one line of JSON.

    python scripts/bench_scale.py --queries 20000 --rows 20000
"""

import argparse
import contextlib
import json
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil  # type: ignore[import-untyped]

from builders.core.models import Loaded, LocalModel
from builders.core.stage import Context
from builders.core.work import build_shards
from builders.engines import Completion, Message, SamplingSettings
from builders.grace_kto.columns import SCORES_COLUMNS, SEED_COLUMNS
from builders.grace_kto.settings import GenerateSettings
from builders.inspect.verify import verify
from builders.store.columns import frame_of, polars_schema
from builders.store.manifest import Model
from builders.store.revision import Revision
from builders.store.shards import shard_rows, write_shard
from builders.store.store import Store
from training.grace_kto.pipeline import GRACE_KTO
from training.pipelines import PIPELINES, build, load_config

QUERIES, ROWS = 1_000_000, 8_000_000  # the full size
MEASURED = {"seconds": "seconds", "cpu_seconds": "CPU s", "peak_rss_gib": "RSS GiB", "peak_anonymous_gib": "anon GiB"}
SAMPLE_SECONDS = 0.1
LEAST_SHARE = 20  # a size below a twentieth of the full one is a few shards, from which no line can be drawn
GROUP = 8  # responses to a query
FILE_ROWS = 8_000
TAGS = (("summary", "summary"), ("outline", "outline"), ("answer", "document"))  # and the columns between them
STEP = 7_919  # a prime: rows that follow one another in a split dataset belong to distant queries
PARAGRAPHS, PARAGRAPH_WORDS = 4_096, 60
DOCUMENT_PARAGRAPHS = 4  # with outline and summary about 2 kB
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class InstantEngine:
    """An engine that answers every prompt with five new queries; `seconds` is what its own work took."""

    context_window = 1 << 20
    tokenizer = None

    def __init__(self) -> None:
        self.seconds = 0.0
        self.words = make_words()

    def generate(
        self, prompts: Sequence[Sequence[Message]], seeds: Sequence[int], settings: SamplingSettings
    ) -> list[Completion]:
        """Return one list of queries per prompt, drawn from its seed."""
        began = time.perf_counter()
        completions = []
        for seed in seeds:
            drawn = random.Random(seed).choices(self.words, k=5 * 16)
            queries = [f"Please write a report on {' '.join(drawn[k : k + 16])}." for k in range(0, 80, 16)]
            completions.append(Completion(text=json.dumps(queries), finish_reason="stop", num_tokens=100))
        self.seconds += time.perf_counter() - began
        return completions

    def close(self) -> None:
        """Release nothing."""
        self.words = []


def make_words() -> list[str]:
    """Return 4,096 words of two to four syllables."""
    rng = random.Random(0)
    syllables = [a + b for a in "bdfgklmnprst" for b in ("a", "e", "i", "o", "u", "an", "er", "is")]
    words: set[str] = set()
    while len(words) < 4_096:
        words.add("".join(rng.choices(syllables, k=rng.randint(2, 4))))
    return sorted(words)


def make_paragraphs() -> pl.Series:
    """Return texts of `PARAGRAPH_WORDS` random words, about 400 bytes each."""
    rng, words = random.Random(1), make_words()
    return pl.Series([" ".join(rng.choices(words, k=PARAGRAPH_WORDS)) + "." for _ in range(PARAGRAPHS)])


def generate(folder: Path, size: int) -> dict[str, float]:
    """Write `size` queries from 1,000 seeds."""
    # The settings' defaults, as on real data; the preset's own make a tiny dataset.
    config = load_config("tiny", [], str(folder / "store")).model_copy(
        update={"generate": GenerateSettings(queries=size)}
    )
    work = folder / "generate"
    (folder / "seed" / "data").mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True)
    seeds = make_paragraphs()[:1_000].to_list()
    rows: list[dict[str, object]] = [
        {"query_id": f"{k:016x}", "query": text, "reference": None, "language": "en", "source": "bench"}
        for k, text in enumerate(seeds)
    ]
    write_shard(frame_of(rows, SEED_COLUMNS), SEED_COLUMNS, folder / "seed" / "data" / "seeds.parquet", {})
    model, engine, loaded = LocalModel(Model(id="bench", revision="0" * 40), folder), InstantEngine(), Loaded()
    loaded.get(model, ("engine", config.engines.policy), lambda: engine)
    parent = Revision("local/bench-seed", "0" * 40, folder / "seed", None)
    context = Context(config, Store(folder / "store"), 1, {"seed": parent}, {"policy": model}, work, loaded)
    paths = build_shards(GRACE_KTO.stage("generate"), context)
    written = sum(shard_rows(path) for path in paths)
    if written != size:
        raise RuntimeError(f"{written} queries were written, {size} were asked for")
    return {"files": len(paths), "engine_seconds": engine.seconds}


def write_scores(folder: Path, rows: int, split: bool) -> dict[str, float]:
    """Write a scores dataset of groups of `GROUP` rows, 10 % unmatched; `split` spreads each group over all files."""
    data = folder / "data"
    data.mkdir(parents=True)
    paragraphs = make_paragraphs()
    size = 0
    for index, start in enumerate(range(0, rows, FILE_ROWS)):
        numbers = np.arange(start, min(start + FILE_ROWS, rows))
        queries = rows // GROUP
        if split:
            query, member = numbers * STEP % queries, numbers // queries
        else:
            query, member = numbers // GROUP, numbers % GROUP
        path = data / f"{index:05d}.parquet"
        write_shard(scores(query, member, paragraphs, index), SCORES_COLUMNS, path, {})
        size += path.stat().st_size
    return {"files": len(range(0, rows, FILE_ROWS)), "gib_on_disk": size / 2**30}


def scores(query: Any, member: Any, paragraphs: pl.Series, seed: int) -> pl.DataFrame:
    """Return rows of scores with random texts and metrics.

    Args:
        query: (N,) number of each row's query.
        member: (N,) number of each row within its query.
        paragraphs: texts to put together.
        seed: of the random draws.
    """
    rng, count = np.random.default_rng(seed), len(query)
    drawn = [paragraphs.gather(rng.integers(0, PARAGRAPHS, count)) for _ in range(DOCUMENT_PARAGRAPHS + 1)]
    texts = pl.DataFrame(drawn, schema=[f"text{k}" for k in range(len(drawn))]).with_columns(
        query=pl.Series(query), member=pl.Series(member)
    )
    document = pl.concat_str(pl.col(f"text{k}") for k in range(DOCUMENT_PARAGRAPHS))
    last = pl.col(f"text{DOCUMENT_PARAGRAPHS}")
    frame = texts.select(
        query_id=pl.col("query").cast(pl.String).str.zfill(16),
        query=pl.format("Please write report number {} about {}", "query", last.str.slice(0, 60)),
        round=pl.lit(1),
        response_id=pl.format("{}-{}", pl.col("query").cast(pl.String).str.zfill(16), "member"),
        summary=last.str.slice(0, 150),
        outline=last.str.slice(150),
        document=document,
        matched=pl.Series(rng.random(count) >= 0.1),
        finish_reason=pl.lit("stop"),
        num_tokens=pl.lit(400),
        logprob=pl.Series(-rng.random(count) * 900),
        sample_seed=pl.Series(rng.integers(0, 2**60, count)),
        policy=pl.lit("bench@0"),
        length=pl.Series(rng.integers(200, 500, count)),
    )
    parts = (f"<{tag}>" + pl.col(name) + f"</{tag}>" for tag, name in TAGS)
    frame = frame.with_columns(response=pl.concat_str(*parts, separator="\n"))
    metrics = [c.name for c in SCORES_COLUMNS if c.name not in frame.columns]
    frame = frame.with_columns(pl.Series(name, rng.standard_normal(count)) for name in metrics)
    nulled = ("summary", "outline", "document", "length", *metrics)
    frame = frame.with_columns(pl.when("matched").then(name).alias(name) for name in nulled)
    schema = polars_schema(SCORES_COLUMNS)
    return frame.select(schema.names()).cast(schema)


def calibrate(folder: Path, source: Path) -> dict[str, float]:
    """Build the weights revision of a scores dataset; it stays in the folder's store."""
    config = load_config("tiny", [], str(folder / "store"))
    revision = build(config, "calibrate", start=str(source))[-1].revision
    files = revision.data_files()
    return {"files": len(files), "gib_on_disk": sum(path.stat().st_size for path in files) / 2**30}


def check(folder: Path) -> dict[str, float]:
    """Verify the weights revision."""
    findings = verify(weights(folder), PIPELINES)
    if findings:
        raise RuntimeError(f"{len(findings)} findings, the first is {findings[0]}")
    return {}


def weights(folder: Path) -> Revision:
    """Return the weights revision in the folder's store."""
    found = Store(folder / "store").latest("local/tiny-weights")
    if found is None:
        raise RuntimeError("no weights; run the part calibrate in this folder first")
    return found


def first_batch(files: Sequence[Path], folder: Path) -> dict[str, float]:
    """Turn a weights dataset into token ids and draw the trainer's first batch.

    Args:
        files: the Parquet files of the weights dataset.
        folder: for the tiny model, the token ids and the trainer's own files.

    Returns:
        Seconds until the token ids were there, seconds for everything after that, and the tokens of the batch.
    """
    from training.kto.config import GraceKTOConfig
    from training.kto.tokens import tokenized
    from training.kto.trainer import GraceKTOTrainer

    class InstantReference(GraceKTOTrainer):
        """A trainer whose reference answers at once, with 0: a forward pass over every row is the model's work."""

        def _compute_reference(self, dataset: Any, batch_size: int) -> dict[str, Any]:
            return {name: np.zeros(len(dataset), np.float32) for name in ("ref_logps", "ref_KL_logps")}

    make_model(folder / "model")
    began = time.perf_counter()
    rows = tokenized(list(files), str(folder / "model"), folder)
    tokenizing = time.perf_counter() - began
    arguments = GraceKTOConfig(
        output_dir=str(folder / "run"), max_steps=1, per_device_train_batch_size=8, report_to="none", disable_tqdm=True
    )
    trainer = InstantReference(str(folder / "model"), arguments, rows)
    batch = next(iter(trainer.get_train_dataloader()))
    return {
        "tokenize_seconds": tokenizing,
        "trainer_seconds": time.perf_counter() - began - tokenizing,
        "batch_tokens": batch["input_ids"].numel(),
    }


def make_model(folder: Path) -> None:
    """Save a random model of one layer, and a tokenizer that has most of the words as one token each."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4_096,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(make_paragraphs(), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    config = Qwen2Config(
        vocab_size=len(fast), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=8_192, tie_word_embeddings=True,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder)


PARTS: dict[str, Callable[[Path, int], dict[str, float]]] = {
    "generate": generate,
    "scores": lambda folder, size: write_scores(folder / "scores", size, split=False),
    "calibrate": lambda folder, size: calibrate(folder / "whole", folder / "scores"),
    "verify": lambda folder, size: check(folder / "whole"),
    "batch": lambda folder, size: first_batch(weights(folder / "whole").data_files(), folder / "train"),
    "split-scores": lambda folder, size: write_scores(folder / "split-scores", size, split=True),
    "split": lambda folder, size: calibrate(folder / "split", folder / "split-scores"),
}
# By part, the folders that no later part reads.
DONE_WITH = {
    "generate": ("generate", "seed"),
    "calibrate": ("scores",),
    "batch": ("whole", "train"),
    "split": ("split-scores", "split"),
}


def run_here(part: str, folder: Path, size: int) -> None:
    """Run one part in this process and print its figures as one line of JSON."""
    began = time.perf_counter()
    figures = PARTS[part](folder, size)
    seconds = time.perf_counter() - began
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(one.ru_utime + one.ru_stime for one in used)
    # ru_maxrss is in KiB on Linux; of worker processes it is the largest one's.
    peak = max(one.ru_maxrss for one in used) / 2**20
    print(json.dumps({"size": size, "seconds": seconds, "cpu_seconds": cpu, "peak_rss_gib": peak, **figures}))


def measure(part: str, folder: Path, size: int) -> dict[str, float]:
    """Run one part in a process of its own and return its figures; folders that are done with are removed."""
    command = [sys.executable, __file__, "--part", part, "--size", str(size), "--folder", str(folder)]
    process, peak = psutil.Popen(command, stdout=subprocess.PIPE, text=True), 0
    while process.poll() is None:
        peak = max(peak, anonymous_bytes(process))
        time.sleep(SAMPLE_SECONDS)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    for name in DONE_WITH.get(part, ()):
        shutil.rmtree(folder / name, ignore_errors=True)
    figures: dict[str, float] = json.loads(process.stdout.read().splitlines()[-1])
    return {**figures, "peak_anonymous_gib": peak / 2**30}


def anonymous_bytes(process: Any) -> int:
    """Return the resident memory of a process and of those it started, without the pages of mapped files."""
    total = 0
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
            memory = one.memory_info()
            total += memory.rss - memory.shared
    return total


def at_full_size(small: dict[str, float], large: dict[str, float], full: int) -> dict[str, float | None]:
    """Return what the line through two sizes gives for the full size; None where both are too small."""
    if large["size"] >= full:
        return {name: large[name] for name in MEASURED}
    if large["size"] * LEAST_SHARE < full:
        return dict.fromkeys(MEASURED)
    share = (full - large["size"]) / (large["size"] - small["size"])
    # Noise may make the smaller size look worse; nothing shrinks as data grows.
    return {name: large[name] + share * max(0.0, large[name] - small[name]) for name in MEASURED}


def report(part: str, small: dict[str, float], large: dict[str, float]) -> dict[str, Any]:
    """Print a part's line of the table and return its record."""
    full = QUERIES if part == "generate" else ROWS
    found = at_full_size(small, large, full)
    print(f"{part:14}{cells(large['size'], large)}{cells(full, found)}", flush=True)
    return {"part": part, "small": small, "large": large, "full": {"size": full, **found}}


def cells(size: float, figures: Mapping[str, float | None]) -> str:
    """Return a size and what was measured at it as cells of the table."""
    values = [figures[name] for name in MEASURED]
    return f"{size:>12,.0f}" + "".join(f"{'–' if value is None else format(value, ',.2f'):>11}" for value in values)


def main() -> None:
    """Parse the command line, measure, print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=QUERIES, help="queries to write")
    parser.add_argument("--rows", type=int, default=ROWS, help="rows to make")
    parser.add_argument("--part", action="append", choices=[*PARTS], help="run this part alone; may be repeated")
    parser.add_argument("--folder", type=Path, help="a folder on a large disk (default: a temporary one)")
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)  # set in the process that runs one part
    options = parser.parse_args()
    parts = [part for part in PARTS if part in (options.part or PARTS)]
    if options.size is not None:
        run_here(parts[0], options.folder, options.size)
        return
    columns = "".join(f"{heading:>11}" for heading in MEASURED.values())
    print(f"{'part':14}{'size':>12}{columns}{'full size':>12}{columns}", flush=True)
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="bench-scale-") as folder:
        records = run_parts(parts, Path(folder), options)
    print(json.dumps({"benchmark": "scale", "queries": options.queries, "rows": options.rows, "parts": records}))


def run_parts(parts: Sequence[str], folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure the parts one after the other, at a quarter of the size first where the size is not the full one."""
    records = []
    for part in parts:
        size, full = (options.queries, QUERIES) if part == "generate" else (options.rows, ROWS)
        sizes = [size] if size >= full else [size // 4 // GROUP * GROUP, size]
        found = [measure(part, folder / str(size), size) for size in sizes]
        records.append(report(part, found[0], found[-1]))
    return records


if __name__ == "__main__":
    main()
