"""Models of given shapes with random weights and a small tokenizer, for a rehearsal that downloads nothing."""

from pathlib import Path
from typing import Any

from builders.store.store import Store
from scorers.model_loading import HEADS
from training.costs.shapes import find_config
from training.memory import ENCODERS

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = "<summary></summary><outline></outline><answer></answer> Please write a report on the harbour and its trade."


def random_model(name: str, store: Store, folder: Path) -> Path:
    """Save a model of a known shape with random weights, in the precision of its checkpoint.

    Args:
        name: the model, as a configuration names it; its config.json has to be here, or in the table of known models.
        store: the local store.
        folder: folder to make.

    Returns:
        The folder.

    Raises:
        UserError: the shape is not known here.
    """
    import torch
    from transformers import AutoModel, AutoModelForCausalLM

    config = find_config(name, store).config
    encoder = config.model_type in ENCODERS
    tokenizer = _tokenizer(encoder, int(config.max_position_embeddings))
    for token in ("bos", "eos", "pad"):
        setattr(config, f"{token}_token_id", getattr(tokenizer, f"{token}_token_id"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = (AutoModel if encoder else AutoModelForCausalLM).from_config(config, dtype=config.dtype)
        model.save_pretrained(folder)
        if encoder:
            for head, size in zip(HEADS, (config.hidden_size, 1), strict=True):
                torch.save(torch.nn.Linear(config.hidden_size, size).state_dict(), folder / head)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer(encoder: bool, window: int) -> Any:
    """Make a byte-level tokenizer that can encode any text: XLM-R's special tokens for an encoder, else ChatML's."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "<pad>", "</s>", "<unk>"] if encoder else ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    backend = Tokenizer(models.BPE(unk_token="<unk>") if encoder else models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    backend.train_from_iterator([TEXT] * 4, trainer)
    if not encoder:
        fast = PreTrainedTokenizerFast(
            tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>", padding_side="left"
        )
        fast.chat_template = CHAT_TEMPLATE
        return fast
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", cls_token="<s>", eos_token="</s>", sep_token="</s>",
        pad_token="<pad>", unk_token="<unk>", model_max_length=window - 2,
    )  # fmt: skip
