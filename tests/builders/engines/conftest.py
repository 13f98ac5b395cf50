"""Fixtures of the engines' tests."""

from pathlib import Path

import pytest
from tiny_models import make_tokenizer


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2 with heads of 32 dimensions, the smallest that vLLM's CPU attention takes."""
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("vllm-model")
    make_tokenizer(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template += "{{ opening }}"  # empty where it is not given
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=512, initializer_range=0.15, tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    # A second end token, named in the generation settings only: a share of the sampled rows ends early.
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, *range(300, 306)]
    model.save_pretrained(folder)
    return folder
