"""Tiny models of the real architectures with random weights, made on the spot: nothing is downloaded."""

from collections.abc import Sequence
from pathlib import Path

CORPUS = (
    'Please write a report titled "River Trade", covering the following sections: 1. Background 2. Results.',
    "<summary>The report treats river trade.</summary><outline>1. Background\n2. Results</outline>",
    "<answer>1. Background\nThe harbour grew.\n2. Results\nTrade doubled within a decade, prices fell.</answer>",
)
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer(folder: Path, vocab_size: int = 512, corpus: Sequence[str] = CORPUS) -> None:
    """Save a byte-level BPE tokenizer (as Qwen2's), trained on a corpus, that can encode any text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*corpus] * 8, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", padding_side="left"
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)


def make_causal_lm(folder: Path, seed: int = 0, window: int = 512, corpus: Sequence[str] = CORPUS) -> Path:
    """Save a random two-layer Qwen2 with its tokenizer; `window` is max_position_embeddings. Returns the folder."""
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    make_tokenizer(folder, corpus=corpus)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=window,
        initializer_range=0.2,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    return folder


def make_bge_m3(folder: Path, seed: int = 0, window: int = 256) -> Path:
    """Save a random two-layer XLM-R with BGE-M3's two heads (`colbert_linear.pt`, `sparse_linear.pt`)."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaModel

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 8, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=window,
    )
    fast.save_pretrained(folder)
    torch.manual_seed(seed)
    config = XLMRobertaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=window + 2,
        type_vocab_size=1,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        initializer_range=0.2,
    )
    XLMRobertaModel(config).save_pretrained(folder)
    torch.save(torch.nn.Linear(32, 32).state_dict(), folder / "colbert_linear.pt")
    torch.save(torch.nn.Linear(32, 1).state_dict(), folder / "sparse_linear.pt")
    return folder


def make_reciting_lm(folder: Path, prompt: str, answer: str, template: str = CHAT_TEMPLATE, window: int = 256) -> Path:
    """Save a GPT-2 that gives one answer to every prompt of as many tokens as `prompt` has under a chat template.

    Each position is a direction of its own, and the head turns it into the answer's token at that place.
    """
    import torch
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    make_tokenizer(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    messages = [{"role": "user", "content": prompt}]
    start = len(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))
    ids = tokenizer(answer + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=window, n_positions=window, n_layer=1, n_head=1, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for parameter in (*model.transformer.h.parameters(), model.transformer.wte.weight, model.lm_head.weight):
            parameter.zero_()
        model.transformer.wpe.weight.copy_(torch.eye(window))
        for place, token in enumerate(ids, start=start - 1):
            model.lm_head.weight[token, place] = 4.0
    model.save_pretrained(folder)
    return folder
