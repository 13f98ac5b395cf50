"""The generated world on disk: seed documents, held-out queries and tiny models trained from scratch (`tiny` preset).

    seeds.jsonl   {"query", "reference", "language"}    heldout.jsonl  {"query"}
    base/         the policy before SFT (Qwen2)         bge-m3/        the relevance model
    general/      the general language model (Qwen2)    domain/        the same, trained on with domain texts
    world.json    seed, recipe version, sizes, losses, relevance AUC

Every part is written beside its place and renamed when whole, so a run that was killed goes on where it stood.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from training.world.texts import Conversation, World

if TYPE_CHECKING:
    from transformers import Qwen2ForCausalLM

RECIPE_VERSION = 1  # raise it when any text, size or step count here or in builders/world changes
SEED_DOCUMENTS = 4_000
HELD_OUT_QUERIES = 256
WINDOW = 1024
METRICS_FILE = "training.json"

Metrics = dict[str, float]


def prepare_world(folder: Path, seed: int, log: Callable[[str], None]) -> None:
    """Write every part of the world that is not there yet; a complete world of this recipe is left alone.

    Args:
        folder: folder of this seed's world; one made by another recipe version is replaced.
        seed: seed of all texts and weights.
        log: receives one line for each part written.
    """
    summary = folder / "world.json"
    if summary.exists() and json.loads(summary.read_text("utf-8"))["recipe"] == RECIPE_VERSION:
        return
    write_texts(folder, seed)
    for leftover in folder.glob(".*.tmp"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    _train_parts(folder, seed, log)
    metrics = {part: _read_metrics(folder / part) for part in ("base", "general", "domain", "bge-m3")}
    record = {"seed": seed, "recipe": RECIPE_VERSION, "seeds": SEED_DOCUMENTS, "heldout": HELD_OUT_QUERIES, **metrics}
    _replace(summary, json.dumps(record, indent=2) + "\n")


def write_texts(folder: Path, seed: int) -> None:
    """Write the seed documents and the held-out queries, all that the stage `seed` needs of the world.

    A folder that another recipe version began is replaced.
    """
    recipe = folder / "recipe.json"
    if recipe.exists() and json.loads(recipe.read_text("utf-8")) != RECIPE_VERSION:
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    world = World(seed)
    _write_once(folder / "seeds.jsonl", lambda: world.seed_documents(SEED_DOCUMENTS))
    _write_once(
        folder / "heldout.jsonl", lambda: [{"query": query} for query in world.heldout_queries(HELD_OUT_QUERIES)]
    )
    if not recipe.exists():
        _replace(recipe, json.dumps(RECIPE_VERSION))


def query_conversations(seed: int) -> list[Conversation]:
    """The exercises in writing queries that stand beside the seed documents in the tiny preset's SFT."""
    return World(seed + 1_000_000).query_conversations(700)


def _train_parts(folder: Path, seed: int, log: Callable[[str], None]) -> None:
    """Two processes of one thread each: the policy and the language models; the relevance model."""
    started = monotonic()
    # spawn: a forked child of a process that has used torch's threads may hang.
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        jobs = [
            pool.submit(_train_chain, folder, seed, chain) for chain in (("bge-m3",), ("base", "general", "domain"))
        ]
        for job in as_completed(jobs):
            for part, metrics in job.result().items():
                log(f"{part}: {_describe(metrics)} ({monotonic() - started:.0f} s)")


def _describe(metrics: Metrics) -> str:
    text = f"{metrics['parameters']:,} parameters, {metrics['steps']} steps, loss {metrics['loss']:.3f}"
    return f"{text}, AUC {metrics['auc_document']:.3f}" if "auc_document" in metrics else text


def _train_chain(folder: Path, seed: int, parts: tuple[str, ...]) -> dict[str, Metrics]:
    """Train the missing ones of `parts`, one after the other; returns the metrics of those it trained."""
    import torch

    torch.set_num_threads(1)
    done = {}
    for part in parts:
        if not (folder / part).exists():
            done[part] = _write_part(folder / part, seed)
    return done


