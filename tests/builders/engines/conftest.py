"""Fixtures of the engines' tests."""

from pathlib import Path

import pytest
from tiny_models import make_tokenizer


@pytest.fixture(scope="session")
def inclined_dir(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model that likes to write </ and ", which end what a reply's form leaves open."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("inclined-model")
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model = AutoModelForCausalLM.from_pretrained(model_dir, tie_word_embeddings=False)
    with torch.no_grad():
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight * 0.1)
        # After the norm the first of 64 dimensions is about 8 at every token, so that both get a logit of 6.
        model.model.embed_tokens.weight[:, 0] = 20
        model.lm_head.weight[tokenizer.convert_tokens_to_ids(["</", '"']), 0] = 0.75
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


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
