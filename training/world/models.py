"""The generated world's causal models, trained from scratch: the policy before SFT and the two of perplexity.

Each training writes a model folder and returns its number of parameters, its steps and its last loss. They are Qwen2
models of 0.1 to 0.3 M parameters with the world's tokenizer, whose words include those of `prompt`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.world.texts import Conversation, Prompt, World

if TYPE_CHECKING:
    from transformers import Qwen2ForCausalLM

WINDOW = 1024

Metrics = dict[str, float]


def train_base(folder: Path, seed: int, prompt: Prompt, steps: int = 400) -> Metrics:
    """The policy after copying (query to headings) and writing queries. The queries shown as examples count a little:
    from them it learns that the terms of one query share a topic."""
    from training.world.tokenizer import save_policy_tokenizer

    save_policy_tokenizer(folder, prompt)
    model = _new_model(folder, seed, hidden=96, intermediate=192)
    world = World(seed)
    rows = _conversation_rows(folder, world.copying_conversations(min(9_000, 32 * steps)), prompt_weight=0.0)
    rows += _conversation_rows(folder, world.query_conversations(min(900, 2 * steps), prompt), prompt_weight=0.3)
    return _train_and_save(model, folder, rows, steps, 4e-3, seed, batch_size=32)


def train_general(folder: Path, seed: int, prompt: Prompt, steps: int = 350) -> Metrics:
    from training.world.tokenizer import save_policy_tokenizer

    save_policy_tokenizer(folder, prompt)
    model = _new_model(folder, seed, hidden=64, intermediate=96)
    return _train_and_save(
        model, folder, _text_rows(folder, World(seed).general_documents(min(6_000, 24 * steps))), steps, 4e-3, seed
    )


def train_domain(folder: Path, general: Path, seed: int, prompt: Prompt, steps: int = 200) -> Metrics:
    """Continual pre-training of the general model on domain texts."""
    from transformers import Qwen2ForCausalLM

    from training.world.tokenizer import save_policy_tokenizer

    save_policy_tokenizer(folder, prompt)
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