def _write_part(target: Path, seed: int) -> Metrics:
    from training.world.relevance import train_relevance

    makers: dict[str, Callable[[Path, int], Metrics]] = {
        "base": _train_base,
        "general": _train_general,
        "domain": lambda working, seed: _train_domain(working, target.parent / "general", seed),
        "bge-m3": train_relevance,
    }
    working = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(working, ignore_errors=True)
    working.mkdir()
    metrics = makers[target.name](working, seed)
    (working / METRICS_FILE).write_text(json.dumps(metrics, indent=2) + "\n", "utf-8")
    try:
        os.rename(working, target)
    except OSError:
        # The orphan of a killed run may have finished the same part, with the same bytes.
        if not target.exists():
            raise
        shutil.rmtree(working)
    return metrics


def _train_base(folder: Path, seed: int, steps: int = 400) -> Metrics:
    """The policy after copying (query to headings) and writing queries. The queries shown as examples count a little:
    from them it learns that the terms of one query share a topic."""
    from training.world.tokenizer import save_policy_tokenizer

    save_policy_tokenizer(folder)
    model = _new_model(folder, seed, hidden=96, intermediate=192)
    world = World(seed)
    rows = _conversation_rows(folder, world.copying_conversations(min(9_000, 32 * steps)), prompt_weight=0.0)
    rows += _conversation_rows(folder, world.query_conversations(min(900, 2 * steps)), prompt_weight=0.3)
    return _train_and_save(model, folder, rows, steps, 4e-3, seed, batch_size=32)


def _train_general(folder: Path, seed: int, steps: int = 350) -> Metrics:
    from training.world.tokenizer import save_policy_tokenizer

    save_policy_tokenizer(folder)
    model = _new_model(folder, seed, hidden=64, intermediate=96)
    return _train_and_save(
        model, folder, _text_rows(folder, World(seed).general_documents(min(6_000, 24 * steps))), steps, 4e-3, seed
    )


def _train_domain(folder: Path, general: Path, seed: int, steps: int = 200) -> Metrics:
    """Continual pre-training of the general model on domain texts."""
    from transformers import Qwen2ForCausalLM

    from training.world.tokenizer import save_policy_tokenizer

    save_policy_tokenizer(folder)
    model = Qwen2ForCausalLM.from_pretrained(general)
    return _train_and_save(
        model, folder, _text_rows(folder, World(seed).domain_documents(min(4_000, 24 * steps))), steps, 2e-3, seed
    )


def _new_model(folder: Path, seed: int, *, hidden: int, intermediate: int) -> "Qwen2ForCausalLM":
    """A random two-layer Qwen2 for the tokenizer in `folder`. Heads are 32 wide, the least that vLLM runs on a CPU."""
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=2,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 32,
        max_position_embeddings=WINDOW,
        tie_word_embeddings=True,
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def _train_and_save(
    model: Any, folder: Path, rows: list[Any], steps: int, learning_rate: float, seed: int, batch_size: int = 24
) -> Metrics:
    from training.world.optimise import train

    loss = train(model, rows, steps=steps, batch_size=batch_size, learning_rate=learning_rate, seed=seed)
    model.save_pretrained(folder)
    return {"parameters": model.num_parameters(), "steps": steps, "loss": loss}


def _conversation_rows(
    folder: Path, conversations: list[Conversation], prompt_weight: float
) -> list[tuple[list[int], list[float]]]:
    from transformers import AutoTokenizer

    from training.sft.finetune import tokenize

    rows, _ = tokenize(AutoTokenizer.from_pretrained(folder), conversations, WINDOW)
    return [
        (row["input_ids"], [prompt_weight if i < row["prompt_length"] else 1.0 for i in range(row["length"])])
        for row in rows
    ]


def _text_rows(folder: Path, texts: list[str]) -> list[tuple[list[int], list[float]]]:
    """Documents without an end token: perplexity is taken over the document alone."""
    from transformers import AutoTokenizer

    return [(ids, [1.0] * len(ids)) for ids in AutoTokenizer.from_pretrained(folder)(texts)["input_ids"]]


def _write_once(path: Path, rows: Callable[[], Iterable[Mapping[str, str]]]) -> None:
    if not path.exists():
        _replace(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows()))


def _replace(path: Path, text: str) -> None:
    working = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    working.write_text(text, "utf-8")
    os.replace(working, path)


def _read_metrics(folder: Path) -> Metrics:
    metrics: Metrics = json.loads((folder / METRICS_FILE).read_text("utf-8"))
    return metrics
