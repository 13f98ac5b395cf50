"""Tiny models of four families with templates of their own kind, and the few texts that teach them to write.

Every query is "Write about SUBJECT in PLACE." A document is one sentence in the tagged form, so a model of 0.1 M
parameters learns both the form and the lists of queries within seconds.
"""

import itertools
import json
import random
from pathlib import Path
from typing import Any

SUBJECTS = ("rivers", "bridges", "markets", "gardens", "ships", "bells", "mills", "roads")
PLACES = ("spring", "summer", "autumn", "winter", "the north", "the south", "the city", "the hills")
QUERIES = [f"Write about {subject} in {place}." for subject, place in itertools.product(SUBJECTS, PLACES)]

# Llama's way: the beginning of the text stands in the template, contents are stripped.
LLAMA = (
    "{{ bos_token }}{% for m in messages %}<|head|>{{ m.role }}<|head_end|>\n{{ m.content | trim }}<|turn_end|>"
    "{% endfor %}{% if add_generation_prompt %}<|head|>assistant<|head_end|>\n{% endif %}"
)
# Qwen3's way: an answer is shown after an empty thought; asked not to think, the prompt ends with that thought.
QWEN3 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
# Gemma's way: no system turn, its text opens the user's; the assistant is called model.
GEMMA3 = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set first = messages[0].content + '\n\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set first = '' %}{% set turns = messages %}{% endif %}"
    "{% for m in turns %}<start_of_turn>{{ 'model' if m.role == 'assistant' else 'user' }}\n"
    "{{ first if loop.first else '' }}{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
# Mistral's way: instructions in brackets, the answer ends with the end of the text.
MISTRAL = (
    "{{ bos_token }}{% set ns = namespace(system='') %}{% for m in messages %}{% if m.role == 'system' %}"
    "{% set ns.system = m.content + '\n\n' %}{% elif m.role == 'user' %}[INST] {{ ns.system }}{{ m.content }} [/INST]"
    "{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
# Template, beginning of a text, end of a turn, further special tokens.
TEMPLATES = {
    "llama": (LLAMA, "<|begin|>", "<|turn_end|>", ("<|head|>", "<|head_end|>")),
    "qwen3": (QWEN3, None, "<|im_end|>", ("<|im_start|>",)),
    "gemma3": (GEMMA3, "<bos>", "<end_of_turn>", ("<start_of_turn>",)),
    "mistral": (MISTRAL, "<s>", "</s>", ("[INST]", "[/INST]")),
}


def document(query: str) -> str:
    """The tagged form: one sentence, the longer the earlier the subject stands in the list."""
    subject, place = query.removeprefix("Write about ").removesuffix(".").split(" in ")
    tail = " and".join(" they are old" for _ in range(1 + len(subject) % 3))
    return f"<summary>On {subject}.</summary><outline>1. {place}</outline><answer>In {place}{tail}.</answer>"


def write_seeds(path: Path, count: int = 16) -> Path:
    """A plain JSONL file of queries with documents, as a user brings it."""
    chosen = random.Random(0).sample(QUERIES, count)
    lines = [json.dumps({"request": query, "text": document(query)}) for query in chosen]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def conversations(ask: Any, count: int = 400) -> list[dict[str, Any]]:
    """Requests with their documents, and wishes for queries with lists of them.

    Args:
        ask: the pipeline's prompt for queries, from examples and a number.
        count: conversations of each kind.
    """
    draw = random.Random(1)
    rows = []
    for _ in range(count):
        query = draw.choice(QUERIES)
        wish = ask(draw.sample(QUERIES, 2), 2)
        for prompt, answer in ((query, document(query)), (wish, json.dumps(draw.sample(QUERIES, 2)))):
            rows.append(
                {
                    "prompt": [{"role": "user", "content": prompt}],
                    "completion": [{"role": "assistant", "content": answer}],
                }
            )
    return rows


def make_family(folder: Path, family: str, texts: list[str]) -> Path:
    """Save a random two-layer model of a family with a tokenizer trained on some texts; return the folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    save_tokenizer(folder, family, texts)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(_config(family, tokenizer))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    # The configuration decides which tokenizer class is loaded: written after it, as a model's own repository has it.
    save_tokenizer(folder, family, texts)
    return folder


def save_tokenizer(folder: Path, family: str, texts: list[str]) -> None:
    """Train and save a byte-level BPE tokenizer with a family's special tokens and chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    template, begin, end, others = TEMPLATES[family]
    special = ["<|pad|>", *([begin] if begin else []), end, *others]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=begin, eos_token=end, pad_token="<|pad|>")
    fast.chat_template = template
    fast.save_pretrained(folder)


def _config(family: str, tokenizer: Any) -> Any:
    from transformers import Gemma3TextConfig, LlamaConfig, MistralConfig, Qwen3Config

    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": 512,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if family == "llama":
        return LlamaConfig(**shape)
    if family == "qwen3":
        return Qwen3Config(**shape)
    if family == "mistral":
        return MistralConfig(**shape, sliding_window=64)
    # Local and global layers in turn, as in the real one.
    layers = ["sliding_attention", "full_attention"]
    return Gemma3TextConfig(**shape, sliding_window=64, query_pre_attn_scalar=32, layer_types=layers)
