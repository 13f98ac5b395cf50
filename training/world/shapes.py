"""The configurations of the generated world's models, before any of them is trained."""

import tempfile
from pathlib import Path
from typing import Any

from training.world.texts import Prompt


def world_config(name: str, prompt: Prompt) -> Any:
    """Return the configuration that a model of the world will have.

    Args:
        name: its stage, such as `world:base`.
        prompt: the pipeline's wish for new queries, whose words the tokenizer has.
    """
    from transformers import AutoTokenizer

    from training.world.models import BASE, GENERAL, causal_config
    from training.world.relevance import WINDOW, encoder_config
    from training.world.tokenizer import save_policy_tokenizer, save_relevance_tokenizer

    with tempfile.TemporaryDirectory() as folder:
        if name == "world:bge-m3":
            save_relevance_tokenizer(Path(folder), WINDOW, prompt)
            return encoder_config(AutoTokenizer.from_pretrained(folder))
        save_policy_tokenizer(Path(folder), prompt)
        return causal_config(AutoTokenizer.from_pretrained(folder), *(BASE if name == "world:base" else GENERAL))
