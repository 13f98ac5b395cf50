"""Tokenizers of the generated world: byte-level BPE in which every word of the world is one token.

Any text survives encoding and decoding, since all 256 bytes are tokens. The policy's tokenizer splits text as Qwen2's
does and keeps its merges complete, because `AutoTokenizer` reads a Qwen2 folder with `Qwen2Tokenizer`, which rebuilds
the tokenizer from vocabulary and merges alone: a word-level model or another pre-tokenizer would be lost.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from training.world.texts import Prompt, World

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TAGS = ("<summary>", "</summary>", "<outline>", "</outline>", "<answer>", "</answer>")
# ChatML, as Qwen2's, without a default system prompt.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _texts(prompt: Prompt) -> list[str]:
    """Texts that hold every word of the world in every form that occurs.

    The world's seed is fixed here, so that all worlds have the same token ids.
    """
    from training.world.lexicon import ASPECTS, CLASSES, STYLES, TOPICS

    words = [word for group in (*TOPICS.values(), ASPECTS, *CLASSES.values()) for word in group]
    world = World(0)
    # The list gives every word its form after a space; the generated texts add those at the start of a line.
    texts = [" " + " ".join(words), *(f'"{style}' for style in STYLES), "<|im_start|>user\n<|im_start|>assistant\n"]
    texts += [row["reference"] for row in world.seed_documents(300)]
    texts += [
        message["content"]
        for row in world.query_conversations(100, prompt)
        for message in row["prompt"] + row["completion"]
    ]
    return texts


def _byte_bpe(special: list[str], prompt: Prompt) -> "Tokenizer":
    """Train a byte-level BPE tokenizer until every word is one token.

    Args:
        special: special tokens, whose ids are 0, 1, 2, … in this order.
        prompt: the pipeline's wish for new queries, whose words become tokens too.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated", invert=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=100_000,
        min_frequency=1,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    text = "\n".join(_texts(prompt))
    for tag in (*TAGS, "<|im_start|>", "<|im_end|>"):
        # Tags are tokens of their own: no merge may join one to a neighbour.
        text = text.replace(tag, "\n\n")
    # Each distinct word once: no word is so frequent that another one stays in pieces.
    types = sorted({text[start:end] for _, (start, end) in split.pre_tokenize_str(text)})
    tokenizer.train_from_iterator(types, trainer)
    return tokenizer


def save_policy_tokenizer(folder: Path, prompt: Prompt) -> None:
    """Write the tokenizer of the causal models.

    It uses the ChatML template and `<|im_end|>` as end of a text, and pads on the left, as generation needs it.

    Args:
        folder: folder to write into.
        prompt: the pipeline's wish for new queries.
    """
    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_byte_bpe(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], prompt),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
    )
    # Added, not special: decoding must show the tags that extraction looks for.
    tokenizer.add_tokens([AddedToken(tag, normalized=False) for tag in TAGS])
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)


def save_relevance_tokenizer(folder: Path, window: int, prompt: Prompt) -> None:
    """Write the tokenizer of the relevance model, `<s> text </s>` as XLM-R's.

    Args:
        folder: folder to write into.
        window: longest input in tokens.
        prompt: the pipeline's wish for new queries.
    """
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    # XLM-R's order of the special tokens: <s> is 0, <pad> 1, </s> 2, <unk> 3.
    backend = _byte_bpe(["<s>", "<pad>", "</s>", "<unk>"], prompt)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=window,
    )
    tokenizer.save_pretrained(folder)
